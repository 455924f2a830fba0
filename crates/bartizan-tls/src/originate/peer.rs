//! Who a server is, in plain types.

use aws_lc_rs::digest::{SHA256, digest};
use bartizan_net::PeerIdentity;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::der::wall;

/// The identity in a leaf; `None` if it cannot be read, which no verifier lets pass.
pub(super) fn server_identity(leaf: &CertificateDer<'_>) -> Option<PeerIdentity> {
    let (_, cert) = X509Certificate::from_der(leaf).ok()?;
    let mut identity = PeerIdentity::new(sha256(cert.public_key().raw), sha256(leaf));
    identity.not_after = Some(wall(&cert.validity().not_after));
    Some(identity)
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}
