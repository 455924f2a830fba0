//! What a check found.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::der::wall;
use crate::fingerprint::Fingerprint;
use crate::store::names_of;

/// A certificate that was presented and is acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckedCertificate {
    /// The first moment at which the leaf is valid.
    pub not_before: SystemTime,
    /// The last one.
    pub not_after: SystemTime,
    /// Whole days until then.
    pub days_left: u64,
    /// SHA-256 over the certificates of the chain as they were presented, one after another.
    pub chain: Fingerprint,
    /// SHA-256 of the leaf.
    pub leaf: Fingerprint,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo, as pins have it (RFC 7469 §2.4).
    pub spki: Fingerprint,
    /// The application protocol agreed on. `None` as well if the backend asked for a certificate
    /// of ours in TLS 1.2 and broke off.
    pub alpn: Option<Arc<[u8]>>,
    /// The DNS names of the leaf, in lower case.
    pub names: Vec<String>,
}

impl CheckedCertificate {
    /// Whether HTTP/2 was agreed on.
    pub fn is_h2(&self) -> bool {
        self.alpn.as_deref() == Some(b"h2")
    }

    /// Reads the leaf of a chain that was verified; the text says why it cannot be read.
    pub(super) fn read(chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Self, String> {
        let leaf = chain.first().ok_or("there is none")?;
        let (_, cert) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let not_after = wall(&cert.validity().not_after);
        let left = not_after.duration_since(now).unwrap_or(Duration::ZERO);
        Ok(Self {
            not_before: wall(&cert.validity().not_before),
            not_after,
            days_left: left.as_secs() / 86_400,
            chain: Fingerprint::of_chain(chain),
            leaf: Fingerprint::of(leaf),
            spki: Fingerprint::of(cert.public_key().raw),
            alpn: None,
            names: names_of(&cert).iter().map(ToString::to_string).collect(),
        })
    }
}
