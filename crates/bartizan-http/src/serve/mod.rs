//! Serving HTTP on accepted connections.

mod answer;
mod body;
mod limits;
mod serving;
mod state;
mod watched;

use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_net::{BoxError, Conn, LocalSpawn, Spawn, TokioSpawn};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::rt::bounds::Http2ServerConnExec;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

pub use answer::Answer;
pub use body::{Reply, RequestBody};
pub use serving::{ServeHttpError, Serving};

/// A connection service that serves HTTP/1.1 and HTTP/2 with a service of requests.
///
/// HTTP/2 when TLS has agreed on `h2`, else HTTP/1.1. Each request carries, as `Arc<ConnInfo>`, what
/// is known of its connection in its extensions.
///
/// An error of the request service becomes a response with a status ([`status_of`](crate::status_of))
/// and a body that says no more than that; the error itself is a tracing event (target
/// `bartizan_http`). During a drain, HTTP/1.1 answers carry `connection: close`, HTTP/2 clients get
/// GOAWAY, and connections that then stay idle for a second are closed.
///
/// | limit | default | on expiry |
/// | --- | --- | --- |
/// | [`header_timeout`](Self::header_timeout) | 10 s | HTTP/1.1: 408, close |
/// | [`keep_alive_timeout`](Self::keep_alive_timeout) | 60 s | closed; HTTP/2: GOAWAY first |
/// | [`client_timeout`](Self::client_timeout) | 60 s | body: 408; reader: closed |
#[derive(Clone, Debug)]
pub struct ServeHttp<S, X = TokioSpawn> {
    service: S,
    settings: Settings,
    spawn: X,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    header: Duration,
    keep_alive: Duration,
    client: Duration,
}

impl<S> ServeHttp<S> {
    /// Serves with `service`. A clone of it is called for each request.
    pub fn new(service: S) -> Self {
        let settings = Settings { header: HEADER, keep_alive: KEEP_ALIVE, client: CLIENT };
        Self { service, settings, spawn: TokioSpawn }
    }

    /// Runs HTTP/2 streams on this thread, so that the service need not be `Send`.
    pub fn local(self) -> ServeHttp<S, LocalSpawn> {
        ServeHttp { service: self.service, settings: self.settings, spawn: LocalSpawn }
    }
}

impl<S, X> ServeHttp<S, X> {
    /// The time for a request's head, from its first byte to its last.
    pub fn header_timeout(mut self, limit: Duration) -> Self {
        self.settings.header = limit;
        self
    }

    /// The time without any request, at the start and between two.
    pub fn keep_alive_timeout(mut self, limit: Duration) -> Self {
        self.settings.keep_alive = limit;
        self
    }

    /// The longest silence of a client that is awaited: to send of its body, or to read.
    pub fn client_timeout(mut self, limit: Duration) -> Self {
        self.settings.client = limit;
        self
    }
}

impl<IO, S, B, X> Service<Conn<IO>> for ServeHttp<S, X>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
    X: Clone,
    H2Executor<X>: Http2ServerConnExec<Answer<S>, Reply<B>>,
{
    type Response = ();
    type Error = ServeHttpError;
    type Future = Serving<IO, S, B, X>;

    // The request service is asked per request. A connection needs nothing that could run out.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ServeHttpError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, conn: Conn<IO>) -> Self::Future {
        Serving::new(conn, self.service.clone(), self.settings, H2Executor(self.spawn.clone()))
    }
}

/// Spawns HTTP/2 streams for hyper, by a [`Spawn`] of this project.
#[derive(Clone, Copy, Debug, Default)]
pub struct H2Executor<X>(X);

impl<F, X> hyper::rt::Executor<F> for H2Executor<X>
where
    X: Spawn<F>,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// nginx gives 60 s for a head, HAProxy users mostly 5 to 10 s.
const HEADER: Duration = Duration::from_secs(10);

/// nginx: 75 s.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// nginx: 60 s.
const CLIENT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
