//! Asking a backend whether it works.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bartizan_net::BoxError;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{Backend, Verdict};

/// A probe out of a dial service: what can be dialled passes.
///
/// What was dialled is closed again at once. Over `TcpDial` this is HAProxy's `check`; over a stack
/// with TLS in it, the handshake is part of the check. A backend whose dial fails with
/// [`WrongIdentity`](bartizan_net::WrongIdentity) behind the error is [`Verdict::Unfit`].
#[derive(Clone, Debug)]
pub struct DialProbe<D> {
    dial: D,
    // Why the dial service's `poll_ready` failed: it must not be called then.
    broken: Option<Verdict>,
}

impl<D> DialProbe<D> {
    /// Probes by dialling with `dial`.
    pub fn new(dial: D) -> Self {
        Self { dial, broken: None }
    }
}

impl<D> Service<Arc<Backend>> for DialProbe<D>
where
    D: Service<Arc<Backend>>,
    D::Error: Into<BoxError>,
{
    type Response = Verdict;
    type Error = Infallible;
    type Future = ProbeFuture<D::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let ready = ready!(self.dial.poll_ready(cx));
        self.broken = ready.err().map(|error| Verdict::of_error(&*error.into()));
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        match self.broken.take() {
            Some(verdict) => ProbeFuture { dial: None, broken: Some(verdict) },
            None => ProbeFuture { dial: Some(self.dial.call(backend)), broken: None },
        }
    }
}

pin_project! {
    /// Resolves to the verdict of a [`DialProbe`].
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct ProbeFuture<F> {
        #[pin]
        dial: Option<F>,
        broken: Option<Verdict>,
    }
}

impl<F, T, E> Future for ProbeFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Verdict, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let verdict = match this.dial.as_pin_mut() {
            Some(dial) => match ready!(dial.poll(cx)) {
                Ok(_) => Verdict::Pass,
                Err(error) => Verdict::of_error(&*error.into()),
            },
            None => this.broken.take().unwrap_or_else(|| Verdict::fail("polled after its end")),
        };
        Poll::Ready(Ok(verdict))
    }
}
