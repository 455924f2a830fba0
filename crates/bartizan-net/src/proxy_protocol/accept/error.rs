//! Why connections end before they have been handed on.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::{BoxError, ErrorChain, ProxyHeaderError};

/// Why a connection given to [`AcceptProxy`](crate::AcceptProxy) failed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ProxyProtocolError {
    /// A source that has to send a PROXY header began with something else.
    #[error(
        "there is no PROXY header; let the proxy send one, or make it optional for its network"
    )]
    Missing,

    /// A source that must not send a PROXY header began with one.
    #[error("there is a PROXY header, and the source may not send one")]
    Refused,

    /// The peer's header is none.
    #[error("the PROXY header is malformed")]
    Malformed(#[source] ProxyHeaderError),

    /// The peer did not send its header in time.
    #[error("no PROXY header, or nothing at all, within {limit:?}")]
    Timeout {
        /// The timeout.
        limit: Duration,
    },

    /// The peer closed the connection within its header, or before it.
    #[error("the peer closed after {after} bytes, before there was a whole PROXY header")]
    Closed {
        /// How many bytes it had sent.
        after: usize,
    },

    /// The transport failed before there was a whole header.
    #[error("the transport failed before there was a whole PROXY header")]
    Transport(#[source] io::Error),

    /// The inner service failed, either in `poll_ready` or with the connection.
    #[error("connection handler failed")]
    Handler(#[source] BoxError),
}

impl ProxyProtocolError {
    /// Whether this is nothing to look into: TCP health checks connect and close.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self, Self::Closed { after: 0 })
    }

    pub(super) fn log(&self, peer: SocketAddr) {
        let error = ErrorChain(self);
        if self.is_quiet() {
            tracing::debug!(%peer, %error, "PROXY header not read");
        } else {
            tracing::info!(%peer, %error, "PROXY header not read");
        }
    }
}
