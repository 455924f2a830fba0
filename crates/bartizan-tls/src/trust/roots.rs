//! The certificates that count by themselves.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Version;

use super::notice::{TrustConcern, TrustNotice};
use super::{Peer, unix};
use crate::der::wall;
use crate::load::{self, LoadError, LoadProblem};
use crate::pem;
use crate::pem_source::PemSource;

/// A certificate that is trusted while it is in date: an authority's, or one that vouches for
/// itself.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) anchor: TrustAnchor<'static>,
    pub(crate) not_before: UnixTime,
    pub(crate) not_after: UnixTime,
    /// Its name for people.
    pub(crate) subject: String,
    /// Its SubjectPublicKeyInfo, DER.
    pub(crate) spki: Vec<u8>,
    pub(crate) sha256: [u8; 32],
    /// Whether it vouches for others.
    pub(crate) is_authority: bool,
    /// Whether it was issued by who it is for.
    pub(crate) is_self_issued: bool,
    /// Where in the file it is, if it is from one.
    pub(crate) section: Option<usize>,
}

/// The authorities in `source`, each once. For servers, whose own certificate may stand among
/// them, those that were issued by nobody but themselves as well.
pub(crate) fn load(
    peer: Peer,
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
        if !counts(peer, &cert) {
            note(*section, TrustConcern::NotAnAuthority { subject });
            continue;
        }
        let root = Root::new(Some(*section), der, &cert).map_err(|error| {
            let problem = LoadProblem::BadCertificate(error.to_string());
            LoadError::new(&pem.path, Some(*section), problem)
        })?;
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

/// The certificate in `der`, if it counts and can be read.
pub(crate) fn from_der(peer: Peer, der: &CertificateDer<'_>) -> Option<Root> {
    let Ok((&[], cert)) = X509Certificate::from_der(der) else { return None };
    if counts(peer, &cert) { Root::new(None, der, &cert).ok() } else { None }
}

impl Root {
    fn new(
        section: Option<usize>,
        der: &CertificateDer<'_>,
        cert: &X509Certificate<'_>,
    ) -> Result<Self, webpki::Error> {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, der).as_ref());
        let validity = cert.validity();
        Ok(Self {
            anchor: webpki::anchor_from_trusted_cert(der)?.to_owned(),
            not_before: unix(wall(&validity.not_before)),
            not_after: unix(wall(&validity.not_after)),
            subject: cert.subject().to_string(),
            spki: cert.public_key().raw.to_vec(),
            sha256,
            is_authority: is_authority(cert),
            is_self_issued: is_self_issued(cert),
            section,
        })
    }
}

fn counts(peer: Peer, cert: &X509Certificate<'_>) -> bool {
    is_authority(cert) || peer == Peer::Server && is_self_issued(cert)
}

/// Whether the issuer's name is its own.
pub(crate) fn is_self_issued(cert: &X509Certificate<'_>) -> bool {
    cert.subject().as_raw() == cert.issuer().as_raw()
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
