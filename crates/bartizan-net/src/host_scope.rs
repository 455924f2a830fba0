//! Which hosts a connection may ask for.

use std::fmt;
use std::sync::Arc;

/// Tells which hosts may be asked for over a connection, given how it was handshaken.
///
/// A browser that holds an HTTP/2 connection to one name of a wildcard certificate uses it for the
/// others, too, and any client may send another `Host` than the name it shook hands under. Whoever
/// chose certificate and policy in the handshake knows whether that is safe. It must judge by the
/// rules of now, not by those of the handshake: they may have been tightened since.
pub trait HostScope: fmt::Debug + Send + Sync {
    /// Whether `host` may be asked for. It is in lower case, without a port, without a dot at its
    /// end, and an IPv6 address is without its brackets.
    ///
    /// The empty host stands for a request that names none, over a connection without a server
    /// name: it is for whatever a backend takes by default. The connection's own server name need
    /// not be asked for. Who tightens what a name demands therefore ends the connections that were
    /// handshaken under it before ([`DrainWatch::or`](crate::DrainWatch::or)).
    ///
    /// # Errors
    ///
    /// [`Misdirected`] says why it may not; RFC 9110 §15.5.20 has status 421 for it.
    fn permits(&self, host: &str) -> Result<(), Misdirected>;
}

/// What two layers permit.
#[derive(Debug)]
pub(crate) struct Both(pub(crate) Arc<dyn HostScope>, pub(crate) Arc<dyn HostScope>);

impl HostScope for Both {
    fn permits(&self, host: &str) -> Result<(), Misdirected> {
        self.0.permits(host)?;
        self.1.permits(host)
    }
}

/// Why a host may not be asked for over a connection. The client has to open another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misdirected {
    /// The host demands other client certificates than the handshake did.
    #[error("the host has another policy on client certificates than this connection")]
    ClientAuth,
    /// The client sent no server name, and hosts differ in what they demand.
    #[error("the handshake named no server, and policies differ by name")]
    NoServerName,
    /// The certificate that was served does not cover the host.
    #[error("the certificate of this connection does not cover the host")]
    Certificate,
    /// Connections for the host are routed elsewhere.
    #[error("the host has another route than this connection")]
    Route,
}
