//! Response bodies that give their connection back.

use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::conn::Home;
use super::h2::SharedAnswer;
use super::upstream::Entry;
use crate::SendError;

/// A response's body as it comes from a backend.
///
/// When it has ended, its connection goes back to the pool. Dropped before, it closes the
/// connection: the rest of the body is still on it. In HTTP/2 it resets its stream instead.
pub struct PooledBody<B> {
    body: Incoming,
    // Whether the last thing heard was "not yet": silence counts from there.
    waiting: bool,
    source: Source<B>,
}

enum Source<B> {
    /// An HTTP/1.1 connection, which is the request's alone.
    Own(Box<Entry<B>>, Home<B>),
    /// A stream of an HTTP/2 connection.
    Shared(Box<SharedAnswer>),
    /// The body is over, in whatever way.
    Gone,
}

impl<B> PooledBody<B> {
    pub(super) fn own(body: Incoming, entry: Box<Entry<B>>, home: Home<B>) -> Self {
        Self { body, waiting: false, source: Source::Own(entry, home) }
    }

    pub(super) fn shared(body: Incoming, answer: Box<SharedAnswer>) -> Self {
        Self { body, waiting: false, source: Source::Shared(answer) }
    }

    /// Gives the connection back at the end of the body.
    ///
    /// An answer may be over before the request is: then the connection is of no more use, but it
    /// holds the rest of the request's body. That must not go before the server has written the
    /// end of the answer, or an HTTP/2 client would see its stream reset in the middle.
    fn go_home(&mut self) {
        self.source = match mem::replace(&mut self.source, Source::Gone) {
            Source::Own(entry, home) => match home.take_back(entry) {
                Some(busy) => Source::Own(busy, home),
                None => Source::Gone,
            },
            Source::Shared(answer) if answer.is_uploading() => Source::Shared(answer),
            _ => Source::Gone,
        };
    }

    /// What has come already, else what the connection brings now.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self { body, source, .. } = self;
        match source {
            Source::Own(entry, _) => entry.poll_with(cx, |cx| Pin::new(&mut *body).poll_frame(cx)),
            _ => Pin::new(body).poll_frame(cx),
        }
    }

    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<SendError> {
        // A reader that took its time must not count as the backend's silence.
        let begins = !mem::replace(&mut self.waiting, true);
        match &mut self.source {
            Source::Own(entry, _) => {
                if begins {
                    entry.silence.touch();
                }
                let limit = entry.silence.limit();
                entry.poll_silence(cx).map(|()| SendError::Timeout { limit })
            }
            Source::Shared(answer) => {
                if begins {
                    answer.touch();
                }
                answer.poll_silence(cx)
            }
            Source::Gone => Poll::Pending,
        }
    }

    /// Whether the body that is over has not come to its end.
    ///
    /// A stream that is reset with `NO_ERROR` is over for hyper, as it should be after an answer to
    /// half a request (RFC 9113 §8.1). In the middle of an answer it is not.
    fn is_cut(&self) -> bool {
        matches!(self.source, Source::Shared(_)) && !self.body.is_end_stream()
    }

    /// The body has failed. A stream is reset by dropping the body, and counts until then.
    fn fail(&mut self, error: hyper::Error) -> SendError {
        match &self.source {
            Source::Shared(answer) => answer.explain(error),
            _ => {
                self.source = Source::Gone;
                SendError::Connection(error.into())
            }
        }
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
                if let Source::Own(..) = this.source {
                    this.source = Source::Gone;
                }
                Some(Err(error))
            });
        };
        this.waiting = false;
        match &frame {
            Some(Err(_)) => {}
            None if this.is_cut() => {
                return Poll::Ready(Some(Err(SendError::Connection(CUT.into()))));
            }
            Some(Ok(_)) if !this.body.is_end_stream() => {}
            _ => this.go_home(),
        }
        Poll::Ready(frame.map(|result| result.map_err(|error| this.fail(error))))
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

const CUT: &str = "the backend reset the stream in the middle of its answer";
