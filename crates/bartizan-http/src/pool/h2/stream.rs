//! What a request, its body and its answer know of their HTTP/2 stream.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_net::{BoxError, IdleTimer};
use futures_util::task::AtomicWaker;
use h2::Reason;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::traffic::Room;

/// The shared state of one stream. While it lives, the stream counts.
#[derive(Debug)]
pub(crate) struct Stream {
    born: Instant,
    // Microseconds after `born`.
    last_taken: AtomicU64,
    waiting_for_client: AtomicBool,
    uploaded: AtomicBool,
    abandoned: AtomicBool,
    upload: AtomicWaker,
    client_error: Mutex<Option<BoxError>>,
    // The connection's reads when the wait began.
    reads: AtomicU64,
    room: Room,
}

impl Stream {
    pub(crate) fn new(room: Room) -> Self {
        Self {
            born: Instant::now(),
            last_taken: AtomicU64::new(0),
            waiting_for_client: AtomicBool::new(false),
            uploaded: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            upload: AtomicWaker::new(),
            client_error: Mutex::new(None),
            reads: AtomicU64::new(room.traffic().reads()),
            room,
        }
    }

    /// Whether the request's body is over, in whatever way.
    pub(crate) fn is_uploaded(&self) -> bool {
        self.uploaded.load(Ordering::Acquire)
    }

    /// Why the client's body broke off, if it did.
    pub(crate) fn take_client_error(&self) -> Option<BoxError> {
        self.client_error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Nobody wants the answer any more: what is left of the upload is not sent. Otherwise hyper
    /// would keep the stream for as long as there is a body to send.
    pub(crate) fn abandon(&self) {
        if !self.is_uploaded() {
            self.abandoned.store(true, Ordering::Release);
            self.upload.wake();
        }
    }

    /// The backend is waited for from now on.
    pub(crate) fn begin_wait(&self) {
        self.reads.store(self.room.traffic().reads(), Ordering::Relaxed);
    }

    /// The wait was in vain. If all that time nothing came on any stream, the backend may be gone
    /// without a word, and its connection must not get request after request.
    pub(crate) fn give_up(&self) {
        let traffic = self.room.traffic();
        if traffic.reads() == self.reads.load(Ordering::Relaxed) {
            traffic.retire();
        }
    }

    /// Expires when the backend was silent for too long, not counting waits for the client.
    pub(crate) fn poll_silence(&self, silence: &mut IdleTimer, cx: &mut Context<'_>) -> Poll<()> {
        while silence.poll_expired(cx).is_ready() {
            let now = Instant::now();
            let waiting = self.waiting_for_client.load(Ordering::Acquire);
            let taken = Duration::from_micros(self.last_taken.load(Ordering::Acquire));
            let due = if waiting { now } else { self.born + taken } + silence.limit();
            if due <= now {
                return Poll::Ready(());
            }
            silence.expire_at(due);
        }
        Poll::Pending
    }
}

/// A request's body on its way to a backend.
#[derive(Debug)]
pub(crate) struct H2Upload<B> {
    body: B,
    end: UploadEnd,
}

/// However an upload ends, nobody waits for the client after it.
#[derive(Debug)]
struct UploadEnd(Arc<Stream>);

impl Drop for UploadEnd {
    fn drop(&mut self) {
        self.0.waiting_for_client.store(false, Ordering::Release);
        self.0.uploaded.store(true, Ordering::Release);
    }
}

impl<B> H2Upload<B> {
    pub(crate) fn new(body: B, stream: Arc<Stream>) -> Self {
        Self { body, end: UploadEnd(stream) }
    }

    pub(crate) fn into_body(self) -> B {
        self.body
    }
}

impl<B: Body<Error: Into<BoxError>> + Unpin> Body for H2Upload<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let stream = &self.end.0;
        stream.waiting_for_client.store(frame.is_pending(), Ordering::Release);
        if frame.is_pending() {
            stream.upload.register(cx.waker());
        } else {
            // A frame is asked for when the one before has been taken.
            let taken = stream.born.elapsed().as_micros() as u64;
            stream.last_taken.store(taken, Ordering::Release);
        }
        if stream.abandoned.load(Ordering::Acquire) {
            return Poll::Ready(Some(Err(cancel())));
        }
        frame.map_err(|error| {
            let mut kept = stream.client_error.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(error.into());
            cancel()
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// hyper resets the stream with the reason that is in the body's error.
fn cancel() -> BoxError {
    h2::Error::from(Reason::CANCEL).into()
}
