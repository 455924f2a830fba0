//! Responses that are in flight until their end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bartizan_net::{BoxError, Relayed};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::passive::of_response;
use crate::{Lease, Outcome};

/// A response that [`Balance`](crate::Balance) can give back, and until when its pick is in flight.
pub trait Hold {
    /// The response with the lease in it.
    type Held;

    /// Whether it is there only when all is over. A backend then counts as having answered when it
    /// was dialled.
    const IS_THE_END: bool = false;

    /// Keeps `lease` until the response is over.
    fn hold(self, lease: Lease) -> Self::Held;

    /// What it says of the backend. Default: that it was dialled.
    fn outcome(&self) -> Outcome {
        Outcome::Dialled
    }
}

/// A tunnel that has ended is no longer in flight.
impl Hold for Relayed {
    type Held = Self;

    const IS_THE_END: bool = true;

    fn hold(self, _: Lease) -> Self {
        self
    }
}

/// A connection service answers when the connection is over, so its lease is over too.
impl Hold for () {
    type Held = ();

    const IS_THE_END: bool = true;

    fn hold(self, _: Lease) {}
}

/// A request is in flight until the end of the response's body.
impl<B: Body> Hold for Response<B> {
    type Held = Response<Leased<B>>;

    fn hold(self, lease: Lease) -> Self::Held {
        // Servers do not poll a body that has ended before it began.
        self.map(|body| Leased {
            lease: (!body.is_end_stream()).then_some(lease),
            body: Some(body),
        })
    }

    fn outcome(&self) -> Outcome {
        of_response(self)
    }
}

pin_project! {
    /// A body that holds a [`Lease`] until its end, its failure, or its drop.
    ///
    /// Its error is the body's own, boxed, or [`SessionEnded`](crate::SessionEnded) in the middle of
    /// it: then the body is dropped, and does not come to its end.
    #[derive(Debug)]
    pub struct Leased<B> {
        #[pin]
        body: Option<B>,
        lease: Option<Lease>,
    }
}

impl<B> Leased<B> {
    /// A body that holds nothing.
    pub fn free(body: B) -> Self {
        Self { body: Some(body), lease: None }
    }
}

impl<B: Body<Error: Into<BoxError>>> Body for Leased<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(body) = this.body.as_mut().as_pin_mut() else { return Poll::Ready(None) };
        let mut ended = this.lease.as_ref().and_then(Lease::ended);
        if ended.is_none() {
            match body.poll_frame(cx) {
                Poll::Ready(frame) => {
                    note(this.body.as_ref().as_pin_ref(), this.lease, &frame);
                    return Poll::Ready(frame.map(|result| result.map_err(Into::into)));
                }
                Poll::Pending => {
                    let Some(lease) = this.lease else { return Poll::Pending };
                    ended = Some(ready!(lease.poll_ended(cx)));
                }
            }
        }
        this.body.set(None);
        *this.lease = None;
        Poll::Ready(ended.map(|why| Err(why.into())))
    }

    fn is_end_stream(&self) -> bool {
        // One that was cut is not to look complete.
        self.body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

/// Ends the lease with the last frame: servers drop a body late, or only with the connection.
fn note<B: Body>(
    body: Option<Pin<&B>>,
    lease: &mut Option<Lease>,
    frame: &Option<Result<Frame<B::Data>, B::Error>>,
) {
    if matches!(frame, Some(Ok(_))) && !body.is_none_or(|body| body.is_end_stream()) {
        return;
    }
    if let (Some(lease), Some(Err(_))) = (&*lease, frame) {
        lease.report(|| Outcome::BrokenOff);
    }
    *lease = None;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;
    use crate::Backend;

    fn backend() -> Arc<Backend> {
        Arc::new(Backend::new("a", "127.0.0.1:1".parse().unwrap()))
    }

    #[tokio::test]
    async fn is_in_flight_until_the_last_frame() {
        let backend = backend();
        let response =
            Response::new(Full::new(&b"hello"[..])).hold(Lease::new(Arc::clone(&backend)));
        assert_eq!(backend.in_flight(), 1);
        let mut body = response.into_body();
        body.frame().await.unwrap().unwrap();
        assert_eq!(backend.in_flight(), 0, "the body has ended, though nobody dropped it");
    }

    #[tokio::test]
    async fn a_failed_or_dropped_body_is_not_in_flight() {
        let backend = backend();
        let fails = futures_util::stream::iter([Err::<Frame<&[u8]>, _>("broken")]);
        let mut body = Response::new(StreamBody::new(fails))
            .hold(Lease::new(Arc::clone(&backend)))
            .into_body();
        assert!(body.frame().await.unwrap().is_err());
        assert_eq!(backend.in_flight(), 0);
        drop(Response::new(Full::new(&b"hello"[..])).hold(Lease::new(Arc::clone(&backend))));
        assert_eq!(backend.in_flight(), 0);
    }
}
