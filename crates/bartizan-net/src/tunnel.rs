//! Connections that go to a backend as they are.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;

use crate::{Conn, Relay, RelayEnd, Relayed, SendProxy};

/// Puts a [`Tunnel`] over a dial service.
#[derive(Clone, Debug, Default)]
pub struct TunnelLayer {
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings {
    idle_timeout: Duration,
    send_proxy: Option<SendProxy>,
}

impl TunnelLayer {
    /// Tunnels with an idle timeout of 1 h.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends a tunnel through which nothing has passed, in either direction, for `limit`.
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.settings.idle_timeout = limit;
        self
    }

    /// Begins each tunnel with a PROXY header that says whose connection it is.
    pub fn send_proxy(mut self, send: SendProxy) -> Self {
        self.settings.send_proxy = Some(send);
        self
    }
}

impl<D> Layer<D> for TunnelLayer {
    type Service = Tunnel<D>;

    fn layer(&self, dial: D) -> Tunnel<D> {
        Tunnel { dial, settings: self.settings.clone() }
    }
}

/// A dial service whose answer is a service of connections: it passes each one's bytes on, both
/// ways, until both sides have ended ([`Relay`]).
///
/// Under `Balance`, a backend that cannot be dialled is replaced by another one before anything of
/// the client's is sent, and the tunnel counts as in flight until its end. The end of each tunnel is
/// a tracing event at debug level with the bytes that were passed on and the reason.
///
/// A drain lets tunnels go on until it closes: there is no way to ask for an end of bytes that are
/// not understood.
#[derive(Clone, Debug)]
pub struct Tunnel<D> {
    dial: D,
    settings: Settings,
}

impl<D> Tunnel<D> {
    /// Tunnels to what `dial` connects to, with the defaults of [`TunnelLayer`].
    pub fn new(dial: D) -> Self {
        TunnelLayer::new().layer(dial)
    }
}

impl<D, T> Service<T> for Tunnel<D>
where
    D: Service<T>,
{
    type Response = Tunnelled<D::Response>;
    type Error = D::Error;
    type Future = TunnelFuture<D::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), D::Error>> {
        self.dial.poll_ready(cx)
    }

    fn call(&mut self, target: T) -> Self::Future {
        TunnelFuture { dial: self.dial.call(target), settings: Some(self.settings.clone()) }
    }
}

/// A backend that was dialled: a service of one connection, whose bytes it passes on.
#[derive(Debug)]
pub struct Tunnelled<B> {
    backend: Option<B>,
    settings: Settings,
}

impl<IO, B> Service<Conn<IO>> for Tunnelled<B>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    B: AsyncRead + AsyncWrite + Unpin + 'static,
{
    type Response = Relayed;
    type Error = TunnelError;
    type Future = Passing<IO, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TunnelError>> {
        Poll::Ready(if self.backend.is_some() { Ok(()) } else { Err(TunnelError::Used) })
    }

    /// # Panics
    ///
    /// When it is called without having been ready.
    fn call(&mut self, conn: Conn<IO>) -> Self::Future {
        let backend = self.backend.take().expect("it was polled ready");
        let info = conn.info();
        let peer = info.peer();
        let header = self.settings.send_proxy.as_ref().map(|send| send.header_for(info));
        let relay = Relay::new(conn.into_io(), backend).idle_timeout(self.settings.idle_timeout);
        Passing { relay: relay.first(header.unwrap_or_default()), peer }
    }
}

pin_project! {
    /// Resolves to a [`Tunnelled`] once the backend is dialled.
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct TunnelFuture<F> {
        #[pin]
        dial: F,
        settings: Option<Settings>,
    }
}

impl<F, B, E> Future for TunnelFuture<F>
where
    F: Future<Output = Result<B, E>>,
{
    type Output = Result<Tunnelled<B>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let backend = ready!(this.dial.poll(cx))?;
        let settings = this.settings.take().unwrap_or_default();
        Poll::Ready(Ok(Tunnelled { backend: Some(backend), settings }))
    }
}

/// A connection that is passed on. Resolves when it is over.
#[must_use = "futures do nothing unless polled"]
#[derive(Debug)]
pub struct Passing<IO, B> {
    relay: Relay<IO, B>,
    peer: SocketAddr,
}

impl<IO, B> Future for Passing<IO, B>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    B: AsyncRead + AsyncWrite + Unpin + 'static,
{
    type Output = Result<Relayed, TunnelError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let relayed = ready!(Pin::new(&mut self.relay).poll(cx));
        let (to_backend, to_client) = (relayed.to_backend, relayed.to_client);
        tracing::debug!(peer = %self.peer, to_backend, to_client, end = ?relayed.end, "tunnel ended");
        Poll::Ready(match relayed.end {
            RelayEnd::BackendFailed(source) => {
                Err(TunnelError::Backend { to_backend, to_client, source })
            }
            _ => Ok(relayed),
        })
    }
}

/// Why a tunnel failed. What the client does to it is no failure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// The backend reset the connection, or the network broke it.
    #[error(
        "the backend broke the connection off, {to_backend} bytes to it and {to_client} bytes from it"
    )]
    Backend {
        /// Bytes that it had taken.
        to_backend: u64,
        /// Bytes of its that the client had taken.
        to_client: u64,
        /// How it failed.
        source: io::Error,
    },

    /// A backend that was dialled takes one connection. A mistake of the program's.
    #[error("a dialled backend takes one connection: dial again for another")]
    Used,
}

impl Default for Settings {
    fn default() -> Self {
        Self { idle_timeout: IDLE_TIMEOUT, send_proxy: None }
    }
}

/// What `timeout tunnel` is usually set to in HAProxy.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
