//! The certificates that a server has, chosen by the name that a client asks for.

mod config;
mod entry;
mod error;
mod files;
mod generation;
mod index;
mod live;
mod notice;
mod report;
mod scope;
mod settings;
mod withdrawal;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use bartizan_net::clock::Clock;

use crate::Identity;
use crate::watch::{self, Reload, Watching};
use config::Config;
use live::Live;
use report::Failure;

pub(crate) use entry::{Chains, Entry, Parts, date, names_of, take_key};
pub(crate) use files::may_belong_to;
pub(crate) use generation::{Chosen, Generation, Refusal, WallTime};
pub(crate) use index::NoCertificate;
pub(crate) use live::{Member, Withdrawn as WithdrawnWhy};
pub(crate) use scope::Scope;

pub use config::{CertStoreBuilder, HostRules, TicketSource};
pub use error::StoreError;
pub use index::KeyKind;
pub use notice::Notice;
pub use report::{CertSummary, StoreStatus};
pub use settings::{SettingsError, TlsSettings};
pub use withdrawal::Withdrawal;

/// The certificates of a server with the rules for its clients, chosen by name, replaced as a whole.
///
/// Clones are handles on the same store. It turns into a
/// [`TlsTerminateLayer`](crate::TlsTerminateLayer).
///
/// ```no_run
/// use bartizan_tls::{CertStore, ClientAuth, HostRules, TlsTerminateLayer};
///
/// # fn main() -> Result<(), bartizan_tls::StoreError> {
/// let store = CertStore::builder()
///     .path("/etc/haproxy/certs")
///     .host(
///         ["admin.example.com"],
///         HostRules::new().client_auth(
///             ClientAuth::required("/etc/ssl/staff-ca.pem").crl("/etc/ssl/staff.crl"),
///         ),
///     )
///     .watch()?;
/// let tls = TlsTerminateLayer::new(store.clone());
/// println!("generation {}", store.status().generation);
/// # let _ = tls; Ok(()) }
/// ```
///
/// # Which certificate a client gets
///
/// The one for its server name (SNI): exact, else by a wildcard of one label, else the default,
/// which is the first that was loaded. With [`strict_sni`](CertStoreBuilder::strict_sni), there is
/// no default. Subject alternative names decide; a common name does not. Of several for one name,
/// the first whose kind of key the client can check is served, ECDSA before RSA; of several of one
/// kind, the first that was loaded.
///
/// # Generations
///
/// Certificates, client CAs, CRLs and ticket keys are loaded together, and a handshake is governed
/// by one such generation from its first byte to its last. A generation that cannot be loaded whole
/// changes nothing: the last good one stays in force, and the error says which file is at fault.
///
/// Metadata is read at once, and the public half that a key file tells is compared with the
/// certificate; the key that signs is built at its first use. A failure there is a tracing event at
/// level error, and the client gets the alert `internal_error`.
#[derive(Clone)]
pub struct CertStore {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    config: Config,
    current: ArcSwap<Generation>,
    /// Held while a generation is loaded.
    reload: Mutex<()>,
    /// The last failure, if nothing was loaded since.
    failure: ArcSwapOption<Failure>,
    live: Live,
    watching: OnceLock<Watching>,
}

impl CertStore {
    /// A store to be told what it serves. At least one certificate, or strict SNI, is needed.
    pub fn builder() -> CertStoreBuilder {
        CertStoreBuilder::new()
    }

