//! Connection services of any type.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower::ServiceExt;
use tower_service::Service;

use crate::{BoxError, Conn};

/// A connection service whose type is hidden, so that several can be routes of one
/// [`HostRouter`](crate::HostRouter).
///
/// It costs an allocation for each connection. Clones share one service, of which each call gets a
/// clone. Always ready: the service's own readiness is waited for in the call.
pub struct BoxConnService<IO> {
    call: Arc<dyn Fn(Conn<IO>) -> BoxFuture + Send + Sync>,
}

/// The future of a [`BoxConnService`].
type BoxFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

impl<IO> BoxConnService<IO> {
    /// Hides the type of `service`, and what it answers.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Conn<IO>, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        IO: Send + 'static,
    {
        let call = move |conn| -> BoxFuture {
            let service = service.clone();
            Box::pin(async move { service.oneshot(conn).await.map(drop).map_err(Into::into) })
        };
        Self { call: Arc::new(call) }
    }
}

impl<IO> Clone for BoxConnService<IO> {
    fn clone(&self) -> Self {
        Self { call: Arc::clone(&self.call) }
    }
}

impl<IO> fmt::Debug for BoxConnService<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoxConnService").finish_non_exhaustive()
    }
}

impl<IO> Service<Conn<IO>> for BoxConnService<IO> {
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, conn: Conn<IO>) -> Self::Future {
        (self.call)(conn)
    }
}

/// A [`BoxConnService`] for a service that need not be `Send`, as under
/// [`Workers`](crate::Workers).
pub struct LocalBoxConnService<IO> {
    call: Rc<dyn Fn(Conn<IO>) -> LocalBoxFuture>,
}

/// The future of a [`LocalBoxConnService`].
type LocalBoxFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>>>>;

impl<IO> LocalBoxConnService<IO> {
    /// Hides the type of `service`, and what it answers.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Conn<IO>, Error: Into<BoxError>> + Clone + 'static,
        IO: 'static,
    {
        let call = move |conn| -> LocalBoxFuture {
            let service = service.clone();
            Box::pin(async move { service.oneshot(conn).await.map(drop).map_err(Into::into) })
        };
        Self { call: Rc::new(call) }
    }
}

impl<IO> Clone for LocalBoxConnService<IO> {
    fn clone(&self) -> Self {
        Self { call: Rc::clone(&self.call) }
    }
}

impl<IO> fmt::Debug for LocalBoxConnService<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBoxConnService").finish_non_exhaustive()
    }
}

impl<IO> Service<Conn<IO>> for LocalBoxConnService<IO> {
    type Response = ();
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<(), BoxError>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, conn: Conn<IO>) -> Self::Future {
        (self.call)(conn)
    }
}
