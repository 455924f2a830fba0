//! Bodies of requests and responses, as the server sees them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_net::IdleTimer;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::state::{InFlight, State};
use crate::ClientBodyError;
use crate::text_or::TextOr;

/// A request's body as it comes from a client. Its default is the empty body.
///
/// Reading it fails when the client is silent for too long while it is awaited. Not read, it does
/// not come: backpressure reaches the client.
#[derive(Default)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    // Boxed: most requests have no body, and all are moved around.
    watch: Option<Box<Watch>>,
    // What this process has to say itself, as a probe has.
    whole: Option<Box<Bytes>>,
}

struct Watch {
    idle: IdleTimer,
    waiting: bool,
    ended: bool,
    state: Arc<State>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.ended {
            self.state.note_unread();
        }
    }
}

impl Watch {
    fn poll_silent(&mut self, cx: &mut Context<'_>) -> Poll<ClientBodyError> {
        if !self.waiting {
            self.waiting = true;
            self.idle.touch();
        }
        self.idle.poll_expired(cx).map(|()| ClientBodyError::Timeout { limit: self.idle.limit() })
    }
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, idle: Duration, state: &Arc<State>) -> Self {
        if incoming.is_end_stream() {
            return Self::default();
        }
        let idle = IdleTimer::new(idle);
        let watch = Watch { idle, waiting: false, ended: false, state: Arc::clone(state) };
        Self { incoming: Some(incoming), watch: Some(Box::new(watch)), whole: None }
    }
}

/// hyper's body, without a limit on time.
impl From<Incoming> for RequestBody {
    fn from(incoming: Incoming) -> Self {
        Self { incoming: Some(incoming), watch: None, whole: None }
    }
}

/// A body that is known from the start, which no client has sent.
impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        let whole = (!bytes.is_empty()).then(|| Box::new(bytes));
        Self { incoming: None, watch: None, whole }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        let this = self.get_mut();
        let Some(incoming) = &mut this.incoming else {
            return Poll::Ready(this.whole.take().map(|bytes| Ok(Frame::data(*bytes))));
        };
        let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) else {
            let Some(watch) = &mut this.watch else { return Poll::Pending };
            return watch.poll_silent(cx).map(|error| {
                (this.incoming, this.watch) = (None, None);
                Some(Err(error))
            });
        };
        if let Some(watch) = &mut this.watch {
            watch.waiting = false;
            watch.ended = incoming.is_end_stream() || frame.is_none();
        }
        Poll::Ready(frame.map(|result| result.map_err(|e| ClientBodyError::Broken(e.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_none() && self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let whole = self.whole.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(whole), Body::size_hint)
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("ended", &self.is_end_stream()).finish_non_exhaustive()
    }
}

pin_project! {
    /// A response's body on its way to a client: the service's, or a short text of our own.
    #[derive(Debug)]
    pub struct Reply<B> {
        #[pin]
        body: TextOr<B>,
        in_flight: InFlight,
    }
}

impl<B> Reply<B> {
    pub(super) fn new(body: TextOr<B>, in_flight: InFlight) -> Self {
        Self { body, in_flight }
    }
}

impl<B: Body<Data = Bytes>> Body for Reply<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = this.body.as_mut().poll_frame(cx);
        let more = matches!(&frame, Poll::Ready(Some(Ok(_)))) && !this.body.is_end_stream();
        this.in_flight.note_blocked(more);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
