//! A dial service that may not have become ready.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bartizan_net::BoxError;
use tower_service::Service;

use crate::{Backend, Verdict};

/// A dial service under a probe, which has no errors of its own: what `poll_ready` fails with is the
/// verdict.
#[derive(Clone, Debug)]
pub(super) struct Dialler<D> {
    dial: D,
    // Why `poll_ready` failed: the service must not be called then.
    broken: Option<Verdict>,
}

impl<D> Dialler<D> {
    pub(super) fn new(dial: D) -> Self {
        Self { dial, broken: None }
    }
}

impl<D> Dialler<D>
where
    D: Service<Arc<Backend>>,
    D::Error: Into<BoxError>,
{
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ready = ready!(self.dial.poll_ready(cx));
        self.broken = ready.err().map(|error| Verdict::of_error(&*error.into()));
        Poll::Ready(())
    }

    /// The dial under way, or the verdict already.
    pub(super) fn call(&mut self, backend: Arc<Backend>) -> Result<D::Future, Verdict> {
        match self.broken.take() {
            Some(verdict) => Err(verdict),
            None => Ok(self.dial.call(backend)),
        }
    }
}

/// What comes of a dial.
pub(super) async fn dialled<F, IO, E>(dial: Result<F, Verdict>) -> Result<IO, Verdict>
where
    F: Future<Output = Result<IO, E>>,
    E: Into<BoxError>,
{
    dial?.await.map_err(|error| Verdict::of_error(&*error.into()))
}
