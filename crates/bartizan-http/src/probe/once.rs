//! HTTP connections for one request each.

use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_balance::Backend;
use bartizan_net::{BoxError, DialledStream};
use tower_service::Service;

use crate::{BackendProtocol, Checkout, HttpPoolLayer, PooledConn, RequestBody};

/// A dial service of HTTP connections that are made for one request, and closed after it.
///
/// It is to an [`HttpPool`](crate::HttpPool) what a probe wants that looks at the whole way to a
/// backend: the dial, TLS if the dial service has it, and HTTP. A connection whose answer was read to
/// its end says goodbye, which over TLS is a `close_notify`. Limits on time are the defaults of
/// [`HttpPoolLayer`].
#[derive(Clone, Debug)]
pub struct HttpOnce<D> {
    dial: D,
    settings: HttpPoolLayer,
}

impl<D> HttpOnce<D> {
    /// Connections over what `dial` dials, by HTTP/1.1.
    pub fn new(dial: D) -> Self {
        Self { dial, settings: HttpPoolLayer::new() }
    }

    /// Speaks this. Default: HTTP/1.1.
    pub fn protocol(self, protocol: BackendProtocol) -> Self {
        Self { settings: self.settings.protocol(protocol), ..self }
    }
}

impl<D> Service<Arc<Backend>> for HttpOnce<D>
where
    D: Service<Arc<Backend>, Response: DialledStream>,
    D: Clone + Send + 'static,
    D::Future: Send,
    D::Error: Into<BoxError>,
{
    type Response = PooledConn<D, RequestBody>;
    type Error = BoxError;
    type Future = Checkout<D, RequestBody>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // As in a pool, the dial service is asked when it is dialled.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        self.settings.pool_for_one(self.dial.clone()).call(backend)
    }
}
