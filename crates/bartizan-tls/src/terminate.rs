//! TLS termination of accepted connections.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, io, mem};

use bartizan_net::{BoxError, Conn, ConnInfo, DrainWatch, TlsInfo};
use pin_project_lite::pin_project;
use rustls::crypto::aws_lc_rs;
use rustls::server::{Acceptor, ServerConnection};
use rustls::sign::SingleCertAndKey;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, LazyConfigAcceptor};
use tower_layer::Layer;
use tower_service::Service;

use crate::Identity;

/// Turns a service of plaintext connections into one of TLS connections.
///
/// The handshake runs in the connection's own task, never in the accept loop, and one deadline
/// covers all of it. Afterwards the inner service gets the decrypted stream, with a [`TlsInfo`] in
/// its [`ConnInfo`]. A handshake that fails is answered with an alert where there is one, ends the
/// call with a [`HandshakeError`], and is a tracing event with peer, SNI, reason and duration
/// (target `bartizan_tls`; level info, or debug where the client hung up).
///
/// TLS 1.2 and 1.3; the key exchange X25519MLKEM768 is preferred; sessions resume with tickets.
#[derive(Clone)]
pub struct TlsTerminateLayer {
    config: Arc<ServerConfig>,
    handshake_timeout: Duration,
    send_buffer_limit: NonZeroUsize,
}

impl TlsTerminateLayer {
    /// Serves one certificate, and agrees on `h2` or `http/1.1` with clients that offer ALPN.
    pub fn new(identity: Identity) -> Self {
        let resolver = SingleCertAndKey::from(Arc::clone(identity.certified()));
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
                .expect("the aws-lc-rs provider has cipher suites for both versions")
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(resolver));
        match aws_lc_rs::Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            // Without randomness no handshake can succeed either; those will say so.
            Err(error) => tracing::warn!(%error, "no ticket keys, sessions will not be resumed"),
        }
        Self::from_config(Arc::new(config)).alpn([&b"h2"[..], b"http/1.1"])
    }

    /// Serves what `config` says, ALPN included.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self { config, handshake_timeout: HANDSHAKE_TIMEOUT, send_buffer_limit: SEND_BUFFER_LIMIT }
    }

    /// Offers these protocols, the preferred one first. Default: `h2`, `http/1.1`.
    ///
    /// A client that offers only others is refused (RFC 7301 §3.2); one that offers none is served.
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        let config = Arc::make_mut(&mut self.config);
        config.alpn_protocols = protocols.into_iter().map(|p| p.as_ref().to_vec()).collect();
        self
    }

    /// Gives up on a handshake after `limit`, all of its flights together. Default: 10 s.
    pub fn handshake_timeout(self, limit: Duration) -> Self {
        Self { handshake_timeout: limit, ..self }
    }

    /// Caps what a connection may write ahead of its transport, in bytes. Default: 64 KiB.
    ///
    /// A write past the cap stays pending until the peer has read some of what came before it.
    // Not a plain `usize`: with a cap of zero, tokio-rustls' `poll_write` spins and never returns.
    pub fn send_buffer_limit(self, bytes: NonZeroUsize) -> Self {
        Self { send_buffer_limit: bytes, ..self }
    }
}

impl fmt::Debug for TlsTerminateLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsTerminateLayer")
            .field("handshake_timeout", &self.handshake_timeout)
            .field("send_buffer_limit", &self.send_buffer_limit)
            .finish_non_exhaustive()
    }
}

impl<S> Layer<S> for TlsTerminateLayer {
    type Service = TlsTerminate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        TlsTerminate { layer: self.clone(), inner }
    }
}

/// Completes a TLS handshake on each connection, then calls `S` with the result.
#[derive(Clone, Debug)]
pub struct TlsTerminate<S> {
    layer: TlsTerminateLayer,
    inner: S,
}

impl<IO, S> Service<Conn<IO>> for TlsTerminate<S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service<Conn<TlsStream<IO>>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = HandshakeError;
    type Future = TerminateFuture<IO, S>;

    // Readiness is reserved *before* the handshake, so that a concurrency limit on `S` also counts
    // half-open connections. Asking after it would leave those unbounded.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        self.inner.poll_ready(cx).map_err(|e| HandshakeError::Handler(e.into()))
    }

    fn call(&mut self, conn: Conn<IO>) -> Self::Future {
        // Only `self.inner` has been polled ready; its clone has not. Hand over the former.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        let (io, info, drain) = conn.into_parts();
        let handshake = Handshake {
            layer: self.layer.clone(),
            since: Instant::now(),
            info: Some((info, drain)),
            sni: None,
        };
        TerminateFuture {
            state: State::Hello { hello: LazyConfigAcceptor::new(Acceptor::default(), io) },
            deadline: Some(Box::pin(sleep(self.layer.handshake_timeout))),
            inner,
            handshake,
        }
    }
}

