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
/// with TLS in it, the handshake is part of the check.
#[derive(Clone, Copy, Debug)]
pub struct DialProbe<D> {
    dial: D,
}

impl<D> DialProbe<D> {
    /// Probes by dialling with `dial`.
    pub fn new(dial: D) -> Self {
        Self { dial }
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
        // A dial service that is broken for good fails in `call` as well, with a reason to show.
        self.dial.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        ProbeFuture { dial: self.dial.call(backend) }
    }
}

pin_project! {
    /// Resolves to the verdict of a [`DialProbe`].
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct ProbeFuture<F> {
        #[pin]
        dial: F,
    }
}

impl<F, T, E> Future for ProbeFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Verdict, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let verdict = match ready!(self.project().dial.poll(cx)) {
            Ok(_) => Verdict::Pass,
            Err(error) => Verdict::fail(error.into()),
        };
        Poll::Ready(Ok(verdict))
    }
}
