//! How much an HTTP/2 connection carries, and how much it may.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_net::{BoxError, Validity};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::frames::{Announced, FrameReader};
use super::shared_error::SharedError;
use crate::SendError;

/// What the pool, the streams and the reader of one connection know of it together.
#[derive(Debug)]
pub(crate) struct Traffic {
    validity: Validity,
    born: Instant,
    active: AtomicU32,
    // Milliseconds after `born`.
    idle_since: AtomicU64,
    // What the backend has announced; more than any limit until then.
    limit: AtomicU64,
    // No new streams: the backend or the pool wants none.
    retired: AtomicBool,
    // How often something came.
    reads: AtomicU64,
    // Nothing is under way and nothing will be.
    over: AtomicBool,
    closed: AtomicBool,
    // The backend has closed its side, or the stream has failed.
    ended: AtomicBool,
    failed: OnceLock<SharedError>,
    // Who waits for the settings.
    settled: AtomicWaker,
    // The task that hands requests to the connection.
    driver: AtomicWaker,
}

impl Traffic {
    pub(crate) fn new(validity: Validity) -> Self {
        Self {
            validity,
            born: Instant::now(),
            active: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            limit: AtomicU64::new(UNKNOWN),
            retired: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            over: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            failed: OnceLock::new(),
            settled: AtomicWaker::new(),
            driver: AtomicWaker::new(),
        }
    }

    /// How many streams the backend takes at once, once it has said that.
    pub(crate) fn limit(&self) -> Option<u32> {
        u32::try_from(self.limit.load(Ordering::Acquire)).ok()
    }

    /// Whether it may have new streams, if there is room.
    pub(crate) fn is_usable(&self) -> bool {
        !self.retired.load(Ordering::Acquire)
            && !self.closed.load(Ordering::Acquire)
            && !self.validity.is_over()
    }

    /// Changes whenever the backend sends anything, on whichever stream.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Whether the backend has ended it, or it has failed, as far as it has been read.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How many streams more the backend takes.
    pub(crate) fn spare(&self) -> u32 {
        let limit = self.limit().unwrap_or(0);
        limit.saturating_sub(self.active.load(Ordering::Acquire))
    }

    /// How long it has had no streams, if it has none.
    pub(crate) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let idle = self.active.load(Ordering::Acquire) == 0;
        let since = Duration::from_millis(self.idle_since.load(Ordering::Acquire));
        idle.then(|| now.saturating_duration_since(self.born + since))
    }

    /// Takes room for a stream. Who asks must be alone in asking, or there may be too many.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Room> {
        (self.spare() > 0).then(|| {
            self.active.fetch_add(1, Ordering::AcqRel);
            Room(Arc::clone(self))
        })
    }

    /// No new streams; the connection closes when the last one ends.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.driver.wake();
    }

    /// Ready when the connection is to be closed. Not before its settings have come: what became
    /// invalid while it was dialled is told from what does not speak HTTP/2.
    pub(crate) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        self.driver.register(cx.waker());
        let settled = self.limit().is_some();
        let over = settled && self.active.load(Ordering::Acquire) == 0 && !self.is_usable();
        if !over {
            return Poll::Pending;
        }
        self.over.store(true, Ordering::Release);
        Poll::Ready(())
    }

    /// Ready with the backend's first settings.
    pub(crate) fn poll_settled(&self, cx: &Context<'_>) -> Poll<Result<(), SendError>> {
        self.settled.register(cx.waker());
        if self.limit().is_some() {
            return Poll::Ready(Ok(()));
        }
        if !self.closed.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let reason = self.failed.get().cloned().map_or_else(|| NO_SETTINGS.into(), BoxError::from);
        Poll::Ready(Err(SendError::Connection(reason)))
    }

    fn announced(&self, announced: Announced) {
        match announced {
            Announced::GoAway => self.retire(),
            Announced::Settings { max_streams: Some(limit) } => {
                self.limit.store(limit.into(), Ordering::Release);
            }
            // RFC 9113 §6.5.2: without it there is no limit, and later settings may leave it out.
            Announced::Settings { max_streams: None } if self.limit().is_none() => {
                self.limit.store(u32::MAX.into(), Ordering::Release);
            }
            Announced::Settings { .. } => {}
        }
        self.settled.wake();
        if !self.is_usable() {
            self.driver.wake();
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.settled.wake();
        self.driver.wake();
    }

    /// Waits with what is written, but no more when the connection is over: a backend that takes not
    /// even the goodbye will not miss it, and one that is gone would keep the connection for minutes.
    fn note_write<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.over.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.note(polled)
    }

    /// Keeps why the stream failed, which hyper tells nobody who has no request under way.
    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        polled.map_err(|error| {
            self.ended.store(true, Ordering::Release);
            let kind = error.kind();
            let error = SharedError::new(error);
            let _ = self.failed.set(error.clone());
            io::Error::new(kind, error)
        })
    }
}

