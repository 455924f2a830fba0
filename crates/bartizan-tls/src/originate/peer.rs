//! Who a server is, in plain types.

use bartizan_net::PeerIdentity;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Fingerprint;
use crate::der::wall;

/// The identity in a leaf; `None` if it cannot be read, which no verifier lets pass.
pub(super) fn server_identity(leaf: &CertificateDer<'_>) -> Option<PeerIdentity> {
    let (_, cert) = X509Certificate::from_der(leaf).ok()?;
    let spki = Fingerprint::of(cert.public_key().raw);
    let mut identity = PeerIdentity::new(*spki.as_bytes(), *Fingerprint::of(leaf).as_bytes());
    identity.not_after = Some(wall(&cert.validity().not_after));
    Some(identity)
}
