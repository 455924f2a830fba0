//! HTTP connections to backends, kept alive.
//!
//! An HTTP/1.1 connection is in the hands of one request or of the pool. An HTTP/2 connection
//! ([`h2`]) stays in the pool, which knows how many streams it has, and hands out room for one.
//!
//! `hyper_util::client::pool` was not taken: it has no idle expiry, no cap, and types without names.

mod bell;
mod body;
mod checkout;
mod conn;
mod h2;
mod link;
mod shelf;
mod sweep;
mod upstream;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bartizan_balance::Backend;
use bartizan_net::{BoxError, DialledStream};
use http_body::Body;
use tokio::io::AsyncWrite;
use tower_layer::Layer;
use tower_service::Service;

pub use body::PooledBody;
pub use checkout::Checkout;
pub use conn::{PooledConn, SendFuture};
#[cfg(fuzzing)]
pub(crate) use h2::{Announced, FrameReader};

use crate::{RequestBody, SendError};
use conn::Home;
use h2::{Conn, Lines, Slot};
use shelf::Shelf;
use upstream::Entry;

/// Puts an [`HttpPool`] over a dial service of streams.
#[derive(Clone, Copy, Debug)]
pub struct HttpPoolLayer {
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    protocol: BackendProtocol,
    settings_timeout: Duration,
    response_timeout: Duration,
    idle_timeout: Duration,
    max_idle: usize,
}

impl HttpPoolLayer {
    /// A pool with the defaults.
    pub fn new() -> Self {
        let settings = Settings {
            protocol: BackendProtocol::default(),
            settings_timeout: SETTINGS_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            max_idle: MAX_IDLE,
        };
        Self { settings }
    }

    /// What is spoken with the backends. Default: HTTP/1.1.
    pub fn protocol(mut self, protocol: BackendProtocol) -> Self {
        self.settings.protocol = protocol;
        self
    }

    /// The longest silence of a backend, before and within an answer. Default: 60 s.
    ///
    /// While the client has still to send more of its body, the backend may be silent. Over HTTP/2
    /// each stream has its own silence, and one that was silent for too long is reset. The others
    /// go on; but a connection on which nothing came at all in that time gets no more requests.
    pub fn response_timeout(mut self, limit: Duration) -> Self {
        self.settings.response_timeout = limit;
        self
    }

    /// The time for the settings of a new HTTP/2 connection to come. Default: 5 s.
    ///
    /// A connection is made when they have: a backend that agrees on HTTP/2 and then says nothing is
    /// one that cannot be dialled.
    pub fn settings_timeout(mut self, limit: Duration) -> Self {
        self.settings.settings_timeout = limit;
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
    /// This is no limit on connections in use, nor on HTTP/2 connections: there are no more of those
    /// than were needed at once, and they expire.
    pub fn max_idle_per_backend(mut self, count: usize) -> Self {
        self.settings.max_idle = count;
        self
    }

    /// The pool over `dial`, for requests with bodies of the type `B`: where they do not come from
    /// [`ServeHttp`](crate::ServeHttp). As a layer, it makes pools for [`RequestBody`].
    pub fn pool<D, B>(&self, dial: D) -> HttpPool<D, B> {
        HttpPool::with_settings(dial, self.settings)
    }

    /// A pool for one request, with which all of its connections go: nothing has to be swept.
    pub(crate) fn pool_for_one<D, B>(&self, dial: D) -> HttpPool<D, B> {
        let pool = self.pool(dial);
        pool.shared.swept.store(true, Ordering::Relaxed);
        pool
    }
}

/// The version of HTTP that is spoken with backends.
///
/// Over HTTP/2, many requests share a connection: as many as the backend takes at once
/// (`SETTINGS_MAX_CONCURRENT_STREAMS`), and beyond that there is another connection. A backend that
/// wants no more requests (`GOAWAY`) gets none. Requests carry the scheme `https` over TLS and
/// `http` otherwise, and the client's `Host` as `:authority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendProtocol {
    /// HTTP/1.1. A TLS stream that agreed on `h2` is a [`SendError::WrongProtocol`].
    #[default]
    Http1,
    /// HTTP/2, in the clear without asking first (RFC 9113 §3.3), or over TLS. A TLS stream that
    /// agreed on something else is a [`SendError::WrongProtocol`].
    Http2,
    /// What the TLS handshake agreed on by ALPN; HTTP/1.1 if that was nothing, as in the clear.
    ///
    /// Until a backend is known to speak HTTP/2, simultaneous requests each dial.
    Auto,
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

/// A dial service of HTTP connections: the one used last if there is one, else a new one.
///
/// It answers with a [`PooledConn`] for one request, which comes back to the pool at the end of the
/// response's body. Clones share the pool. On a multi-thread runtime, each thread looks through its
/// own part first, so that threads seldom wait for each other; with one pool per worker, never.
/// What is shared by requests anyway, HTTP/2 connections, is in one part.
///
/// A connection whose [`Validity`](bartizan_net::Validity) is over gets no request any more, nor does
/// one that was dialled before its backend was last [marked
/// down](bartizan_balance::OnMarkedDown). What is under way on it ends normally, and it closes
/// then. Connections that are closed while nothing
/// is under way say goodbye first, which over TLS is a `close_notify`.
pub struct HttpPool<D, B = RequestBody> {
    dial: D,
    shared: Arc<Shared<B>>,
}

pub(crate) struct Shared<B> {
    settings: Settings,
    idle: Shelf<Box<Entry<B>>>,
    lines: Lines<B>,
    swept: AtomicBool,
}

impl<B> Shared<B> {
    /// A connection that can take a request at once.
    fn take(&self, backend: &Backend) -> Option<Line<B>> {
        if self.settings.protocol != BackendProtocol::Http1
            && let Some(slot) = self.lines.take(backend.id())
        {
            return Some(Line::Shared(slot));
        }
        while let Some(mut entry) = self.idle.take(backend.id()) {
            if entry.is_ready() && !entry.validity.is_over() {
                return Some(Line::Own(entry));
            }
            entry.close();
        }
        None
    }
}

/// Whoever keeps a pool no longer closes what is idle in it.
impl<B> Drop for Shared<B> {
    fn drop(&mut self) {
        self.idle.extract(|_| false).into_iter().for_each(|entry| entry.close());
    }
}

/// A connection in the hands of one request, or room on one that is shared.
pub(crate) enum Line<B> {
    Own(Box<Entry<B>>),
    Shared(Slot<B>),
}

/// A new connection.
pub(crate) enum Connected<B> {
    H1(Box<Entry<B>>),
    H2(Conn<B>),
}

impl<D, B> HttpPool<D, B> {
    /// A pool over `dial`, with the defaults of [`HttpPoolLayer`].
    pub fn new(dial: D) -> Self {
        Self::with_settings(dial, HttpPoolLayer::new().settings)
    }

