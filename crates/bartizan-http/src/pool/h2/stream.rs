//! What a request, its body and its answer know of their HTTP/2 stream.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_net::{BoxError, IdleTimer};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::Reason;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::kept::Kept;
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
    answered: AtomicBool,
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
            answered: AtomicBool::new(false),
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

    /// The head of the answer is there: the request will not be sent again.
    pub(crate) fn note_answer(&self) {
        self.answered.store(true, Ordering::Release);
    }

    /// Whether the backend has ended the connection, or it has failed, as far as it has been read.
    pub(crate) fn has_lost_connection(&self) -> bool {
        self.room.traffic().has_ended()
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

/// A request's body on its way to a backend. It goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct H2Upload<B> {
    kept: Option<Kept<B>>,
    back: Option<oneshot::Sender<Kept<B>>>,
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
    /// The upload, and where the body comes back.
    pub(crate) fn new(kept: Kept<B>, stream: Arc<Stream>) -> (Self, oneshot::Receiver<Kept<B>>) {
        let (back, returned) = oneshot::channel();
        (Self { kept: Some(kept), back: Some(back), end: UploadEnd(stream) }, returned)
    }
}

impl<B> Drop for H2Upload<B> {
    fn drop(&mut self) {
        if let Some((back, kept)) = self.back.take().zip(self.kept.take()) {
            // Mostly nobody wants it.
            drop(back.send(kept));
        }
    }
}

impl<B: Body<Error: Into<BoxError>> + Unpin> Body for H2Upload<B> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { kept: Some(kept), end, .. } = &mut *self else { return Poll::Ready(None) };
        let stream = &end.0;
        if stream.answered.load(Ordering::Acquire) {
            kept.forget();
        }
        let frame = kept.poll_frame(cx);
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
            let mut told = stream.client_error.lock().unwrap_or_else(PoisonError::into_inner);
            *told = Some(error);
            cancel()
        })
    }

    fn is_end_stream(&self) -> bool {
        self.kept.as_ref().is_none_or(Kept::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.kept.as_ref().map_or_else(|| SizeHint::with_exact(0), Kept::size_hint)
    }
}

/// hyper resets the stream with the reason that is in the body's error.
fn cancel() -> BoxError {
    h2::Error::from(Reason::CANCEL).into()
}
