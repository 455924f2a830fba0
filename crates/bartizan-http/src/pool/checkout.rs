//! Taking a connection out of a pool.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bartizan_net::BoxError;

use super::PooledConn;

/// Resolves to a connection out of the pool, or to a new one.
#[must_use = "futures do nothing unless polled"]
pub struct Checkout<D, B> {
    inner: Inner<D, B>,
}

enum Inner<D, B> {
    Hit(Option<PooledConn<D, B>>),
    Dial(Dialling<D, B>),
}

type Dialling<D, B> = Pin<Box<dyn Future<Output = Result<PooledConn<D, B>, BoxError>> + Send>>;

impl<D, B> Checkout<D, B> {
    pub(super) fn hit(conn: PooledConn<D, B>) -> Self {
        Self { inner: Inner::Hit(Some(conn)) }
    }

    pub(super) fn dial(
        dial: impl Future<Output = Result<PooledConn<D, B>, BoxError>> + Send + 'static,
    ) -> Self {
        Self { inner: Inner::Dial(Box::pin(dial)) }
    }
}

// A connection is moved out of it, never pinned in it.
impl<D, B> Unpin for Checkout<D, B> {}

impl<D, B> fmt::Debug for Checkout<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hit = matches!(self.inner, Inner::Hit(_));
        f.debug_struct("Checkout").field("hit", &hit).finish_non_exhaustive()
    }
}

impl<D, B> Future for Checkout<D, B> {
    type Output = Result<PooledConn<D, B>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.inner {
            Inner::Hit(conn) => Poll::Ready(Ok(conn.take().expect("polled after it was ready"))),
            Inner::Dial(dial) => dial.as_mut().poll(cx),
        }
    }
}
