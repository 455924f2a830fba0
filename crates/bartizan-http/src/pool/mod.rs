//! HTTP/1.1 connections to backends, kept alive.
//!
//! `hyper_util::client::pool` was not taken: it has no idle expiry, no cap, and types without names.

mod bell;
mod body;
mod conn;
mod link;
mod shelf;
mod sweep;
mod upstream;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_balance::Backend;
use bartizan_net::{BoxError, DialledStream};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

pub use body::PooledBody;
pub use conn::{PooledConn, SendFuture};

use crate::RequestBody;
use conn::Home;
use shelf::Shelf;
use upstream::Entry;

/// Puts an [`HttpPool`] over a dial service of streams.
#[derive(Clone, Copy, Debug)]
pub struct HttpPoolLayer {
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    response_timeout: Duration,
    idle_timeout: Duration,
    max_idle: usize,
}

impl HttpPoolLayer {
    /// A pool with the defaults.
    pub fn new() -> Self {
        let settings = Settings {
            response_timeout: RESPONSE_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            max_idle: MAX_IDLE,
        };
        Self { settings }
    }

    /// The longest silence of a backend, before and within an answer. Default: 60 s.
    ///
    /// While the client has still to send more of its body, the backend may be silent.
    pub fn response_timeout(mut self, limit: Duration) -> Self {
        self.settings.response_timeout = limit;
        self
    }

    /// How long a connection is kept that nobody uses. Default: 30 s.
    ///
    /// Keep it under the backends' own limit, so that they seldom close one that is about to be
    /// used.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.settings.idle_timeout = limit;
        self
    }

    /// How many unused connections are kept per backend, and per thread on a multi-thread runtime.
    /// Default: 512.
    ///
    /// This is no limit on connections in use.
    pub fn max_idle_per_backend(mut self, count: usize) -> Self {
        self.settings.max_idle = count;
        self
    }
}

impl Default for HttpPoolLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<D> Layer<D> for HttpPoolLayer {
    type Service = HttpPool<D>;

    fn layer(&self, dial: D) -> Self::Service {
        HttpPool::with_settings(dial, self.settings)
    }
}

/// A dial service of HTTP/1.1 connections: the one used last if there is one, else a new one.
///
/// It answers with a [`PooledConn`] for one request, which comes back to the pool at the end of the
/// response's body. Clones share the pool. On a multi-thread runtime, each thread looks through its
/// own part first, so that threads seldom wait for each other; with one pool per worker, never.
pub struct HttpPool<D, B = RequestBody> {
    dial: D,
    shared: Arc<Shared<B>>,
}

pub(crate) struct Shared<B> {
    settings: Settings,
    idle: Shelf<Box<Entry<B>>>,
    swept: AtomicBool,
}

impl<D, B> HttpPool<D, B> {
    /// A pool over `dial`, with the defaults of [`HttpPoolLayer`].
    pub fn new(dial: D) -> Self {
        Self::with_settings(dial, HttpPoolLayer::new().settings)
    }

    fn with_settings(dial: D, settings: Settings) -> Self {
        let shared =
            Shared { settings, idle: Shelf::new(settings.max_idle), swept: AtomicBool::new(false) };
        Self { dial, shared: Arc::new(shared) }
    }
}

impl<D: Clone, B> Clone for HttpPool<D, B> {
    fn clone(&self) -> Self {
        Self { dial: self.dial.clone(), shared: Arc::clone(&self.shared) }
    }
}

impl<D, B> fmt::Debug for HttpPool<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPool").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl<D, B> Service<Arc<Backend>> for HttpPool<D, B>
where
    D: Service<Arc<Backend>, Response: DialledStream>,
    D: Clone + Send + 'static,
    D::Future: Send,
    D::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    type Response = PooledConn<D, B>;
    type Error = BoxError;
    type Future = Checkout<D, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The dial service is asked when it is dialled: most calls do not dial.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        let home = Home { backend, pool: Arc::clone(&self.shared) };
        let dial = self.dial.clone();
        while let Some(mut entry) = home.pool.idle.take(home.backend.id()) {
            if entry.is_ready() {
                let conn = PooledConn::new(entry, home, Some(dial));
                return Checkout { inner: Inner::Hit(Some(conn)) };
            }
        }
        Checkout {
            inner: Inner::Dial(Box::pin(async move {
                home.pool.start_sweeping();
                let entry = connect(dial, Arc::clone(&home.backend), home.pool.settings).await?;
                Ok(PooledConn::new(entry, home, None))
            })),
        }
    }
}

/// Dials, and starts HTTP/1.1 over what was dialled.
pub(crate) async fn connect<D, B>(
    mut dial: D,
    backend: Arc<Backend>,
    settings: Settings,
) -> Result<Box<Entry<B>>, BoxError>
where
    D: Service<Arc<Backend>, Response: DialledStream>,
    D::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    poll_fn(|cx| dial.poll_ready(cx)).await.map_err(Into::into)?;
    let io = dial.call(backend).await.map_err(Into::into)?;
    upstream::start(io, &settings).await
}

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

/// nginx' `proxy_read_timeout`; HAProxy's `timeout server` has no default.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Half of what most servers grant.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Enough to never close what a burst has opened, few enough for the backend's own limits.
const MAX_IDLE: usize = 512;

#[cfg(test)]
mod tests;
