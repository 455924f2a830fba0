//! Response bodies that give their connection back.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::conn::Home;
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
    // Gone when the body is over, in whatever way.
    source: Option<(Box<Entry<B>>, Home<B>)>,
}

impl<B> PooledBody<B> {
    pub(super) fn new(body: Incoming, entry: Box<Entry<B>>, home: Home<B>) -> Self {
        Self { body, waiting: false, source: Some((entry, home)) }
    }

    /// Gives the connection back at the end of the body.
    ///
    /// An answer may be over before the request is: then the connection is of no more use, but it
    /// holds the rest of the request's body. That must not go before the server has written the
    /// end of the answer, or an HTTP/2 client would see its stream reset in the middle.
    fn go_home(&mut self) {
        if let Some((entry, home)) = self.source.take() {
            self.source = home.take_back(entry).map(|busy| (busy, home));
        }
    }

    /// What has come already, else what the connection brings now.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, source, .. } = self;
        match source {
            Some((entry, _)) => entry.poll_with(cx, |cx| Pin::new(&mut *body).poll_frame(cx)),
            None => Pin::new(body).poll_frame(cx),
        }
    }

    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<SendError> {
        let Some((entry, _)) = &mut self.source else { return Poll::Pending };
        if !self.waiting {
            self.waiting = true;
            // A reader that took its time must not count as the backend's silence.
            entry.silence.touch();
        }
        let limit = entry.silence.limit();
        entry.poll_silence(cx).map(|()| SendError::Timeout { limit })
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
        let Poll::Ready(frame) = this.poll_body(cx) else {
            return this.poll_silent(cx).map(|error| {
                this.source = None;
                Some(Err(error))
            });
        };
        this.waiting = false;
        match &frame {
            Some(Err(_)) => this.source = None,
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
        f.debug_struct("PooledBody")
            .field("ended", &self.body.is_end_stream())
            .finish_non_exhaustive()
    }
}
