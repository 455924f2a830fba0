//! Why a check of a certificate failed.

use bartizan_net::{Address, BoxError, WrongIdentity};
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error};

use super::answer::Fingerprint;
use crate::store::date;

/// Why a [`CertificateCheck`](super::CertificateCheck) failed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum CertificateCheckError {
    /// It is not said what name the certificate is to be for. The operator's fault.
    #[error(
        "no name to verify the certificate of {address} by; set one on the check or as the \
         backend's server name"
    )]
    NoName {
        /// What was to be checked.
        address: Address,
    },

    /// The name that the certificate is to be for is none. The operator's fault.
    #[error("`{name}` is neither a host name nor an IP address, so no certificate is for it")]
    BadName {
        /// The name.
        name: String,
    },

    /// There is no connection.
    #[error("no connection to check the certificate on")]
    Dial(#[source] BoxError),

    /// The handshake broke off for another reason than the certificate.
    #[error("the TLS handshake failed")]
    Handshake(#[source] std::io::Error),

    /// The certificate is not acceptable. The source of the source is a [`CertificateProblem`].
    #[error("the certificate was refused")]
    Certificate(#[source] WrongIdentity),
}

impl CertificateCheckError {
    /// What is wrong with the certificate, if it is that.
    pub fn problem(&self) -> Option<&CertificateProblem> {
        match self {
            Self::Certificate(wrong) => wrong.reason().downcast_ref(),
            _ => None,
        }
    }
}

impl From<CertificateProblem> for CertificateCheckError {
    fn from(problem: CertificateProblem) -> Self {
        Self::Certificate(WrongIdentity::new(problem))
    }
}

/// What is wrong with a certificate that was presented. The backend's operator has to act.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// It is for other names.
    #[error(
        "the certificate is not for {expected} but for {}; install the one that is, or correct the \
         name to verify", if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") }
    )]
    WrongName {
        /// The name that was verified.
        expected: String,
        /// The names that it is for, sixteen at most.
        names: Vec<String>,
    },

    /// No authority vouches for it.
    #[error(
        "no trusted authority vouches for the certificate; send its intermediates with it, or add \
         its authority to the roots"
    )]
    Untrusted,

    /// It has expired, or one above it.
    #[error("the certificate expired{}; renew it, and reload the backend", since_text(since))]
    Expired {
        /// Its not-after date, if that is known.
        since: Option<String>,
    },

    /// It is not valid yet, or one above it.
    #[error("the certificate is not valid yet{}; look at the clocks", until_text(until))]
    NotYetValid {
        /// Its not-before date, if that is known.
        until: Option<String>,
    },

    /// It cannot be read.
    #[error("the certificate cannot be read: {0}; install one that is well-formed")]
    Malformed(String),

    /// It was revoked.
    #[error("the certificate was revoked; replace it")]
    Revoked,

    /// It is as good as expired.
    #[error(
        "the certificate has {left} days left, fewer than {least}: it expires on {until}; renew it"
    )]
    TooFewDays {
        /// Whole days left.
        left: u64,
        /// Days that have to be left.
        least: u64,
        /// Its not-after date.
        until: String,
    },

    /// The others present another chain.
    #[error(
        "it presents the certificate chain {chain}, but {other} and the majority present \
         {majority}; install the same chain on all"
    )]
    Different {
        /// SHA-256 of the chain that was presented.
        chain: Fingerprint,
        /// SHA-256 of the chain that most others present.
        majority: Fingerprint,
        /// One of them.
        other: Address,
    },

    /// Another reason why the verifier does not accept it.
    #[error("the certificate is not acceptable: {0}; replace it")]
    Unacceptable(String),
}

impl CertificateProblem {
    /// What the handshake says of the certificate; `None` if it failed for something else.
    pub(super) fn of(error: &Error, expected: &str) -> Option<Self> {
        use CertificateError as E;
        let Error::InvalidCertificate(error) = error else { return None };
        Some(match error {
            E::NotValidForNameContext { presented, .. } => Self::WrongName {
                expected: expected.to_owned(),
                names: presented.iter().take(MOST_NAMES).cloned().collect(),
            },
            E::NotValidForName => {
                Self::WrongName { expected: expected.to_owned(), names: Vec::new() }
            }
            E::UnknownIssuer => Self::Untrusted,
            E::ExpiredContext { not_after, .. } => Self::Expired { since: Some(day(*not_after)) },
            E::Expired => Self::Expired { since: None },
            E::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid { until: Some(day(*not_before)) }
            }
            E::NotValidYet => Self::NotYetValid { until: None },
            E::BadEncoding => Self::Malformed("bad encoding".to_owned()),
            E::Revoked => Self::Revoked,
            other => Self::Unacceptable(other.to_string()),
        })
    }
}

fn day(time: UnixTime) -> String {
    let since = std::time::Duration::from_secs(time.as_secs());
    std::time::SystemTime::UNIX_EPOCH
        .checked_add(since)
        .map_or_else(|| "an unknown date".to_owned(), date)
}

fn since_text(since: &Option<String>) -> String {
    since.as_ref().map_or_else(String::new, |since| format!(" on {since}"))
}

fn until_text(until: &Option<String>) -> String {
    until.as_ref().map_or_else(String::new, |until| format!(", not before {until}"))
}

/// A certificate may be for thousands, and an error is for people.
const MOST_NAMES: usize = 16;
