//! Why a check of a certificate failed.

use bartizan_net::{Address, BoxError, WrongIdentity};

use crate::CertificateProblem;

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
