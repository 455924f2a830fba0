//! Reading a TLS client's first message before anybody answers it.

mod error;
mod future;
mod hello;
mod ja4;
mod parse;
mod reader;

use std::mem;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;

use crate::{BoxError, Conn, Replay};

pub use error::{ClientHelloError, HelloError};
pub use future::ClientHelloFuture;
pub use hello::{AlpnNames, ClientHello, TlsCodes, is_grease};
pub use reader::{HelloProgress, HelloReader};

/// Lets a connection service know what a TLS client offers, before the handshake.
///
/// The [`ClientHello`] is recorded in the [`ConnInfo`](crate::ConnInfo), and the inner service gets
/// a stream that gives all that was read again ([`Replay`]): it can forward the connection as it
/// is, shake hands, or refuse ([`RejectTls`](crate::RejectTls)). A connection that is not TLS is
/// passed on as well, without a hello, as soon as its first bytes tell.
///
/// A hello that is malformed is answered with the alert that fits. That and everything else that
/// comes before the hello is complete ends the call with a [`ClientHelloError`] and is a tracing
/// event with peer, duration and reason (level info, debug where the client went away). Protocols
/// in which the client waits for the server to speak first run into the timeout.
///
/// ```
/// use bartizan_net::{ClientHelloLayer, Conn, Replay};
/// use tokio::net::TcpStream;
/// use tower::{Layer, service_fn};
///
/// let route = service_fn(|conn: Conn<Replay<TcpStream>>| async move {
///     let name = conn.info().client_hello().and_then(|hello| hello.server_name());
///     println!("{} asks for {name:?}", conn.info().peer());
///     Ok::<_, std::io::Error>(())
/// });
/// let connections = ClientHelloLayer::new().layer(route);
/// # let _ = connections;
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "a layer does nothing before it is put around a service"]
pub struct ClientHelloLayer {
    limit: usize,
    timeout: Duration,
}

impl ClientHelloLayer {
    /// With a limit of 16 KiB and a timeout of 10 s.
    pub fn new() -> Self {
        Self { limit: LIMIT, timeout: TIMEOUT }
    }

    /// Gives up on a hello that does not end within the first `bytes` of the connection, which is
    /// also the most that is kept of one. Default: 16 KiB. A limit of 0 counts as 1.
    pub fn limit(self, bytes: usize) -> Self {
        Self { limit: bytes, ..self }
    }

    /// Gives up on a client whose hello is not complete within `limit`, in all. Default: 10 s.
    pub fn timeout(self, limit: Duration) -> Self {
        Self { timeout: limit, ..self }
    }
}

impl Default for ClientHelloLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ClientHelloLayer {
    type Service = ReadClientHello<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ReadClientHello { layer: *self, inner }
    }
}

/// Reads the ClientHello of each connection, then calls `S` with the connection.
#[derive(Clone, Debug)]
pub struct ReadClientHello<S> {
    layer: ClientHelloLayer,
    inner: S,
}

impl<IO, S> Service<Conn<IO>> for ReadClientHello<S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service<Conn<Replay<IO>>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = ClientHelloError;
    type Future = ClientHelloFuture<IO, S>;

    // Reserved before the hello is read, so that a concurrency limit on `S` counts the clients that
    // are slow with theirs.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientHelloError>> {
        self.inner.poll_ready(cx).map_err(|e| ClientHelloError::Handler(e.into()))
    }

    fn call(&mut self, conn: Conn<IO>) -> Self::Future {
        // Only `self.inner` has been polled ready; its clone has not. Hand over the former.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        ClientHelloFuture::new(self.layer, inner, conn)
    }
}

/// The longest hellos today, with a post-quantum key share, a ticket and ECH, are a quarter of it.
/// rustls has 64 KiB, but keeps as much for clients that have not shown a valid hello.
const LIMIT: usize = 16 * 1024;

/// As long as a whole handshake has in `bartizan-tls`: a client on a bad line may need to send its
/// hello three times.
const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
