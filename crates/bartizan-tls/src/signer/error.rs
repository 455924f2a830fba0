//! Why a key elsewhere gave no signature.

use std::io;
use std::sync::Arc;
use std::time::Duration;

#[cfg(unix)]
use super::UnixSignerError;

/// A key that lives elsewhere could not be used. The operator's fault, as a rule: the signer is to
/// be seen to.
///
/// Out of a handshake it comes within a `rustls::Error::Other`.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignerError {
    /// The public key is of no kind that TLS signs with.
    #[error(
        "the public key is none that is supported; keys are ECDSA on P-256, P-384 or P-521, RSA, \
         or Ed25519"
    )]
    UnsupportedKey,

    /// There was no signature in time.
    #[error(
        "the signer has not signed within {limit:?}; see whether it runs and is not overloaded"
    )]
    Late {
        /// How long was waited.
        limit: Duration,
    },

    /// The signing service failed.
    #[error("the signer failed")]
    Failed(#[source] Arc<dyn std::error::Error + Send + Sync>),

    /// The signing service panicked.
    #[error("the signer panicked; the panic's message is on standard error")]
    Panicked,

    /// The thread that signing services run on could not be started.
    #[error("the signer's thread cannot be started; see the limits on threads and descriptors")]
    Start(#[source] Arc<io::Error>),
}

impl SignerError {
    /// Whether it is for want of time.
    pub fn is_late(&self) -> bool {
        match self {
            Self::Late { .. } => true,
            #[cfg(unix)]
            Self::Failed(error) => {
                matches!(error.downcast_ref(), Some(UnixSignerError::Late { .. }))
            }
            _ => false,
        }
    }

    /// Takes it out of what rustls says, if it is there.
    pub(crate) fn within(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::Other(other) => other.0.downcast_ref().cloned(),
            _ => None,
        }
    }
}

impl From<SignerError> for rustls::Error {
    fn from(error: SignerError) -> Self {
        Self::Other(rustls::OtherError(Arc::new(error)))
    }
}