    fn with_settings(dial: D, settings: Settings) -> Self {
        let shared = Shared {
            settings,
            idle: Shelf::new(settings.max_idle),
            lines: Lines::new(),
            swept: AtomicBool::new(false),
        };
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
        if let Some(line) = home.pool.take(&home.backend) {
            let conn = PooledConn::new(line, home, dial, false);
            return Checkout::hit(conn);
        }
        Checkout::dial(async move {
            home.pool.start_sweeping();
            let line = obtain(dial.clone(), home.clone()).await?;
            // One that is shared need not be new.
            let fresh = matches!(line, Line::Own(_));
            Ok(PooledConn::new(line, home, dial, fresh))
        })
    }
}

/// What a pool needs of the dial service below it.
pub(crate) trait Dials:
    Service<Arc<Backend>, Response: DialledStream, Error: Into<BoxError>, Future: Send>
    + Clone
    + Send
    + 'static
{
}

impl<D> Dials for D
where
    D: Service<Arc<Backend>, Response: DialledStream, Error: Into<BoxError>, Future: Send>,
    D: Clone + Send + 'static,
{
}

/// A new connection, or room on one that is shared.
async fn obtain<D, B>(dial: D, home: Home<B>) -> Result<Line<B>, BoxError>
where
    D: Dials,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    if home.pool.settings.protocol != BackendProtocol::Http1 {
        return h2::share(dial, home).await;
    }
    let connected = connect(dial, Arc::clone(&home.backend), home.pool.settings).await?;
    Ok(home.pool.lines.admit(home.backend.id(), connected)?)
}

/// Dials, and starts HTTP over what was dialled.
pub(crate) async fn connect<D, B>(
    mut dial: D,
    backend: Arc<Backend>,
    settings: Settings,
) -> Result<Connected<B>, BoxError>
where
    D: Dials,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    poll_fn(|cx| dial.poll_ready(cx)).await.map_err(Into::into)?;
    // Before it is dialled: a mark in the meantime is one.
    let marked_down = backend.until_marked_down();
    let mut io = dial.call(backend).await.map_err(Into::into)?;
    let validity = io.validity().resting_on(marked_down);
    match settings.protocol.over(io.alpn()) {
        Ok(true) => Ok(Connected::H2(h2::start(io, validity, &settings).await?)),
        Ok(false) => Ok(Connected::H1(upstream::start(io, validity, &settings).await?)),
        Err(error) => {
            // Over TLS it says goodbye, as far as the socket takes that at once.
            let _ = Pin::new(&mut io).poll_shutdown(&mut Context::from_waker(Waker::noop()));
            Err(error.into())
        }
    }
}

impl BackendProtocol {
    /// Whether HTTP/2 is spoken over a stream that has agreed on this.
    fn over(self, alpn: Option<&[u8]>) -> Result<bool, SendError> {
        let wanted = match (self, alpn) {
            (Self::Http1, Some(b"h2")) => "HTTP/1.1",
            (Self::Http2, Some(agreed)) if agreed != b"h2" => "HTTP/2",
            (Self::Http2, _) | (Self::Auto, Some(b"h2")) => return Ok(true),
            _ => return Ok(false),
        };
        let agreed = String::from_utf8_lossy(alpn.unwrap_or_default()).into_owned();
        Err(SendError::WrongProtocol { wanted, agreed })
    }
}

/// As for connecting.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(5);

/// nginx' `proxy_read_timeout`; HAProxy's `timeout server` has no default.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// Half of what most servers grant.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Enough to never close what a burst has opened, few enough for the backend's own limits.
const MAX_IDLE: usize = 512;

#[cfg(test)]
mod blame_tests;
#[cfg(test)]
mod marked_down_tests;
#[cfg(test)]
pub(crate) mod test_dial;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod validity_tests;
