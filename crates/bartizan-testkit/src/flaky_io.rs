//! Transports that do what the network does on a bad day, in the same order every time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Passes at most `n` bytes per call, and is pending every other call.
///
/// Each of reading, writing, flushing and shutting down is pending the first time it is called and
/// wakes its task at once, then goes through, and so on. Code that takes a partial write for a
/// whole one, that loses its place when it is pending, or that parses a frame only when it comes in
/// one piece, fails over this.
#[derive(Debug)]
pub struct Trickle<IO> {
    io: IO,
    n: usize,
    read: Turn,
    write: Turn,
    flush: Turn,
    shutdown: Turn,
}

impl<IO> Trickle<IO> {
    /// Wraps `io` so that at most `n` bytes pass per call.
    ///
    /// # Panics
    ///
    /// If `n` is zero: a read of zero bytes would pass for the end of the stream.
    pub fn new(io: IO, n: usize) -> Self {
        assert!(n > 0, "a trickle of zero bytes never ends");
        Self {
            io,
            n,
            read: Turn::default(),
            write: Turn::default(),
            flush: Turn::default(),
            shutdown: Turn::default(),
        }
    }

    /// Gives the transport back.
    pub fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Trickle<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.read.poll_turn(cx));
        poll_read_at_most(&mut this.io, cx, buf, this.n).map_ok(drop)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Trickle<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.write.poll_turn(cx));
        Pin::new(&mut this.io).poll_write(cx, &buf[..this.n.min(buf.len())])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.flush.poll_turn(cx));
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.shutdown.poll_turn(cx));
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

/// Passes so many bytes, then fails every call in that direction with `ConnectionReset`.
///
/// The bytes before the failure all pass, so the failure can be put at any byte of a protocol.
/// Directions are counted apart.
#[derive(Debug)]
pub struct FailAfter<IO> {
    io: IO,
    /// `None`: this direction never fails.
    read_left: Option<usize>,
    write_left: Option<usize>,
}

impl<IO> FailAfter<IO> {
    /// Fails each direction once `n` bytes have passed in it.
    pub fn new(io: IO, n: usize) -> Self {
        Self { io, read_left: Some(n), write_left: Some(n) }
    }

    /// Fails reading after `n` bytes. Writing works.
    pub fn reading(io: IO, n: usize) -> Self {
        Self { io, read_left: Some(n), write_left: None }
    }

    /// Fails writing, flushing and shutting down after `n` bytes. Reading works.
    pub fn writing(io: IO, n: usize) -> Self {
        Self { io, read_left: None, write_left: Some(n) }
    }

    /// Gives the transport back.
    pub fn into_inner(self) -> IO {
        self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for FailAfter<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(left) = &mut this.read_left else {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        };
        check(*left)?;
        *left -= ready!(poll_read_at_most(&mut this.io, cx, buf, *left))?;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for FailAfter<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let Some(left) = &mut this.write_left else {
            return Pin::new(&mut this.io).poll_write(cx, buf);
        };
        check(*left)?;
        let part = &buf[..buf.len().min(*left)];
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, part))?;
        *left -= written;
        Poll::Ready(Ok(written))
    }

    // Fails too: bytes that were taken but never flushed are lost, and a caller who only looks at
    // the result of the flush has to learn of it.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        check(this.write_left.unwrap_or(usize::MAX))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        check(this.write_left.unwrap_or(usize::MAX))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

/// Whose turn it is: pending first, then through.
#[derive(Debug, Default)]
struct Turn {
    through: bool,
}

impl Turn {
    fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.through = !self.through;
        if self.through {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

/// Reads no more than `n` bytes into `buf` and returns how many.
fn poll_read_at_most<IO: AsyncRead + Unpin>(
    io: &mut IO,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
    n: usize,
) -> Poll<io::Result<usize>> {
    let mut part = ReadBuf::new(buf.initialize_unfilled_to(n.min(buf.remaining())));
    ready!(Pin::new(io).poll_read(cx, &mut part))?;
    let read = part.filled().len();
    buf.advance(read);
    Poll::Ready(Ok(read))
}

fn check(left: usize) -> io::Result<()> {
    if left == 0 {
        return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the test's transport failed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