    /// Loads a file or a directory, see [`CertStoreBuilder::path`].
    ///
    /// # Errors
    ///
    /// [`StoreError`] says which file, and what is wrong.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::builder().path(path).build()
    }

    /// [`open`](Self::open), and loads again whenever something changes there.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says which file, and what is wrong.
    pub fn watch(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::builder().path(path).watch()
    }

    pub(crate) fn load(config: Config) -> Result<Self, StoreError> {
        let generation = Generation::load(&config, None)?;
        report::loaded(&generation, None);
        let shared = Shared {
            config,
            current: ArcSwap::from_pointee(generation),
            reload: Mutex::new(()),
            failure: ArcSwapOption::empty(),
            live: Live::default(),
            watching: OnceLock::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Loads everything again, and puts it in force if all of it is good. Gives its number.
    ///
    /// Handshakes that have begun go on under the generation that they began with. Open
    /// connections whose client is not trusted any more end, see [`Withdrawal`].
    ///
    /// It reads files and checks certificates: in a program with an event loop, call it in a thread
    /// of its own (`tokio::task::spawn_blocking`). Two calls at once run one after the other.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says which file, and what is wrong. The last good generation stays in force.
    pub fn reload(&self) -> Result<u64, StoreError> {
        self.shared.load_again()
    }

    /// Loads again whenever a file changes that this store is made of, from now on until the last
    /// handle on the store is gone. The second call does nothing.
    ///
    /// What is watched are the directories that the files lie in, so that files that are replaced
    /// (`mv`), links that are turned (Kubernetes, certbot) and files that appear are noticed. A
    /// change is looked at after it has been quiet for 100 ms. A file found half written is read
    /// again when the rest has come. Every 30 s the dates and sizes of all files are looked at as
    /// well, because network file systems tell of nothing. A thread of its own does it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Watch`] if the system has no watches left.
    pub fn watch_files(&self) -> Result<(), StoreError> {
        // They may have changed since they were loaded: an empty look is like no other.
        self.start_watching(watch::Look::default())
    }

    pub(crate) fn load_and_watch(config: Config) -> Result<Self, StoreError> {
        let seen = watch::look(&config.paths());
        let store = Self::load(config)?;
        store.start_watching(seen)?;
        Ok(store)
    }

    fn start_watching(&self, seen: watch::Look) -> Result<(), StoreError> {
        if self.shared.watching.get().is_none() {
            let watching = watch::start(&self.shared, seen).map_err(StoreError::Watch)?;
            // If another call was faster, this thread ends with its handle.
            let _ = self.shared.watching.set(watching);
        }
        Ok(())
    }

    /// What is in force, and what went wrong last.
    pub fn status(&self) -> StoreStatus {
        StoreStatus::new(&self.shared.current.load(), self.shared.failure.load().as_deref())
    }

    /// All certificates in force, in the order of loading.
    pub fn certificates(&self) -> Vec<CertSummary> {
        self.shared.current.load().entries.iter().map(|entry| CertSummary::new(entry)).collect()
    }

    /// Whether a client that asks for `name` and can check every kind of key gets a certificate.
    pub fn serves(&self, name: &str) -> bool {
        self.shared.current.load().find(Some(name)).is_some()
    }

    /// Which certificate a client would get that asks for `name` and can check every kind of key;
    /// `None` if it would be refused.
    pub fn lookup(&self, name: &str) -> Option<CertSummary> {
        self.shared.current.load().find(Some(name)).map(|entry| CertSummary::new(entry))
    }

    pub(crate) fn current(&self) -> Arc<Generation> {
        self.shared.current.load_full()
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.shared.config.clock.now()
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.config.clock
    }

    pub(crate) fn withdrawal(&self) -> Withdrawal {
        self.shared.config.withdrawal
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Reload for Shared {
    fn paths(&self) -> Vec<PathBuf> {
        self.config.paths()
    }

    fn reload(&self) -> bool {
        self.load_again().is_ok()
    }
}

impl Shared {
    fn load_again(&self) -> Result<u64, StoreError> {
        let one_at_a_time = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = self.current.load_full();
        let next = match Generation::load(&self.config, Some(&previous)) {
            Ok(next) => Arc::new(next),
            Err(error) => {
                self.fail(&error, previous.number);
                return Err(error);
            }
        };
        self.current.store(Arc::clone(&next));
        self.failure.store(None);
        report::loaded(&next, Some(&previous));
        // Still one at a time: what the one before does not trust must not be passed over.
        if self.config.withdrawal.on_trust_change {
            let rules = &self.config.withdrawal;
            self.live.review(&previous, &next, rules, self.config.clock.now());
        }
        drop(one_at_a_time);
        Ok(next.number)
    }

    fn fail(&self, error: &StoreError, generation: u64) {
        let failure = Failure::new(error, self.config.clock.now());
        // The same error once: a watch tries again and again.
        if !self.failure.load().as_ref().is_some_and(|last| last.is_same(&failure)) {
            tracing::error!(%error, generation, "certificates not loaded, the last ones stay in force");
        }
        self.failure.store(Some(Arc::new(failure)));
    }

    pub(crate) fn live(&self) -> &Live {
        &self.live
    }
}

impl From<Identity> for CertStore {
    /// A store that serves this one certificate, to everybody.
    fn from(identity: Identity) -> Self {
        let mut config = Config::new();
        config.sources.push(files::Source {
            place: files::Place::Ready(Arc::clone(identity.entry())),
            names: None,
        });
        Self::load(config).expect("one certificate, loaded already, under the default settings")
    }
}

impl fmt::Debug for CertStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.shared.current.load();
        f.debug_struct("CertStore")
            .field("generation", &current.number)
            .field("certificates", &current.entries.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
