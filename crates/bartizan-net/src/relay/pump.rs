//! One direction of a relay.
//!
//! ```text
//! ## Begin => Copy        what comes first is there, with what the reader has sent already
//! ## Copy => Shut         the reader has ended or failed, and all before it is written
//! ## Shut => Over         the end is passed on
//! ## Copy => Discard      the writer has failed: what the reader sends is thrown away
//! ## Discard => Over      the reader has ended or failed
//! ```

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::failed::Failed;
use super::scratch::with_scratch;
use super::splice::{Moved, Splicer, socket};

#[derive(Debug)]
pub(super) struct Pump {
    state: State,
    // What was read and could not be written yet; of this the first `own` are not the reader's.
    held: Bytes,
    own: usize,
    read_ended: bool,
    unflushed: bool,
    splicer: Splicer,
    moved: u64,
    passed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Begin,
    Copy,
    Shut,
    Discard,
    Over,
}

/// What has come of a round of copying.
#[derive(Debug)]
pub(super) enum Flow {
    Going,
    ReadFailed(io::Error),
    WriteFailed(io::Error),
}

impl Pump {
    pub(super) fn new() -> Self {
        Self::starting_with(Bytes::new())
    }

    pub(super) fn starting_with(first: Bytes) -> Self {
        Self {
            state: if first.is_empty() { State::Copy } else { State::Begin },
            own: first.len(),
            held: first,
            read_ended: false,
            unflushed: false,
            splicer: Splicer::default(),
            moved: 0,
            passed: 0,
        }
    }

    /// Bytes of the reader's that the writer has taken.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Grows with every byte that is read or written.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    pub(super) fn discards(&self) -> bool {
        self.state == State::Discard
    }

    /// The writer is gone: from now on, what the reader sends is thrown away.
    pub(super) fn discard(&mut self) {
        self.held = Bytes::new();
        self.splicer = Splicer::default();
        self.state = match self.state {
            State::Begin | State::Copy if !self.read_ended => State::Discard,
            State::Discard => State::Discard,
            _ => State::Over,
        };
    }

    /// Goes on until one of the two has to be waited for.
    pub(super) fn poll<R, W>(&mut self, from: &mut R, to: &mut W, cx: &mut Context<'_>) -> Flow
    where
        R: AsyncRead + Unpin + 'static,
        W: AsyncWrite + Unpin + 'static,
    {
        match self.poll_on(from, to, cx) {
            Poll::Pending | Poll::Ready(Ok(())) => Flow::Going,
            Poll::Ready(Err(Failed::Read(error))) => {
                // What was read before is the writer's all the same.
                self.read_ended = true;
                match self.poll_on(from, to, cx) {
                    Poll::Ready(Err(_)) => self.state = State::Over,
                    Poll::Pending | Poll::Ready(Ok(())) => {}
                }
                Flow::ReadFailed(error)
            }
            Poll::Ready(Err(Failed::Write(error))) => {
                self.discard();
                // To find out how far the reader is, or to be woken by it.
                let _ = self.poll_on(from, to, cx);
                Flow::WriteFailed(error)
            }
        }
    }

    fn poll_on<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin + 'static,
        W: AsyncWrite + Unpin + 'static,
    {
        for _ in 0..ROUNDS {
            match self.state {
                State::Begin => self.begin(from, cx)?,
                State::Copy => ready!(self.poll_copy(from, to, cx))?,
                State::Shut => {
                    // Fails when the writer is gone, which its own direction tells.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.state = State::Over;
                }
                State::Discard => ready!(self.poll_discard(from, cx)),
                State::Over => return Poll::Ready(Ok(())),
            }
        }
        // Others have to run, too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Puts what the reader has sent already behind what comes first, to be written as one.
    fn begin<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        cx: &mut Context<'_>,
    ) -> Result<(), Failed> {
        self.state = State::Copy;
        let read = with_scratch(|buffer| {
            ready!(Pin::new(from).poll_read(cx, buffer))?;
            Poll::Ready(Ok::<_, io::Error>(Bytes::copy_from_slice(buffer.filled())))
        });
        let Poll::Ready(read) = read else { return Ok(()) };
        let read = read.map_err(Failed::Read)?;
        self.read_ended = read.is_empty();
        self.moved += read.len() as u64;
        let mut both = BytesMut::with_capacity(self.held.len() + read.len());
        both.extend_from_slice(&self.held);
        both.extend_from_slice(&read);
        self.held = both.freeze();
        Ok(())
    }

    /// Writes what is held, then reads once and writes what it can of that.
    fn poll_copy<R, W>(
        &mut self,
        from: &mut R,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin + 'static,
        W: AsyncWrite + Unpin + 'static,
    {
        ready!(self.poll_held(to, cx)).map_err(Failed::Write)?;
        if self.read_ended && self.splicer.is_empty() {
            self.state = State::Shut;
            return Poll::Ready(Ok(()));
        }
        if self.splicer.is_on()
            && let (Some(from), Some(to)) = (socket(from), socket(to))
        {
            return self.poll_splice(from, to, cx);
        }
        let copied = with_scratch(|buffer| {
            ready!(Pin::new(from).poll_read(cx, buffer)).map_err(Failed::Read)?;
            let read = buffer.filled();
            self.read_ended = read.is_empty();
            self.moved += read.len() as u64;
            self.splicer.note_copied(read.len());
            Poll::Ready(self.write(read, to, cx).map_err(Failed::Write))
        });
        if copied.is_pending() {
            self.poll_flush(to, cx).map_err(Failed::Write)?;
        }
        copied
    }

    fn poll_splice(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failed>> {
        match ready!(self.splicer.poll_step(from, to, cx))? {
            Some(Moved::Read(n)) => self.moved += n as u64,
            Some(Moved::Written(n)) => self.wrote(n),
            Some(Moved::End) => self.read_ended = true,
            None => {}
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what `to` takes of `read`, and holds the rest.
    fn write<W: AsyncWrite + Unpin>(
        &mut self,
        mut read: &[u8],
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        while !read.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, read) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    self.wrote(n);
                    read = &read[n..];
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {
                    self.held = Bytes::copy_from_slice(read);
                    break;
                }
            }
        }
        Ok(())
    }

    fn poll_held<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.held))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => {
                    self.held.advance(n);
                    self.wrote(n);
                }
            }
        }
        // An empty rest would keep all of its memory.
        self.held = Bytes::new();
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, n: usize) {
        let own = self.own.min(n);
        self.own -= own;
        self.passed += (n - own) as u64;
        self.moved += n as u64;
        self.unflushed = true;
    }

    /// Only when there is nothing more to write for now: a flush of TLS is a record.
    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        to: &mut W,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        if self.unflushed
            && let Poll::Ready(flushed) = Pin::new(to).poll_flush(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(())
    }

    fn poll_discard<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let more = ready!(with_scratch(|buffer| {
            let read = ready!(Pin::new(from).poll_read(cx, buffer));
            Poll::Ready(read.is_ok() && !buffer.filled().is_empty())
        }));
        if !more {
            self.state = State::Over;
        }
        Poll::Ready(())
    }
}

/// Some megabytes, which take a millisecond or two: then it is the turn of other connections. A round
/// is a read and a write, and both directions go round, which is just what tokio lets a task do at
/// once: with more, the one that is polled first would leave nothing for the other one.
const ROUNDS: usize = 32;
