//! Whether a backend can be dialled.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bartizan_net::BoxError;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::dialler::Dialler;
use crate::{Backend, Verdict};

/// A probe out of a dial service: what can be dialled passes.
///
/// What was dialled is closed again at once. Over `TcpDial` this is HAProxy's `check`; over a stack
/// with TLS in it, the handshake is part of the check. A backend whose dial fails with
/// [`WrongIdentity`](bartizan_net::WrongIdentity) behind the error is [`Verdict::Unfit`].
#[derive(Clone, Debug)]
pub struct DialProbe<D> {
    dial: Dialler<D>,
}

impl<D> DialProbe<D> {
    /// Probes by dialling with `dial`.
    pub fn new(dial: D) -> Self {
        Self { dial: Dialler::new(dial) }
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
        self.dial.poll_ready(cx).map(Ok)
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        match self.dial.call(backend) {
            Ok(dial) => ProbeFuture { dial: Some(dial), broken: None },
            Err(verdict) => ProbeFuture { dial: None, broken: Some(verdict) },
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