pin_project! {
    /// Resolves when the connection passed to [`TlsTerminate`] is finished.
    #[must_use = "futures do nothing unless polled"]
    pub struct TerminateFuture<IO, S>
    where
        S: Service<Conn<TlsStream<IO>>>,
    {
        #[pin]
        state: State<IO, S::Future>,
        // Gone after the handshake: an idle connection should not carry a timer.
        deadline: Option<Pin<Box<Sleep>>>,
        inner: S,
        handshake: Handshake,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<IO, F> {
        Hello { #[pin] hello: LazyConfigAcceptor<IO> },
        Finish { #[pin] accept: Accept<IO> },
        Serve { #[pin] response: F },
    }
}

struct Handshake {
    layer: TlsTerminateLayer,
    since: Instant,
    info: Option<(ConnInfo, DrainWatch)>,
    sni: Option<Arc<str>>,
}

impl<IO, S: Service<Conn<TlsStream<IO>>>> fmt::Debug for TerminateFuture<IO, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TerminateFuture").finish_non_exhaustive()
    }
}

impl<IO, S> Future for TerminateFuture<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service<Conn<TlsStream<IO>>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, HandshakeError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let step = match this.state.as_mut().project() {
                StateProj::Serve { response } => {
                    return response.poll(cx).map_err(|e| HandshakeError::Handler(e.into()));
                }
                StateProj::Hello { hello } => hello.poll(cx).map_ok(|start| {
                    this.handshake.sni = start.client_hello().server_name().map(Into::into);
                    let TlsTerminateLayer { config, send_buffer_limit, .. } = &this.handshake.layer;
                    let accept = start.into_stream_with(Arc::clone(config), |tls| {
                        tls.set_buffer_limit(Some(send_buffer_limit.get()));
                    });
                    State::Finish { accept }
                }),
                StateProj::Finish { accept } => accept.poll(cx).map_ok(|stream| {
                    *this.deadline = None;
                    let response = this.inner.call(this.handshake.finish(stream));
                    State::Serve { response }
                }),
            };
            match step {
                Poll::Ready(Ok(next)) => this.state.set(next),
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(this.handshake.fail(HandshakeError::from_io(error))));
                }
                Poll::Pending => {
                    let Some(deadline) = this.deadline else { return Poll::Pending };
                    ready!(deadline.as_mut().poll(cx));
                    let limit = this.handshake.layer.handshake_timeout;
                    return Poll::Ready(Err(this
                        .handshake
                        .fail(HandshakeError::Timeout { limit })));
                }
            }
        }
    }
}

impl Handshake {
    fn finish<IO>(&mut self, stream: TlsStream<IO>) -> Conn<TlsStream<IO>> {
        let (mut info, drain) = self.info.take().expect("a handshake finishes once");
        info.set_tls(tls_info(stream.get_ref().1, self.sni.take(), self.since.elapsed()));
        Conn::new(stream, info).with_drain(drain)
    }

    fn fail(&self, error: HandshakeError) -> HandshakeError {
        let peer = self.info.as_ref().map(|(info, _)| tracing::field::display(info.peer()));
        let (ms, sni) = (self.since.elapsed().as_millis() as u64, self.sni.as_deref());
        let reason = error.reason();
        if let HandshakeError::Transport(_) = error {
            // Port scans, probes and closed laptops: a line for each would fill the log.
            tracing::debug!(peer, sni, ms, %reason, "TLS handshake broken off");
        } else {
            tracing::info!(peer, sni, ms, %reason, "TLS handshake failed");
        }
        error
    }
}

fn tls_info(tls: &ServerConnection, sni: Option<Arc<str>>, handshake: Duration) -> TlsInfo {
    let mut info = TlsInfo::default();
    info.sni = sni;
    info.alpn = tls.alpn_protocol().map(Into::into);
    info.version = tls.protocol_version().and_then(|version| match version {
        rustls::ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
        rustls::ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
        other => other.as_str(),
    });
    info.cipher = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    info.group = tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    info.resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    info.handshake = handshake;
    info
}

/// Why a connection given to [`TlsTerminate`] failed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer broke the protocol, or offered nothing that is allowed. It was sent an alert.
    #[error("TLS handshake failed")]
    Tls(#[source] rustls::Error),

    /// The transport failed mid-handshake. A peer that hangs up reads as `UnexpectedEof`.
    #[error("transport failed during the TLS handshake")]
    Transport(#[source] io::Error),

    /// The handshake took longer than it may.
    #[error("TLS handshake not finished within {limit:?}")]
    Timeout {
        /// The limit.
        limit: Duration,
    },

    /// The inner service failed, either in `poll_ready` or after the handshake.
    #[error("connection handler failed")]
    Handler(#[source] BoxError),
}

impl HandshakeError {
    /// tokio-rustls wraps a `rustls::Error` in an `io::Error`. Undo that, so that callers can tell
    /// a misbehaving peer from a broken network.
    fn from_io(error: io::Error) -> Self {
        error.downcast().map_or_else(Self::Transport, Self::Tls)
    }

    /// The innermost reason, without the "handshake failed" around it.
    fn reason(&self) -> &dyn fmt::Display {
        match self {
            Self::Tls(error) => error,
            Self::Transport(error) => error,
            Self::Timeout { .. } => self,
            Self::Handler(error) => error,
        }
    }
}

/// HAProxy users set `timeout client-hs` to about this; nginx waits 60 s, Envoy 15 s for the hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Matches rustls' own default.
const SEND_BUFFER_LIMIT: NonZeroUsize = NonZeroUsize::new(64 * 1024).unwrap();

#[cfg(test)]
mod tests;
