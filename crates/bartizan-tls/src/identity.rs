//! A certificate chain with its key.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bartizan_net::clock::{Clock, SystemClock};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::load::{self, LoadError, LoadProblem, Pem};

/// A certificate chain with its private key: what a server proves its name with.
///
/// It is whole once it exists: the key belongs to the leaf, the leaf is valid now, and the chain is
/// in order (leaf first, each issuer after what it issued). The key never shows in `Debug`.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Identity {
    /// Loads leaf, chain and key, in any order, out of one PEM file.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which file, which section of it, and what is wrong.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let pem = load::read(path)?;
        Self::build(pem, None, &SystemClock)
    }

    /// Loads leaf and chain, in any order, out of one PEM file and the key out of another.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which file, which section of it, and what is wrong.
    pub fn from_pem_files(
        certs: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, LoadError> {
        let certs = load::read(certs.as_ref())?;
        let key = load::read(key.as_ref())?;
        Self::build(certs, Some(key), &SystemClock)
    }

    /// Reads leaf, chain and key, in any order, out of PEM text. `name` stands for the file in
    /// errors.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which section, and what is wrong.
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self, LoadError> {
        Self::from_pem_at(name, pem, &SystemClock)
    }

    /// [`from_pem`](Self::from_pem), with another clock to judge the leaf's validity by.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which section, and what is wrong.
    pub fn from_pem_at(name: &str, pem: &[u8], clock: &dyn Clock) -> Result<Self, LoadError> {
        Self::build(load::parse(Path::new(name), pem)?, None, clock)
    }

    /// From when on the leaf is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when the leaf is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    fn build(certs: Pem, key: Option<Pem>, clock: &dyn Clock) -> Result<Self, LoadError> {
        let cert_file = certs.path.clone();
        let key_file = key.as_ref().unwrap_or(&certs);
        let signer = signer(key_file)?;
        if certs.certs.is_empty() {
            return Err(LoadError::new(&cert_file, None, LoadProblem::NoCertificate));
        }
        let spki = signer.public_key();
        let mut parsed = Vec::with_capacity(certs.certs.len());
        for (section, der) in &certs.certs {
            let wrong = |what| {
                LoadError::new(&cert_file, Some(*section), LoadProblem::BadCertificate(what))
            };
            let (rest, cert) =
                X509Certificate::from_der(der).map_err(|error| wrong(error.to_string()))?;
            if !rest.is_empty() {
                return Err(wrong("there is more behind the certificate".to_owned()));
            }
            parsed.push(cert);
        }
        // A key that cannot tell its public half (none of aws-lc-rs') goes with the first.
        let leaf = spki.as_ref().map_or(Some(0), |spki| {
            parsed.iter().position(|cert| cert.tbs_certificate.subject_pki.raw == spki.as_ref())
        });
        let Some(leaf) = leaf else {
            return Err(LoadError::new(
                &key_file.path,
                None,
                LoadProblem::KeyMismatch { certs: cert_file },
            ));
        };
        let validity = &parsed[leaf].tbs_certificate.validity;
        let (not_before, not_after) = (wall(&validity.not_before), wall(&validity.not_after));
        let now = clock.now();
        let problem = if now > not_after {
            Some(LoadProblem::Expired { since: text(&validity.not_after) })
        } else if now < not_before {
            Some(LoadProblem::NotYetValid { until: text(&validity.not_before) })
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(LoadError::new(&cert_file, Some(certs.certs[leaf].0), problem));
        }
        let order = chain_order(&parsed, leaf);
        drop(parsed);
        let chain = order.into_iter().map(|i| certs.certs[i].1.clone()).collect();
        Ok(Self { certified: Arc::new(CertifiedKey::new(chain, signer)), not_before, not_after })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("chain", &self.certified.cert.len())
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn signer(file: &Pem) -> Result<Arc<dyn SigningKey>, LoadError> {
    let (section, key) = match file.keys.as_slice() {
        [one] => one,
        [] => {
            let problem = file.encrypted.map_or(LoadProblem::NoKey, |_| LoadProblem::EncryptedKey);
            return Err(LoadError::new(&file.path, file.encrypted, problem));
        }
        [_, (second, _), ..] => {
            return Err(LoadError::new(&file.path, Some(*second), LoadProblem::SeveralKeys));
        }
    };
    let key: &PrivateKeyDer<'static> = key;
    aws_lc_rs::sign::any_supported_type(key)
        .map_err(|e| LoadError::new(&file.path, Some(*section), LoadProblem::BadKey(e.to_string())))
}

/// The leaf, then whoever issued the one before, then what nothing leads to, as it came.
fn chain_order(certs: &[X509Certificate<'_>], leaf: usize) -> Vec<usize> {
    let mut order = vec![leaf];
    let mut left: Vec<usize> = (0..certs.len()).filter(|i| *i != leaf).collect();
    let mut last = leaf;
    while let Some(at) = left.iter().position(|i| certs[*i].subject() == certs[last].issuer()) {
        last = left.remove(at);
        order.push(last);
    }
    order.extend(left);
    order
}

fn wall(time: &ASN1Time) -> SystemTime {
    time.to_datetime().into()
}

fn text(time: &ASN1Time) -> String {
    time.to_string()
}

#[cfg(test)]
mod tests;
