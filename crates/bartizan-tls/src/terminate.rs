//! TLS termination of accepted connections.

mod error;
mod handshake;
mod vigil;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, mem};

use bartizan_net::{BoxError, Conn};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tower_layer::Layer;
use tower_service::Service;

use crate::{CertStore, HandshakeLimit, HandshakeRuntime};

pub use error::{HandshakeCounts, HandshakeError, HandshakeReason};
pub use handshake::TerminateFuture;

/// Turns a service of plaintext connections into one of TLS connections.
///
/// The handshake runs in the connection's own task, never in the accept loop, and one deadline
/// covers all of it, the wait for a place among the [handshakes in progress](HandshakeLimit)
/// included. Afterwards the inner service gets the decrypted stream, with a
/// [`TlsInfo`](crate::TlsInfo) in its [`ConnInfo`](bartizan_net::ConnInfo). A handshake that fails
/// is answered with an alert where there is one, ends the call with a [`HandshakeError`], is
/// counted by its [`HandshakeReason`], and is a tracing event with peer, SNI, reason and duration
/// (target `bartizan_tls`; level info, error where the server's own key or its signer is at fault,
/// debug where the client hung up).
///
/// Where the certificate's key lives elsewhere, what comes after the ClientHello runs on a
/// [`HandshakeRuntime`], because it blocks there until the signature has come.
///
/// TLS 1.2 and 1.3; the key exchange X25519MLKEM768 is preferred; sessions resume with tickets.
/// All of that can be changed in the [`CertStore`].
#[derive(Clone)]
#[must_use = "a layer does nothing before it is put around a service"]
pub struct TlsTerminateLayer {
    served: Served,
    handshake_timeout: Duration,
    send_buffer_limit: NonZeroUsize,
    limit: HandshakeLimit,
    runtime: HandshakeRuntime,
    counts: Arc<HandshakeCounts>,
}

#[derive(Clone)]
enum Served {
    Store(CertStore),
    Config(Arc<ServerConfig>),
}

impl TlsTerminateLayer {
    /// Serves what is in a store. An [`Identity`](crate::Identity) makes a store of one.
    pub fn new(store: impl Into<CertStore>) -> Self {
        Self::with(Served::Store(store.into()))
    }

    /// Serves what `config` says, and leaves everything to it: no generations, no policies by name,
    /// no verified identity in `TlsInfo`.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self::with(Served::Config(config))
    }

    fn with(served: Served) -> Self {
        Self {
            served,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            send_buffer_limit: SEND_BUFFER_LIMIT,
            limit: HandshakeLimit::default(),
            runtime: HandshakeRuntime::new(),
            counts: Arc::default(),
        }
    }

    /// Gives up on a handshake after `limit`, all of its flights together. Default: 10 s.
    pub fn handshake_timeout(self, limit: Duration) -> Self {
        Self { handshake_timeout: limit, ..self }
    }

    /// Has no more handshakes in progress than `limit` says, with fair shares. Default: 4,096.
    ///
    /// Layers that are given the same limit share it, and so do clones of this layer.
    pub fn handshake_limit(self, limit: HandshakeLimit) -> Self {
        Self { limit, ..self }
    }

    /// Runs handshakes whose key lives [elsewhere](crate::Identity::with_signer) on the threads of
    /// `runtime`. Default: one of its own with 4 threads, which start with the first of these.
    pub fn handshake_runtime(self, runtime: HandshakeRuntime) -> Self {
        Self { runtime, ..self }
    }

    /// Caps what a connection may write ahead of its transport, in bytes. Default: 64 KiB.
    ///
    /// A write past the cap stays pending until the peer has read some of what came before it.
    // Not a plain `usize`: with a cap of zero, tokio-rustls' `poll_write` spins and never returns.
    pub fn send_buffer_limit(self, bytes: NonZeroUsize) -> Self {
        Self { send_buffer_limit: bytes, ..self }
    }

    /// How the handshakes of this layer and of its clones have ended so far.
    pub fn counts(&self) -> &Arc<HandshakeCounts> {
        &self.counts
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
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
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
        TerminateFuture::new(self.layer.clone(), inner, conn)
    }
}

/// HAProxy users set `timeout client-hs` to about this; nginx waits 60 s, Envoy 15 s for the hello.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Matches rustls' own default.
const SEND_BUFFER_LIMIT: NonZeroUsize = NonZeroUsize::new(64 * 1024).unwrap();

#[cfg(test)]
mod tests;
