//! A stream whose first bytes have been read already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that gives bytes which somebody has read off it once more, and then goes on.
///
/// What looks at the beginning of a connection, for a ClientHello or a PROXY header, has to leave
/// it to whoever comes next.
#[derive(Debug)]
pub struct Replay<IO> {
    read: Bytes,
    io: IO,
}

impl<IO> Replay<IO> {
    /// Gives `read` before anything else that `io` has.
    pub fn new(read: impl Into<Bytes>, io: IO) -> Self {
        Self { read: read.into(), io }
    }

    /// What is still to be given again.
    pub fn buffered(&self) -> &[u8] {
        &self.read
    }

    /// The stream itself.
    pub fn io(&self) -> &IO {
        &self.io
    }

    /// What is still to be given again, and the stream itself.
    pub fn into_parts(self) -> (Bytes, IO) {
        (self.read, self.io)
    }
}

impl<IO> Replay<Replay<IO>> {
    /// One in place of two, which layers that look at a connection one after the other leave.
    pub fn flatten(self) -> Replay<IO> {
        let Replay { read: inner, io } = self.io;
        if self.read.is_empty() {
            return Replay { read: inner, io };
        }
        if inner.is_empty() {
            return Replay { read: self.read, io };
        }
        Replay { read: [self.read, inner].concat().into(), io }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Replay<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..n]);
        self.read.advance(n);
        if self.read.is_empty() {
            // The buffer itself may be large, and the connection may live long.
            self.read = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Replay<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_first_in_pieces_as_small_as_asked_for() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b" world").await.unwrap();
        theirs.shutdown().await.unwrap();
        let mut replay = Replay::new(&b"hello"[..], ours);
        let mut start = [0; 2];
        replay.read_exact(&mut start).await.unwrap();
        assert_eq!((&start, replay.buffered()), (b"he", &b"llo"[..]));
        let mut rest = String::new();
        replay.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "llo world");
        assert!(replay.buffered().is_empty());
    }

    #[test]
    fn two_become_one() {
        for (outer, inner, both) in [("a", "b", "ab"), ("", "b", "b"), ("a", "", "a")] {
            let replay = Replay::new(outer, Replay::new(inner, ())).flatten();
            assert_eq!(replay.buffered(), both.as_bytes());
        }
    }

    #[tokio::test]
    async fn nothing_to_replay_is_no_end() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(b"x").await.unwrap();
        let mut replay = Replay::new(Bytes::new(), ours);
        assert_eq!(replay.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn writes_go_to_the_stream() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut replay = Replay::new(&b"hello"[..], ours);
        replay.write_all(b"back").await.unwrap();
        replay.shutdown().await.unwrap();
        let mut got = String::new();
        theirs.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "back");
        assert_eq!(replay.buffered(), b"hello");
    }
}
