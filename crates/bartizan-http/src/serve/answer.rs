//! From hyper's service to tower's, and from errors to answers.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bartizan_net::BoxError;
use http::header::{CONNECTION, HeaderValue};
use http::{Method, Request, Response};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::{Reply, RequestBody};
use super::state::{InFlight, State};
use crate::status_of;
use crate::text_or::TextOr;

/// Calls a clone of the request service for each request of one connection.
#[derive(Debug)]
pub(super) struct Adapter<S> {
    pub(super) service: S,
    pub(super) state: Arc<State>,
    pub(super) client_timeout: Duration,
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Adapter<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = Response<Reply<B>>;
    type Error = Infallible;
    type Future = Answer<S>;

    fn call(&self, request: Request<Incoming>) -> Answer<S> {
        let in_flight = InFlight::new(Arc::clone(&self.state));
        let mut request =
            request.map(|body| RequestBody::new(body, self.client_timeout, &self.state));
        request.extensions_mut().insert(Arc::clone(&self.state.info));
        let head = request.method() == Method::HEAD;
        let step = Step::Ready { call: Some((self.service.clone(), request)) };
        Answer { step, head, in_flight: Some(in_flight) }
    }
}

pin_project! {
    /// Resolves to the answer for one request, whatever happens.
    #[must_use = "futures do nothing unless polled"]
    pub struct Answer<S>
    where
        S: Service<Request<RequestBody>>,
    {
        #[pin]
        step: Step<S, S::Future>,
        head: bool,
        in_flight: Option<InFlight>,
    }
}

pin_project! {
    #[project = StepProj]
    enum Step<S, F> {
        Ready { call: Option<(S, Request<RequestBody>)> },
        Call { #[pin] response: F },
    }
}

impl<S: Service<Request<RequestBody>>> fmt::Debug for Answer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

impl<S, B> Future for Answer<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<Reply<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let result = match this.step.as_mut().project() {
                StepProj::Ready { call } => {
                    let (service, _) =
                        call.as_mut().expect("taken in the step that leaves this state");
                    match ready!(service.poll_ready(cx)) {
                        Ok(()) => {
                            let (mut service, request) = call.take().expect("just seen");
                            let response = service.call(request);
                            this.step.set(Step::Call { response });
                            continue;
                        }
                        Err(error) => Err(error),
                    }
                }
                StepProj::Call { response } => ready!(response.poll(cx)),
            };
            let in_flight = this.in_flight.take().expect("polled after it was ready");
            return Poll::Ready(Ok(answer(result, *this.head, in_flight)));
        }
    }
}

fn answer<B, E: Into<BoxError>>(
    result: Result<Response<B>, E>,
    head: bool,
    in_flight: InFlight,
) -> Response<Reply<B>> {
    let closing = in_flight.state().is_draining() && !in_flight.state().h2;
    let mut response = match result {
        Ok(response) => response.map(|body| Reply::new(TextOr::service(body), in_flight)),
        Err(error) => apology(error.into(), head, in_flight),
    };
    if closing {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An answer that says that something failed, but not what: that goes to the log.
fn apology<B>(error: BoxError, head: bool, in_flight: InFlight) -> Response<Reply<B>> {
    let status = status_of(&*error);
    tracing::info!(
        peer = %in_flight.state().info.peer(), status = status.as_u16(),
        error = %bartizan_net::ErrorChain(&*error), "request failed"
    );
    TextOr::answer(status, head).map(|body| Reply::new(body, in_flight))
}
