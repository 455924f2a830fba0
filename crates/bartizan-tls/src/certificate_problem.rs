//! What is wrong with a certificate.

use bartizan_net::Address;
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error};

use crate::fingerprint::Fingerprint;
use crate::server_trust::Pin;
use crate::store::date;

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

    /// It is for another workload, or for none: its SPIFFE ID is not among those that are accepted.
    #[error("{}", spiffe_text(expected, presented))]
    WrongSpiffeId {
        /// The IDs and trust domains that are accepted, sixteen at most.
        expected: Vec<String>,
        /// The URIs that it is for, sixteen at most. An X.509-SVID has exactly one.
        presented: Vec<String>,
    },

    /// Its key is none of those that it has to have, though all else may be right.
    #[error(
        "the certificate has the key {presented}, but only {} is accepted; if the key was changed \
         on purpose, pin the new one, and keep two pins while keys change",
        list(expected, " or ")
    )]
    PinMismatch {
        /// The pin of what was presented.
        presented: Pin,
        /// The pins that are accepted, sixteen at most.
        expected: Vec<Pin>,
    },

    /// It was issued by nobody but itself, and is not trusted for itself.
    #[error(
        "the certificate is self-signed and not among the roots; if it is the backend's, add it to \
         the roots, or go by a pin of its key alone"
    )]
    SelfSigned,

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

    /// There are revocation lists, but none that can be applied to it, or to one above it.
    #[error(
        "no revocation list tells whether the certificate, or one above it, was revoked; add the \
         list of its issuer, or allow what no list covers"
    )]
    RevocationUnknown,

    /// The revocation list of an issuer is out of date.
    #[error(
        "the revocation list for the certificate, or for one above it, expired{}; fetch a new one",
        since_text(since)
    )]
    CrlExpired {
        /// Its next-update date, if that is known.
        since: Option<String>,
    },

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
    pub(crate) fn of(error: &Error, expected: &str) -> Option<Self> {
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
            E::UnknownRevocationStatus => Self::RevocationUnknown,
            E::ExpiredRevocationListContext { next_update, .. } => {
                Self::CrlExpired { since: Some(day(*next_update)) }
            }
            E::ExpiredRevocationList => Self::CrlExpired { since: None },
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

fn spiffe_text(expected: &[String], presented: &[String]) -> String {
    let accepted = list(expected, " or ");
    match presented {
        [] => format!(
            "the certificate has no SPIFFE ID, but has to be for {accepted}; give the backend an \
             X.509-SVID"
        ),
        [id] => format!(
            "the certificate is not for {accepted} but for {id}; correct the backend's \
             registration, or the ID to verify"
        ),
        several => format!(
            "the certificate has several URIs ({}), of which an X.509-SVID has exactly one; give \
             the backend one for {accepted}",
            list(several, ", ")
        ),
    }
}

fn list<T: ToString>(items: &[T], between: &str) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

/// A certificate may be for thousands, and an error is for people.
pub(crate) const MOST_NAMES: usize = 16;
