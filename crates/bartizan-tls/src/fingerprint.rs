//! Digests of certificates and keys.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, digest};
use rustls::pki_types::CertificateDer;

/// A SHA-256 digest. Displays as lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest of `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self::new(digest(&SHA256, bytes).as_ref())
    }

    /// The digest of the certificates of a chain, one after another.
    pub(crate) fn of_chain(chain: &[CertificateDer<'_>]) -> Self {
        let mut whole = Context::new(&SHA256);
        for cert in chain {
            // Its DER says how long each is, so no two chains are the same bytes.
            whole.update(cert);
        }
        Self::new(whole.finish().as_ref())
    }

    pub(crate) fn new(digest: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest);
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
