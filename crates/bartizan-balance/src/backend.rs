//! One server.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bartizan_net::{Address, Target};

/// One server of a [`Cluster`](crate::Cluster): what it is, and its live state.
///
/// It lives as long as anybody holds its `Arc`, across every rebuild of the table, so what is
/// counted here is never lost.
#[derive(Debug)]
pub struct Backend {
    id: BackendId,
    name: Arc<str>,
    address: Address,
    server_name: Option<Arc<str>>,
    pub(crate) in_flight: AtomicUsize,
    up: AtomicBool,
    // Counts how often it was set down to be checked first.
    trial: AtomicU64,
}

/// Tells backends apart for the life of the process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(u64);

impl Backend {
    /// A server called `name`, which is up until a check says otherwise.
    pub fn new(name: impl Into<Arc<str>>, address: Address) -> Self {
        Self {
            id: BackendId(NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            name: name.into(),
            address,
            server_name: None,
            in_flight: AtomicUsize::new(0),
            up: AtomicBool::new(true),
            trial: AtomicU64::new(0),
        }
    }

    /// Expects this name over TLS, instead of the address' host name.
    pub fn with_server_name(self, name: impl Into<Arc<str>>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    /// What tells it apart from all other backends of this process.
    pub fn id(&self) -> BackendId {
        self.id
    }

    /// Its name, unique in its cluster.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How many picks are in flight: requests until the end of the body, connections until closed.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether the checks find it well. Eligible is what is up in the [`Table`](crate::Table).
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Only the cluster may say so, because it has to publish a new table with it.
    pub(crate) fn set_up(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::Relaxed) != up
    }

    /// Sets it down until a check that starts from here on says otherwise. Only the cluster may,
    /// with its writers' lock held.
    pub(crate) fn put_on_trial(&self) {
        self.up.store(false, Ordering::Relaxed);
        // Last, so that whoever sees the new trial does not take it for up.
        self.trial.fetch_add(1, Ordering::Release);
    }

    /// Which trial it is on: a verdict of an earlier one does not count any more.
    pub(crate) fn trial(&self) -> u64 {
        self.trial.load(Ordering::Acquire)
    }
}

impl Target for Backend {
    fn address(&self) -> &Address {
        &self.address
    }

    fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref().or_else(|| self.address.server_name())
    }
}

impl BackendId {
    /// The number, for logs and for keys of maps.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
