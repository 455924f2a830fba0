//! Response bodies that give their connection back.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_balance::Backend;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::Shared;
use super::conn::poll_silence;
use super::upstream::Entry;
use crate::SendError;

/// A response's body as it comes from a backend.
///
/// When it has ended, its connection goes back to the pool. Dropped before, it closes the
/// connection: the rest of the body is still on it.
pub struct PooledBody<B> {
    body: Incoming,
    // Whether the last thing heard was "not yet": silence counts from there.
    waiting: bool,
    home: Option<Home<B>>,
}

struct Home<B> {
    entry: Entry<B>,
    backend: Arc<Backend>,
    shared: Arc<Shared<B>>,
}

impl<B> PooledBody<B> {
    pub(super) fn new(
        body: Incoming,
        entry: Entry<B>,
        backend: Arc<Backend>,
        shared: Arc<Shared<B>>,
    ) -> Self {
        Self { body, waiting: false, home: Some(Home { entry, backend, shared }) }
    }

    fn go_home(&mut self) {
        if let Some(Home { entry, backend, shared }) = self.home.take() {
            shared.give_back(&backend, entry);
        }
    }

    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<SendError> {
        let Some(Home { entry, .. }) = &mut self.home else { return Poll::Pending };
        if !self.waiting {
            self.waiting = true;
            // A reader that took its time must not count as the backend's silence.
            entry.silence.touch();
        }
        poll_silence(&mut entry.silence, &entry.link, cx)
            .map(|()| SendError::Timeout { limit: entry.silence.limit() })
    }
}

impl<B> Body for PooledBody<B> {
    type Data = Bytes;
    type Error = SendError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, SendError>>> {
        let this = self.get_mut();
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
            return this.poll_silent(cx).map(|error| {
                this.home = None;
                Some(Err(error))
            });
        };
        this.waiting = false;
        match &frame {
            Some(Err(_)) => this.home = None,
            Some(Ok(_)) if !this.body.is_end_stream() => {}
            _ => this.go_home(),
        }
        Poll::Ready(frame.map(|result| result.map_err(|e| SendError::Connection(e.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// Nothing in it is pinned: hyper's body is `Unpin`.
impl<B> Unpin for PooledBody<B> {}

/// A body that is empty from the start is never polled.
impl<B> Drop for PooledBody<B> {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.go_home();
        }
    }
}

impl<B> fmt::Debug for PooledBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBody").field("ended", &self.body.is_end_stream()).finish_non_exhaustive()
    }
}
