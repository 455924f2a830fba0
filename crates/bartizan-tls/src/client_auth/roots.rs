//! The authorities of a CA file.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use x509_parser::prelude::X509Certificate;
use x509_parser::x509::X509Version;

use super::notice::{TrustConcern, TrustNotice};
use super::policy::unix;
use crate::der::wall;
use crate::load::{self, LoadError, LoadProblem};
use crate::pem::{self, Pem};
use crate::pem_source::PemSource;

/// An authority that is trusted while it is in date.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) anchor: TrustAnchor<'static>,
    pub(super) not_before: UnixTime,
    pub(super) not_after: UnixTime,
    /// Its name for people.
    pub(super) subject: String,
    /// Its SubjectPublicKeyInfo, DER.
    pub(super) spki: Vec<u8>,
    pub(super) sha256: [u8; 32],
    /// Where in the file it is.
    pub(super) section: usize,
}

/// The authorities in `source`, each once.
pub(super) fn load(
    source: &PemSource,
    now: SystemTime,
    notices: &mut Vec<TrustNotice>,
) -> Result<Vec<Root>, LoadError> {
    let pem = pem::parse(source.name(), &load::bytes(source)?)?;
    if pem.certs.is_empty() {
        return Err(LoadError::new(&pem.path, None, LoadProblem::NoCertificate));
    }
    let mut note = |section, what| notices.push(TrustNotice::new(&pem.path, Some(section), what));
    let mut roots: Vec<Root> = Vec::new();
    for (section, der) in &pem.certs {
        let cert = pem::certificate(&pem.path, *section, der)?;
        let subject = cert.subject().to_string();
        if !is_authority(&cert) {
            note(*section, TrustConcern::NotAnAuthority { subject });
            continue;
        }
        let root = Root::new(&pem, *section, der, &cert)?;
        if roots.iter().any(|known| known.sha256 == root.sha256) {
            continue;
        }
        let validity = cert.validity();
        if now > wall(&validity.not_after) {
            let since = validity.not_after.to_string();
            note(*section, TrustConcern::AuthorityExpired { subject, since });
        } else if now < wall(&validity.not_before) {
            let until = validity.not_before.to_string();
            note(*section, TrustConcern::AuthorityNotYetValid { subject, until });
        }
        roots.push(root);
    }
    for section in pem.keys.iter().map(|(section, _)| *section).chain(pem.encrypted) {
        note(section, TrustConcern::PrivateKey);
    }
    for (section, _) in &pem.crls {
        note(*section, TrustConcern::CrlAmongAuthorities);
    }
    if roots.is_empty() {
        return Err(LoadError::new(&pem.path, None, LoadProblem::NoAuthority));
    }
    Ok(roots)
}

impl Root {
    fn new(
        pem: &Pem,
        section: usize,
        der: &CertificateDer<'_>,
        cert: &X509Certificate<'_>,
    ) -> Result<Self, LoadError> {
        let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| {
            let problem = LoadProblem::BadCertificate(error.to_string());
            LoadError::new(&pem.path, Some(section), problem)
        })?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, der).as_ref());
        let validity = cert.validity();
        Ok(Self {
            anchor: anchor.to_owned(),
            not_before: unix(wall(&validity.not_before)),
            not_after: unix(wall(&validity.not_after)),
            subject: cert.subject().to_string(),
            spki: cert.public_key().raw.to_vec(),
            sha256,
            section,
        })
    }
}

/// Whether it may issue certificates, by OpenSSL's rules (`X509_check_ca`): a certificate says so in
/// its basic constraints; roots from before there were extensions do without, and so do those that
/// say it in their key usage alone. A trust anchor is not asked again in the handshake.
fn is_authority(cert: &X509Certificate<'_>) -> bool {
    let (Ok(usage), Ok(constraints)) = (cert.key_usage(), cert.basic_constraints()) else {
        return false; // Twice the same extension.
    };
    if usage.as_ref().is_some_and(|usage| !usage.value.key_cert_sign()) {
        return false;
    }
    match constraints {
        Some(constraints) => constraints.value.ca,
        None if cert.version() == X509Version::V1 => cert.subject() == cert.issuer(),
        None => usage.is_some(),
    }
}
