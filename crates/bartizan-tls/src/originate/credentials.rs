//! What is shown to backends that ask for a certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;

use crate::generations::{Generation, Generations, Source, SourceError};
use crate::{Fingerprint, Identity, LoadError};

/// The certificate and key that backends are shown which ask for one (mTLS).
///
/// Clones are handles on the same ones. A new certificate takes effect with the next dial: sessions
/// that were begun with another one are not resumed, and connections that were made with it take no
/// new work ([`Validity`](bartizan_net::Validity)).
///
/// ```no_run
/// # fn run() -> Result<(), bartizan_tls::SourceError> {
/// use bartizan_tls::ClientCredentials;
///
/// let credentials = ClientCredentials::watch_pem_files("/etc/bartizan/proxy.crt", "/etc/bartizan/proxy.key")?;
/// # drop(credentials); Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ClientCredentials {
    generations: Generations<Origin>,
}

/// Where they come from.
#[derive(Debug)]
pub(super) enum Origin {
    Given(Identity),
    Bundle(PathBuf),
    Pair(PathBuf, PathBuf),
}

/// One certificate with its key, as handshakes need it.
pub(super) struct Shown {
    pub(super) key: Arc<CertifiedKey>,
    pub(super) not_after: SystemTime,
    pub(super) has_remote_key: bool,
    // The key belongs to it, so it tells all.
    chain: Fingerprint,
}

impl ClientCredentials {
    /// Reads chain and key, in any order, out of one PEM file, once.
    ///
    /// # Errors
    ///
    /// [`SourceError::Load`] says what is wrong.
    pub fn from_pem_file(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        Self::load(Origin::Bundle(path.as_ref().to_owned()))
    }

    /// Reads the chain out of one PEM file and the key out of another, once.
    ///
    /// # Errors
    ///
    /// [`SourceError::Load`] says what is wrong.
    pub fn from_pem_files(
        certs: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, SourceError> {
        Self::load(Origin::Pair(certs.as_ref().to_owned(), key.as_ref().to_owned()))
    }

    /// [`from_pem_file`](Self::from_pem_file), and again whenever the file changes. What cannot be
    /// used then is logged, and the last good certificate stays.
    ///
    /// # Errors
    ///
    /// [`SourceError`] says what is wrong.
    pub fn watch_pem_file(path: impl AsRef<Path>) -> Result<Self, SourceError> {
        Self::watch(Origin::Bundle(path.as_ref().to_owned()))
    }

    /// [`from_pem_files`](Self::from_pem_files), and again whenever one of them changes. A pair of
    /// which only one half is new does not fit together: it waits for the other half.
    ///
    /// # Errors
    ///
    /// [`SourceError`] says what is wrong.
    pub fn watch_pem_files(
        certs: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, SourceError> {
        Self::watch(Origin::Pair(certs.as_ref().to_owned(), key.as_ref().to_owned()))
    }

    /// Reads the files again now, and returns the number of the generation in force.
    ///
    /// # Errors
    ///
    /// [`SourceError::Load`]; the last good certificate stays.
    pub fn reload(&self) -> Result<u64, SourceError> {
        self.generations.reload()
    }

    /// The generation in force: 1, and one more for each certificate that was new.
    pub fn generation(&self) -> u64 {
        self.generations.current().number
    }

    pub(super) fn current(&self) -> Arc<Generation<Shown>> {
        self.generations.current()
    }

    fn load(origin: Origin) -> Result<Self, SourceError> {
        Ok(Self { generations: Generations::load(origin)? })
    }

    fn watch(origin: Origin) -> Result<Self, SourceError> {
        Ok(Self { generations: Generations::watch(origin)? })
    }
}

impl From<Identity> for ClientCredentials {
    /// This certificate, for as long as the handle lives.
    fn from(identity: Identity) -> Self {
        Self {
            generations: Generations::starting_with(Shown::new(&identity), Origin::Given(identity)),
        }
    }
}

impl Shown {
    fn new(identity: &Identity) -> Self {
        Self {
            key: Arc::clone(identity.certified()),
            not_after: identity.not_after(),
            has_remote_key: identity.has_remote_key(),
            chain: Fingerprint::of_chain(identity.chain()),
        }
    }
}

impl Source for Origin {
    type Value = Shown;

    const WHAT: &'static str = "client certificate for backends";

    fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Given(_) => Vec::new(),
            Self::Bundle(path) => vec![path.clone()],
            Self::Pair(certs, key) => vec![certs.clone(), key.clone()],
        }
    }

    fn load(&self) -> Result<Shown, SourceError> {
        let read = || -> Result<Identity, LoadError> {
            match self {
                Self::Given(identity) => Ok(identity.clone()),
                Self::Bundle(path) => Identity::from_pem_file(path),
                Self::Pair(certs, key) => Identity::from_pem_files(certs, key),
            }
        };
        Ok(Shown::new(&read()?))
    }

    fn is_same(a: &Shown, b: &Shown) -> bool {
        a.chain == b.chain
    }
}
