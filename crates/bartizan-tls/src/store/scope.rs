//! Which hosts may be asked for over a connection.

use std::fmt;
use std::sync::Arc;

use bartizan_net::{HostScope, Misdirected, fold_host};

use super::Shared;
use super::entry::Entry;
use super::generation::{Chosen, Generation};

/// Judges hosts by what a connection was handshaken under and by the generation of now.
///
/// Policies are numbered by the store's configuration, which does not change, so a number means the
/// same in every generation.
pub(crate) struct Scope {
    store: Arc<Shared>,
    entry: Arc<Entry>,
    sni: Option<Arc<str>>,
    class: u32,
    is_default: bool,
}

impl Scope {
    pub(crate) fn new(
        store: Arc<Shared>,
        generation: &Generation,
        chosen: &Chosen,
        sni: Option<Arc<str>>,
    ) -> Self {
        Self {
            store,
            entry: Arc::clone(&chosen.entry),
            sni,
            class: generation.class_of(chosen.policy),
            is_default: chosen.is_default,
        }
    }
}

impl HostScope for Scope {
    fn permits(&self, host: &str) -> Result<(), Misdirected> {
        let host = fold_host(host);
        let current = self.store.current.load();
        if self.sni.is_none() && current.policies_differ() {
            return Err(Misdirected::NoServerName);
        }
        if current.class_of(current.policy_of(Some(&host))) != self.class {
            return Err(Misdirected::ClientAuth);
        }
        // The client has asked for this very name; whatever it was served, it has accepted.
        let named = self.sni.as_deref() == Some(&*host);
        // A name that nobody has a certificate for is the default's, as it would be in a handshake.
        if named || self.entry.covers(&host) || (self.is_default && !current.knows(&host)) {
            return Ok(());
        }
        Err(Misdirected::Certificate)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("entry", &self.entry)
            .field("sni", &self.sni)
            .finish_non_exhaustive()
    }
}
