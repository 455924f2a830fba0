//! A certificate chain with its key.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bartizan_net::clock::{Clock, SystemClock};
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use crate::load::{self, LoadError, LoadProblem};
use crate::pem::{self, Pem};
use crate::signer::RemoteSigner;
use crate::store::{Chains, Entry, Parts};

/// A certificate chain with its private key: what a server proves its name with.
///
/// It is whole once it exists: the key belongs to the leaf, the leaf is valid now, and the chain is
/// in order (leaf first, each issuer after what it issued). The key never shows in `Debug`.
///
/// For many certificates, or for ones that change, see [`CertStore`](crate::CertStore), which an
/// identity turns into as well.
#[derive(Clone)]
pub struct Identity {
    entry: Arc<Entry>,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// Loads leaf, chain and key, in any order, out of one PEM file.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which file, which section of it, and what is wrong.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let text = load::read_bytes(path)?;
        Self::build(pem::parse(path, &text)?, None, &SystemClock)
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
        let (certs, key) = (certs.as_ref(), key.as_ref());
        let (cert_text, key_text) = (load::read_bytes(certs)?, load::read_bytes(key)?);
        let (certs, key) = (pem::parse(certs, &cert_text)?, pem::parse(key, &key_text)?);
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
    pub fn from_pem_at(name: &str, text: &[u8], clock: &dyn Clock) -> Result<Self, LoadError> {
        Self::build(pem::parse(Path::new(name), text)?, None, clock)
    }

    /// Reads leaf and chain out of PEM text, for a key that lives elsewhere: `signer` signs. `name`
    /// stands for the file in errors.
    ///
    /// `signer` is a signing service such as [`UnixSigner`](crate::UnixSigner), or a [`RemoteSigner`]
    /// with another deadline than 2 s. It is not asked before the first handshake.
    ///
    /// The chain is in any order. The leaf is the first certificate that is no authority's.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which section, and what is wrong. A private key is: where the key lies
    /// beside the certificate it is no more apart.
    pub fn with_signer(
        name: &str,
        chain_pem: &[u8],
        signer: impl Into<RemoteSigner>,
    ) -> Result<Self, LoadError> {
        let chain = pem::parse(Path::new(name), chain_pem)?;
        Self::make(chain, None, Some(signer.into()), &SystemClock)
    }

    /// [`with_signer`](Self::with_signer), with the chain in a file.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which section, and what is wrong.
    pub fn with_signer_from_file(
        chain: impl AsRef<Path>,
        signer: impl Into<RemoteSigner>,
    ) -> Result<Self, LoadError> {
        let path = chain.as_ref();
        // A key may be in it by mistake, and is not to stay in memory.
        let text = load::read_bytes(path)?;
        Self::make(pem::parse(path, &text)?, None, Some(signer.into()), &SystemClock)
    }

    /// Whether the key lives elsewhere, so that signing blocks: see [`RemoteKey`](crate::RemoteKey).
    pub fn has_remote_key(&self) -> bool {
        self.entry.has_remote_key()
    }

    /// From when on the leaf is valid.
    pub fn not_before(&self) -> SystemTime {
        self.entry.not_before
    }

    /// Until when the leaf is valid.
    pub fn not_after(&self) -> SystemTime {
        self.entry.not_after
    }

    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    fn build(certs: Pem, key: Option<Pem>, clock: &dyn Clock) -> Result<Self, LoadError> {
        Self::make(certs, key, None, clock)
    }

    fn make(
        certs: Pem,
        key: Option<Pem>,
        signer: Option<RemoteSigner>,
        clock: &dyn Clock,
    ) -> Result<Self, LoadError> {
        let file = certs.path.clone();
        let key_file = key.as_ref().map_or_else(|| file.clone(), |key| key.path.clone());
        let source = file.display().to_string().into();
        let now = clock.now();
        let parts = Parts {
            source,
            certs,
            key,
            signer,
            issuers: None,
            ocsp: None,
            names: None,
            seal: None,
        };
        let entry = Entry::new(parts, &Chains::default(), now)?;
        if let Some(problem) = entry.date_problem(now) {
            return Err(LoadError::new(&file, Some(entry.sections.0 as usize), problem));
        }
        let certified = entry.certified().map(Arc::clone).map_err(|error| {
            let section = Some(entry.sections.1 as usize);
            LoadError::new(&key_file, section, LoadProblem::BadKey(error.to_string()))
        })?;
        Ok(Self { entry: Arc::new(entry), certified })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("chain", &self.certified.cert.len())
            .field("not_before", &self.not_before())
            .field("not_after", &self.not_after())
            .field("remote", &self.has_remote_key())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
