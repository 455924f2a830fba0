//! What is private, for the fuzz targets in `fuzz/`. Compiled with `--cfg fuzzing` alone, which
//! cargo-fuzz and `fuzz/run` set; no part of the API.

use std::path::Path;
use std::time::SystemTime;

use bartizan_net::ClientIdentity;
use rustls::pki_types::CertificateDer;
use rustls::server::ClientHello;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::der::{BadDer, Elements};
use crate::key::{Format, KeyDer};
use crate::{CertStore, ClientAuth, LoadError, StapleProblem};
use crate::{ocsp, peer, pem, signer, tickets};
use bartizan_net::{HostPattern, fold_host};

/// The sections of PEM text that are read: number, label, content.
pub fn pem(text: &[u8]) -> Result<Vec<(usize, &'static str, Vec<u8>)>, LoadError> {
    let pem = pem::parse(Path::new("input.pem"), text)?;
    let mut found = Vec::new();
    found.extend(pem.certs.iter().map(|(at, der)| (*at, "CERTIFICATE", der.to_vec())));
    found.extend(pem.crls.iter().map(|(at, der)| (*at, "X509 CRL", der.to_vec())));
    found.extend(pem.keys.iter().map(|(at, key)| {
        let (format, der) = key.parts();
        (*at, label(format), der.to_vec())
    }));
    found.sort();
    Ok(found)
}

/// Whether the key is the one of the certificate: what its file tells, and what the crypto library
/// tells, `None` each where it tells nothing. `format` is 0 for PKCS#8, 1 for PKCS#1, else SEC1.
pub fn key_belongs(format: u8, key: &[u8], cert: &[u8]) -> (Option<bool>, Option<bool>) {
    let format = match format {
        0 => Format::Pkcs8,
        1 => Format::Pkcs1,
        _ => Format::Sec1,
    };
    let Ok((_, cert)) = X509Certificate::from_der(cert) else { return (None, None) };
    let spki = &cert.tbs_certificate.subject_pki;
    let key = KeyDer::new(format, key.into());
    let told = key.belongs_to(spki);
    let public = key.signer().ok().and_then(|signer| signer.public_key().map(|spki| spki.to_vec()));
    (told, public.map(|public| public == spki.raw))
}

/// A name of a certificate or a rule, and whether it is for itself.
#[derive(Debug)]
pub struct Name {
    /// As it is looked up.
    pub key: String,
    /// As it is shown.
    pub shown: String,
    /// What a look-up makes of the key.
    pub folded: String,
    /// Whether it stands for its key.
    pub covers_key: bool,
    /// Whether it stands for its key behind a label.
    pub covers_below: bool,
}

/// Reads a host name or a wildcard.
pub fn name(text: &str) -> Result<Name, bartizan_net::BadHostPattern> {
    let pattern = HostPattern::parse(text)?;
    let key = pattern.key();
    Ok(Name {
        key: key.to_owned(),
        shown: pattern.to_string(),
        folded: fold_host(key).into_owned(),
        covers_key: pattern.covers(key),
        covers_below: pattern.covers(&format!("label.{}", key.trim_start_matches('.'))),
    })
}

/// DER elements one after another, whole and without identifier and length, up to the first that
/// is none.
pub fn der_elements(der: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut elements = Elements::new(der);
    std::iter::from_fn(|| elements.next().ok()).map(|e| (e.raw, e.content)).collect()
}

/// Reads the next element as each of the kinds that are read: whether it is a sequence, bits, a
/// moment.
pub fn der_kinds(der: &[u8]) -> [bool; 4] {
    fn read<'a, T>(
        der: &'a [u8],
        with: impl FnOnce(&mut Elements<'a>) -> Result<T, BadDer>,
    ) -> bool {
        with(&mut Elements::new(der)).is_ok()
    }
    [
        Elements::of_sequence(der).is_ok(),
        read(der, Elements::sequence),
        read(der, Elements::bits),
        read(der, |elements| elements.time().map(|time| crate::der::wall(&time))),
    ]
}

/// Checks an OCSP response: the bytes to staple, from when on, and until when.
pub fn staple(
    response: &[u8],
    leaf: &[u8],
    issuer: Option<&[u8]>,
    now: SystemTime,
) -> Result<(Vec<u8>, SystemTime, SystemTime), StapleProblem> {
    let issuer = issuer.map(CertificateDer::from);
    let staple = ocsp::check(response, &leaf.into(), issuer.as_ref(), now)?;
    Ok((staple.der.to_vec(), staple.this_update, staple.next_update))
}

/// The digest of whom a policy lets in, and its notices as text.
pub fn trust(auth: &ClientAuth, now: SystemTime) -> Result<([u8; 32], Vec<String>), LoadError> {
    let (policy, notices) = auth.load(now)?;
    Ok((policy.trust, notices.iter().map(ToString::to_string).collect()))
}

/// What a client's chain tells of it.
pub fn client_identity(chain: &[&[u8]]) -> ClientIdentity {
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(*der)).collect();
    peer::client_identity(&chain)
}

/// The certificates in the session of a ticket.
pub fn client_chain(session: &[u8]) -> Option<Vec<CertificateDer<'_>>> {
    tickets::client_chain(session)
}

/// The certificate that a client gets, and whether as the default; `None` if it is refused.
pub fn choose(store: &CertStore, hello: &ClientHello<'_>) -> Option<(String, bool)> {
    let chosen = store.current().choose(hello, store.now()).ok()?;
    Some((chosen.entry.source.to_string(), chosen.is_default))
}

/// The request to a key server that `bytes` begin with, written once more.
pub fn signing_request(bytes: &[u8]) -> Option<Vec<u8>> {
    signer::rewritten(bytes)
}

fn label(format: Format) -> &'static str {
    match format {
        Format::Pkcs8 => "PRIVATE KEY",
        Format::Pkcs1 => "RSA PRIVATE KEY",
        Format::Sec1 => "EC PRIVATE KEY",
    }
}
