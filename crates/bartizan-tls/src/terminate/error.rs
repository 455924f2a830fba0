//! Why handshakes fail, typed and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, io};

use bartizan_net::{BoxError, TlsAlert};
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

use crate::signer::{HandshakeRuntimeError, SignerError};

/// Why a connection given to [`TlsTerminate`](crate::TlsTerminate) failed.
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

    /// No certificate is for the name that the client asked for, and there is no default. It was
    /// sent the alert `unrecognized_name`.
    #[error("no certificate is for the name that the client asked for")]
    UnknownName,

    /// The client named no server, and names are insisted on. It was sent the alert
    /// `unrecognized_name`.
    #[error("the client named no server, and there is no default certificate")]
    NoName,

    /// The key of the certificate to be served is broken. The operator's fault; the client was sent
    /// the alert `internal_error`.
    #[error("the key of the certificate from {certificate} cannot be used")]
    Key {
        /// Where the certificate came from.
        certificate: Arc<str>,
        /// What is wrong with its key.
        #[source]
        error: Arc<rustls::Error>,
    },

    /// The key of the certificate lives elsewhere, and its signer failed or was late. The operator's
    /// fault; the client saw the connection end.
    #[error("no signature from where the key lives")]
    Signer(#[source] SignerError),

    /// The handshake could not be run where it may wait for a signature.
    #[error("the handshake cannot be run where it may wait for a signature")]
    Runtime(#[source] HandshakeRuntimeError),

    /// The peer held more handshakes open than its share while others waited, this one for the
    /// longest.
    #[error("given up in favour of other clients that waited")]
    Displaced,

    /// While the handshake went on, a new generation was put in force that does not trust the
    /// client.
    #[error("the client is trusted no more: {reason}")]
    Distrusted {
        /// What the verifier said.
        reason: Arc<str>,
    },

    /// The connection was served, and ended because a certificate was good no more.
    #[error("ended because {reason}")]
    Withdrawn {
        /// Which certificate, and what is wrong with it.
        reason: Arc<str>,
    },

    /// The inner service failed, either in `poll_ready` or after the handshake.
    #[error("connection handler failed")]
    Handler(#[source] BoxError),
}

impl HandshakeError {
    /// tokio-rustls wraps a `rustls::Error` in an `io::Error`. Undo that, so that callers can tell
    /// a misbehaving peer from a broken network.
    pub(super) fn from_io(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => match SignerError::within(&error) {
                Some(error) => Self::Signer(error),
                None => Self::Tls(error),
            },
            Err(error) => Self::Transport(error),
        }
    }

    /// What to tell the client where rustls cannot, for want of a certificate.
    pub(super) fn alert(&self) -> TlsAlert {
        match self {
            Self::UnknownName | Self::NoName => TlsAlert::UNRECOGNIZED_NAME,
            Self::Tls(_) => TlsAlert::HANDSHAKE_FAILURE,
            _ => TlsAlert::INTERNAL_ERROR,
        }
    }

    /// The innermost reason, without the "handshake failed" around it.
    pub(super) fn cause(&self) -> &dyn fmt::Display {
        match self {
            Self::Tls(error) => error,
            Self::Transport(error) => error,
            Self::Handler(error) => error,
            Self::Signer(error) => error,
            Self::Runtime(error) => error,
            _ => self,
        }
    }

    /// The class of the failure, to count by; `None` if the handshake did not fail.
    pub fn reason(&self) -> Option<HandshakeReason> {
        use HandshakeReason as R;
        Some(match self {
            Self::Tls(error) => of_tls(error),
            Self::Transport(error) if error.kind() == io::ErrorKind::UnexpectedEof => R::HungUp,
            Self::Transport(_) => R::Transport,
            Self::Timeout { .. } => R::Timeout,
            Self::UnknownName => R::UnknownName,
            Self::NoName => R::NoName,
            Self::Key { .. } => R::ServerKey,
            Self::Signer(error) if error.is_late() => R::SignerTimeout,
            Self::Signer(_) | Self::Runtime(_) => R::SignerFailed,
            Self::Displaced => R::Displaced,
            Self::Distrusted { .. } => R::ClientDistrusted,
            Self::Withdrawn { .. } | Self::Handler(_) => return None,
        })
    }
}

/// Why a handshake failed, as a class to count by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(usize)]
pub enum HandshakeReason {
    /// What came is not TLS.
    NotTls,
    /// The client broke the protocol.
    Protocol,
    /// Nothing in common: versions, cipher suites, groups, signature schemes.
    Incompatible,
    /// No application protocol in common.
    Alpn,
    /// No certificate for the name.
    UnknownName,
    /// No name, where one is insisted on.
    NoName,
    /// The client did not like what it was shown, the server's certificate as a rule, and said so.
    PeerAlert,
    /// The client showed no certificate where one is required.
    ClientCertMissing,
    /// The client's certificate has expired, or is not valid yet.
    ClientCertExpired,
    /// The client's certificate is revoked.
    ClientCertRevoked,
    /// Whether the client's certificate is revoked cannot be told: a CRL is missing or out of date.
    ClientCertStatusUnknown,
    /// Nobody who is trusted has issued the client's certificate.
    ClientCertIssuer,
    /// The client's certificate is bad in another way.
    ClientCertBad,
    /// The client was trusted no more by the end of the handshake.
    ClientDistrusted,
    /// The server's own key cannot be used.
    ServerKey,
    /// Whoever has the server's key failed to sign, or the handshake could not wait for it.
    SignerFailed,
    /// Whoever has the server's key did not sign in time.
    SignerTimeout,
    /// Not finished in time.
    Timeout,
    /// Given up in favour of others.
    Displaced,
    /// The client closed the connection.
    HungUp,
    /// The transport failed.
    Transport,
    /// Anything else.
    Other,
}

impl HandshakeReason {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::NotTls,
        Self::Protocol,
        Self::Incompatible,
        Self::Alpn,
        Self::UnknownName,
        Self::NoName,
        Self::PeerAlert,
        Self::ClientCertMissing,
        Self::ClientCertExpired,
        Self::ClientCertRevoked,
        Self::ClientCertStatusUnknown,
        Self::ClientCertIssuer,
        Self::ClientCertBad,
        Self::ClientDistrusted,
        Self::ServerKey,
        Self::SignerFailed,
        Self::SignerTimeout,
        Self::Timeout,
        Self::Displaced,
        Self::HungUp,
        Self::Transport,
        Self::Other,
    ];

    /// A name for metrics, e.g. `client_cert_revoked`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::Protocol => "protocol",
            Self::Incompatible => "incompatible",
            Self::Alpn => "alpn",
            Self::UnknownName => "unknown_name",
            Self::NoName => "no_name",
            Self::PeerAlert => "peer_alert",
            Self::ClientCertMissing => "client_cert_missing",
            Self::ClientCertExpired => "client_cert_expired",
            Self::ClientCertRevoked => "client_cert_revoked",
            Self::ClientCertStatusUnknown => "client_cert_status_unknown",
            Self::ClientCertIssuer => "client_cert_issuer",
            Self::ClientCertBad => "client_cert_bad",
            Self::ClientDistrusted => "client_distrusted",
            Self::ServerKey => "server_key",
            Self::SignerFailed => "signer_failed",
            Self::SignerTimeout => "signer_timeout",
            Self::Timeout => "timeout",
            Self::Displaced => "displaced",
            Self::HungUp => "hung_up",
            Self::Transport => "transport",
            Self::Other => "other",
        }
    }

    /// Whether it is what port scans, probes and closed laptops cause: no news.
    pub(super) fn is_noise(self) -> bool {
        matches!(self, Self::HungUp | Self::Transport)
    }
}

