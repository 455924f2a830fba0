//! The authorities that vouch for servers.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::load::{self, LoadError, LoadProblem};
use crate::pem;
use crate::pem_source::PemSource;

/// The authorities that vouch for the servers which are dialled. It does not change, and clones
/// share it.
///
/// A server's own certificate may stand among them, if nobody issued it but itself.
#[derive(Clone, Debug)]
pub struct ServerRoots {
    // How many of them can be used.
    usable: usize,
    certs: Arc<[CertificateDer<'static>]>,
}

impl ServerRoots {
    /// The certificates in `source`; what else there is in it counts for nothing. Reads the file
    /// at once.
    ///
    /// # Errors
    ///
    /// [`LoadError`], which names the section: it cannot be read, holds no certificate, or one that
    /// is none.
    pub fn from_pem(source: impl Into<PemSource>) -> Result<Self, LoadError> {
        let source = source.into();
        let pem = pem::parse(source.name(), &load::bytes(&source)?)?;
        if pem.certs.is_empty() {
            return Err(LoadError::new(&pem.path, None, LoadProblem::NoCertificate));
        }
        let mut store = RootCertStore::empty();
        for (section, der) in &pem.certs {
            let bad = |error: rustls::Error| {
                let problem = LoadProblem::BadCertificate(error.to_string());
                LoadError::new(&pem.path, Some(*section), problem)
            };
            store.add(der.clone()).map_err(bad)?;
        }
        let certs = pem.certs.into_iter().map(|(_, der)| der).collect();
        Ok(Self { usable: store.len(), certs })
    }

    /// [`from_pem`](Self::from_pem) of the file at `path`.
    ///
    /// # Errors
    ///
    /// As [`from_pem`](Self::from_pem).
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, LoadError> {
        Self::from_pem(path.as_ref())
    }

    /// The authorities that the operating system trusts, or those that `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR` name. Reads them at once, which takes some milliseconds.
    ///
    /// Single certificates that cannot be used are passed over, with a tracing event (target
    /// `bartizan_tls`, debug) that counts them.
    ///
    /// # Errors
    ///
    /// [`SystemRootsError`], if none is left.
    pub fn system() -> Result<Self, SystemRootsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        let (added, ignored) = store.add_parsable_certificates(found.certs.iter().cloned());
        if added == 0 {
            let why = found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Err(SystemRootsError { why });
        }
        let failed = found.errors.len();
        tracing::debug!(added, ignored, failed, "read the authorities that the system trusts");
        Ok(Self { usable: added, certs: found.certs.into() })
    }

    /// How many there are; at least one.
    #[allow(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.usable
    }

    /// The certificates as they were read, among which there may be some that cannot be used.
    pub(crate) fn certs(&self) -> &[CertificateDer<'static>] {
        &self.certs
    }
}

/// The operating system has no authority that can be used. The operator's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the system trusts no authority that can be used; install its package of CA certificates, or \
     name a file in SSL_CERT_FILE{}{why}", if why.is_empty() { "" } else { ": " }
)]
pub struct SystemRootsError {
    why: String,
}

#[cfg(test)]
mod tests {
    use bartizan_testkit::{Leaf, TestCa};

    use super::*;

    #[test]
    fn takes_every_certificate_of_a_file_and_passes_over_keys() {
        let (one, two) = (TestCa::new("one"), TestCa::new("two"));
        let key = one.issue(Leaf::server("a.test")).key_pem();
        let pem = one.cert_pem() + &key + &two.cert_pem();
        let roots = ServerRoots::from_pem(PemSource::memory("ca.pem", pem.into_bytes())).unwrap();
        assert_eq!(roots.len(), 2);
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        let source = |text: &str| PemSource::memory("ca.pem", text.as_bytes());
        let none = ServerRoots::from_pem(source("")).unwrap_err();
        assert!(matches!(none.problem(), LoadProblem::NoCertificate), "{none}");
        let bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = ServerRoots::from_pem(source(&(TestCa::new("one").cert_pem() + bad)));
        assert_eq!(error.unwrap_err().section(), Some(2));
        let error = ServerRoots::from_pem_file("/nowhere/ca.pem").unwrap_err();
        assert!(matches!(error.problem(), LoadProblem::Unreadable(_)), "{error}");
    }

    #[test]
    fn a_system_without_authorities_is_told_what_to_do() {
        let error = SystemRootsError { why: "no file".to_owned() }.to_string();
        assert!(error.contains("SSL_CERT_FILE: no file"), "{error}");
    }
}
