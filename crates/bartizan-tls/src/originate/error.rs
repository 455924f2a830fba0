//! Why there is no TLS connection to a backend.

use std::io;
use std::time::Duration;

use bartizan_net::{Address, BoxError, WrongIdentity};

use crate::{CertificateProblem, PresentedCertificate, SignerError};

/// Why a [`TlsOriginate`](super::TlsOriginate) could not connect to a backend.
///
/// Each says which backend, how far it got, and what to do. None of it is for clients, who see
/// `502 Bad Gateway` alone.
///
/// | phase | errors |
/// | --- | --- |
/// | before | [`BadName`](Self::BadName), [`Config`](Self::Config), [`NotReady`](Self::NotReady) |
/// | dial | [`Dial`](Self::Dial) |
/// | handshake | [`Timeout`](Self::Timeout), [`NotTls`](Self::NotTls), [`Closed`](Self::Closed), [`Incompatible`](Self::Incompatible), [`Refused`](Self::Refused), [`ClientCertificate`](Self::ClientCertificate), [`Signer`](Self::Signer), [`Handshake`](Self::Handshake) |
/// | verify | [`Certificate`](Self::Certificate) |
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum OriginateError {
    /// The name that the backend has to prove is none. The operator's fault.
    #[error(
        "`{name}` of {address} is neither a host name nor an IP address, so no certificate is for \
         it; correct the backend's server name"
    )]
    BadName {
        /// The backend.
        address: Address,
        /// The name.
        name: String,
    },

    /// The settings do not go together. The operator's fault.
    #[error("TLS to {address} cannot be set up")]
    Config {
        /// The backend.
        address: Address,
        /// The TLS library's reason.
        #[source]
        source: BoxError,
    },

    /// The service beneath takes no dials.
    #[error("nothing can be dialled for TLS")]
    NotReady {
        /// Why.
        #[source]
        source: BoxError,
    },

    /// There is no connection to make a handshake on.
    #[error("no connection to {address} for TLS")]
    Dial {
        /// The backend.
        address: Address,
        /// Why.
        #[source]
        source: BoxError,
    },

    /// The handshake was not over in time.
    #[error("{address} did not complete the TLS handshake within {limit:?}")]
    Timeout {
        /// The backend.
        address: Address,
        /// The limit.
        limit: Duration,
    },

    /// What the backend answered is not TLS.
    #[error(
        "{address} does not speak TLS: it answered the handshake with something else; enable TLS \
         there, or correct the port"
    )]
    NotTls {
        /// The backend.
        address: Address,
    },

    /// The backend closed the connection in the middle of the handshake, without an alert.
    #[error("{address} closed the connection during the TLS handshake; its log may say why")]
    Closed {
        /// The backend.
        address: Address,
    },

    /// There is no version, cipher suite, group, signature or protocol that both sides have.
    #[error("{address} and this side have no way of TLS in common: {what}")]
    Incompatible {
        /// The backend.
        address: Address,
        /// What is missing.
        what: String,
    },

    /// The backend refused the handshake with an alert.
    #[error("{address} refused the TLS handshake with the alert {alert}{}", hint(alert))]
    Refused {
        /// The backend.
        address: Address,
        /// The alert, under its name in RFC 8446 §6.
        alert: String,
    },

    /// The backend wants another client certificate than it was shown, or one at all.
    #[error(
        "{address} {} (alert {alert})",
        if *shown {
            "does not accept the client certificate that it was shown; look at its dates, and at \
             whom the backend trusts"
        } else {
            "requires a client certificate, and none is set for it"
        }
    )]
    ClientCertificate {
        /// The backend.
        address: Address,
        /// The alert, under its name in RFC 8446 §6.
        alert: String,
        /// Whether there was one to show.
        shown: bool,
    },

    /// The key of the client certificate lives elsewhere, and its signer failed or was late. The
    /// operator's fault.
    #[error("no signature for the client certificate, which {address} asks for")]
    Signer {
        /// The backend.
        address: Address,
        /// Why.
        #[source]
        source: SignerError,
    },

    /// The handshake failed for another reason.
    #[error("the TLS handshake with {address} failed")]
    Handshake {
        /// The backend.
        address: Address,
        /// The reason.
        #[source]
        source: io::Error,
    },

    /// The backend is not who it has to be. The source of the source is a [`CertificateProblem`].
    #[error(
        "{address} has not proven to be {expected}{}",
        presented.as_ref().map_or_else(String::new, |shown| format!("; it presented {shown}"))
    )]
    Certificate {
        /// The backend.
        address: Address,
        /// The name that was asked for.
        expected: String,
        /// What was presented, as far as it can be read.
        presented: Option<Box<PresentedCertificate>>,
        /// What is wrong with it.
        #[source]
        source: WrongIdentity,
    },
}

impl OriginateError {
    /// What is wrong with the certificate, if it is that.
    pub fn problem(&self) -> Option<&CertificateProblem> {
        match self {
            Self::Certificate { source, .. } => source.reason().downcast_ref(),
            _ => None,
        }
    }

    /// The backend, if it had been chosen.
    pub fn address(&self) -> Option<&Address> {
        match self {
            Self::NotReady { .. } => None,
            Self::BadName { address, .. }
            | Self::Config { address, .. }
            | Self::Dial { address, .. }
            | Self::Timeout { address, .. }
            | Self::NotTls { address }
            | Self::Closed { address }
            | Self::Incompatible { address, .. }
            | Self::Refused { address, .. }
            | Self::ClientCertificate { address, .. }
            | Self::Signer { address, .. }
            | Self::Handshake { address, .. }
            | Self::Certificate { address, .. } => Some(address),
        }
    }
}

fn hint(alert: &str) -> &'static str {
    match alert {
        "unrecognized_name" => "; it does not know the server name that it was asked for",
        "no_application_protocol" => "; it speaks none of the protocols that were offered (ALPN)",
        "protocol_version" => "; it has no TLS version in common with this side",
        "handshake_failure" | "insufficient_security" => {
            "; it has no cipher suite or certificate that fits, or wants a client certificate"
        }
        _ => "",
    }
}