/// Room for one stream of a connection, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room(Arc<Traffic>);

impl Room {
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.0
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let traffic = &self.0;
        let idle = traffic.born.elapsed().as_millis() as u64;
        traffic.idle_since.store(idle, Ordering::Release);
        if traffic.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            traffic.driver.wake();
        }
    }
}

/// A backend's stream of HTTP/2, with what it announces noted in its [`Traffic`].
#[derive(Debug)]
pub(crate) struct H2Io<IO> {
    io: IO,
    traffic: Arc<Traffic>,
    frames: FrameReader,
    // Polls to sit out after a GOAWAY: those whose streams it ends are to see it before the end of
    // the connection, which may come right behind it.
    pause: u8,
}

impl<IO> H2Io<IO> {
    pub(crate) fn new(io: IO, traffic: Arc<Traffic>) -> Self {
        Self { io, traffic, frames: FrameReader::default(), pause: 0 }
    }
}

/// hyper drops the stream when the connection is over, for whatever reason.
impl<IO> Drop for H2Io<IO> {
    fn drop(&mut self) {
        self.traffic.close();
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for H2Io<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, traffic, frames, pause } = &mut *self;
        if *pause > 0 {
            *pause -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        let polled = traffic.note(Pin::new(io).poll_read(cx, buf));
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            traffic.reads.fetch_add(1, Ordering::Relaxed);
            frames.read(read, |announced| {
                if announced == Announced::GoAway {
                    *pause = PAUSE;
                }
                traffic.announced(announced);
            });
        } else if room > 0 && matches!(polled, Poll::Ready(Ok(()))) {
            traffic.ended.store(true, Ordering::Release);
        }
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for H2Io<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.traffic.note_write(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.traffic.note_write(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        self.traffic.note_write(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(cx);
        self.traffic.note_write(polled)
    }
}

const UNKNOWN: u64 = u64::MAX;

/// A request hears of the end of its stream through a task of hyper's, and then looks at the connection.
const PAUSE: u8 = 4;

const NO_SETTINGS: &str = "the backend closed the connection before its HTTP/2 settings came; \
                           does it speak HTTP/2 there?";

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn settings(max_streams: u32) -> Vec<u8> {
        [&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3][..], &max_streams.to_be_bytes()].concat()
    }

    #[tokio::test]
    async fn a_limit_that_is_lowered_holds_from_then_on() {
        let traffic = Arc::new(Traffic::new(Validity::default()));
        assert!(traffic.take().is_none(), "nothing is known yet");
        let no_limit = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let mock = tokio_test::io::Builder::new()
            .read(&settings(3))
            .read(&settings(1))
            .read(&no_limit)
            .build();
        let mut io = H2Io::new(mock, Arc::clone(&traffic));
        io.read_exact(&mut [0; 15]).await.unwrap();
        let rooms = [traffic.take().unwrap(), traffic.take().unwrap()];
        assert_eq!(traffic.spare(), 1);
        io.read_exact(&mut [0; 15]).await.unwrap();
        assert!(traffic.take().is_none());
        let [first, second] = rooms;
        drop(first);
        assert!(traffic.take().is_none(), "one is still there");
        drop(second);
        io.read_exact(&mut [0; 9]).await.unwrap();
        assert_eq!((traffic.limit(), traffic.spare()), (Some(1), 1), "it does not say again");
    }

    #[tokio::test]
    async fn why_the_stream_failed_is_told_to_who_waits_for_settings() {
        let traffic = Arc::new(Traffic::new(Validity::default()));
        let error =
            io::Error::new(io::ErrorKind::InvalidData, SharedError::new(SendError::Connect));
        let mock = tokio_test::io::Builder::new().read_error(error).build();
        let mut io = H2Io::new(mock, Arc::clone(&traffic));
        assert_eq!(io.read_u8().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(io);
        let mut task = tokio_test::task::spawn(());
        let Poll::Ready(Err(error)) = task.enter(|cx, _| traffic.poll_settled(cx)) else {
            panic!("it is closed")
        };
        assert_eq!(crate::status_of(&error), 405, "what is behind it is seen: {error:?}");
    }
}
