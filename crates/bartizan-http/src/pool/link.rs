//! What a request, its body and the stream know of one backend connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The shared state of one backend connection.
#[derive(Debug)]
pub(crate) struct Link {
    born: Instant,
    // Microseconds after `born`.
    last_io: AtomicU64,
    bytes_read: AtomicU64,
    waiting_for_client: AtomicBool,
    // Whether the request's body has failed, after which the connection takes no other one.
    client_failed: AtomicBool,
}

impl Link {
    pub(crate) fn new() -> Self {
        Self {
            born: Instant::now(),
            last_io: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            waiting_for_client: AtomicBool::new(false),
            client_failed: AtomicBool::new(false),
        }
    }

    /// When the backend last took or sent a byte.
    pub(crate) fn last_io(&self) -> Instant {
        self.born + Duration::from_micros(self.last_io.load(Ordering::Relaxed))
    }

    /// How many bytes the backend has sent in all.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Whether the backend cannot be expected to do anything, because the client's body is awaited.
    pub(crate) fn is_waiting_for_client(&self) -> bool {
        self.waiting_for_client.load(Ordering::Relaxed)
    }

    /// Whether the request's body could not be read to its end.
    pub(crate) fn client_failed(&self) -> bool {
        self.client_failed.load(Ordering::Relaxed)
    }

    fn note_io(&self) {
        self.last_io.store(self.born.elapsed().as_micros() as u64, Ordering::Relaxed);
    }
}

/// A backend's stream, with what happens on it noted in its [`Link`].
pub(crate) struct LinkIo<IO> {
    pub(crate) io: IO,
    pub(crate) link: Arc<Link>,
}

impl<IO: AsyncRead + Unpin> AsyncRead for LinkIo<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        if read > 0 {
            self.link.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
            self.link.note_io();
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for LinkIo<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.link.note_io();
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        self.link.note_io();
        Poll::Ready(Ok(written))
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

/// A request's body on its way to a backend, noting in the [`Link`] when the client is awaited.
pub(crate) struct Upload<B> {
    body: B,
    end: UploadEnd,
}

/// However an upload ends, nobody waits for the client after it.
struct UploadEnd(Arc<Link>);

impl Drop for UploadEnd {
    fn drop(&mut self) {
        self.0.waiting_for_client.store(false, Ordering::Relaxed);
    }
}

impl<B> Upload<B> {
    pub(crate) fn new(body: B, link: Arc<Link>) -> Self {
        Self { body, end: UploadEnd(link) }
    }

    pub(crate) fn into_body(self) -> B {
        self.body
    }
}

impl<B: Body + Unpin> Body for Upload<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.end.0.waiting_for_client.store(frame.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Some(Err(_))) = &frame {
            self.end.0.client_failed.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