impl fmt::Display for HandshakeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn of_tls(error: &rustls::Error) -> HandshakeReason {
    use HandshakeReason as R;
    use rustls::Error as E;
    match error {
        E::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::InvalidEmptyPayload,
        ) => R::NotTls,
        E::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon) => {
            R::ClientCertBad
        }
        E::PeerIncompatible(_) => R::Incompatible,
        E::NoApplicationProtocol => R::Alpn,
        E::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
            R::HungUp
        }
        E::AlertReceived(_) => R::PeerAlert,
        E::NoCertificatesPresented => R::ClientCertMissing,
        E::InvalidCertificate(error) => of_certificate(error),
        E::InvalidCertRevocationList(_) => R::ClientCertStatusUnknown,
        E::InvalidMessage(_)
        | E::PeerMisbehaved(_)
        | E::DecryptError
        | E::InappropriateMessage { .. }
        | E::InappropriateHandshakeMessage { .. }
        | E::PeerSentOversizedRecord => R::Protocol,
        _ => R::Other,
    }
}

fn of_certificate(error: &CertificateError) -> HandshakeReason {
    use CertificateError as C;
    use HandshakeReason as R;
    match error {
        C::Expired | C::ExpiredContext { .. } | C::NotValidYet | C::NotValidYetContext { .. } => {
            R::ClientCertExpired
        }
        C::Revoked => R::ClientCertRevoked,
        C::UnknownRevocationStatus
        | C::ExpiredRevocationList
        | C::ExpiredRevocationListContext { .. } => R::ClientCertStatusUnknown,
        C::UnknownIssuer => R::ClientCertIssuer,
        _ => R::ClientCertBad,
    }
}

/// Counts of handshakes, by outcome. Clones of a layer share them.
#[derive(Debug, Default)]
pub struct HandshakeCounts {
    completed: AtomicU64,
    resumed: AtomicU64,
    failed: [AtomicU64; HandshakeReason::ALL.len()],
}

impl HandshakeCounts {
    /// Handshakes that were completed, resumed ones among them.
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Handshakes that resumed a session.
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// Handshakes that failed for this reason.
    pub fn failed(&self, reason: HandshakeReason) -> u64 {
        self.failed[reason as usize].load(Ordering::Relaxed)
    }

    /// Handshakes that failed.
    pub fn all_failed(&self) -> u64 {
        self.failed.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn note_completed(&self, resumed: bool) {
        self.completed.fetch_add(1, Ordering::Relaxed);
        if resumed {
            self.resumed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn note_failed(&self, reason: HandshakeReason) {
        self.failed[reason as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// What is at the bottom of an error.
pub(super) fn innermost(error: &HandshakeError) -> &dyn std::error::Error {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost
}
