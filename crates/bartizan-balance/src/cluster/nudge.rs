//! Telling running checks what they have to look at before its time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use super::Cluster;
use crate::{Backend, BackendId};

/// Whom a cluster nudges: the checks that run.
#[derive(Debug, Default)]
pub(super) struct Nudged(Mutex<Vec<Weak<Nudges>>>);

/// What one set of checks has been told and has not looked at yet. Each backend is there once, so it
/// is no larger than the cluster.
#[derive(Debug, Default)]
pub(crate) struct Nudges {
    told: Mutex<HashMap<BackendId, Nudge>>,
    woken: Notify,
}

/// Why a backend is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nudge {
    /// It has entered maintenance, or left it.
    Maintenance,
    /// Requests have met errors there: the next probe is due within the fast interval.
    Hurry,
    /// Both.
    Both,
}

impl Cluster {
    /// Has the next probe of this backend start within the fast interval, in all clusters that check
    /// it. Does not wait for anything; what is not checked is left as it is.
    pub(crate) fn hurry(&self, backend: &Arc<Backend>) {
        // It may be checked as a member of another cluster.
        let clusters = backend.live.audience().clusters();
        let others = clusters.iter().filter(|other| !Arc::ptr_eq(other, &self.inner));
        for inner in others.chain([&self.inner]) {
            inner.nudged.tell(backend.id(), Nudge::Hurry);
        }
    }

    /// Tells running checks that this backend has entered or left maintenance.
    pub(super) fn maintenance(&self, backend: &Backend) {
        self.inner.nudged.tell(backend.id(), Nudge::Maintenance);
    }

    /// What checks are told, from now on.
    pub(crate) fn nudges(&self) -> Arc<Nudges> {
        let nudges = Arc::new(Nudges::default());
        let mut all = self.inner.nudged.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&nudges));
        nudges
    }
}

impl Nudged {
    fn tell(&self, id: BackendId, nudge: Nudge) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for nudges in all.iter().filter_map(Weak::upgrade) {
            nudges.tell(id, nudge);
        }
    }
}

impl Nudges {
    /// What has been told since the last time. Waits until there is something. Cancel safe.
    pub(crate) async fn take(&self) -> HashMap<BackendId, Nudge> {
        loop {
            let told = std::mem::take(&mut *self.told());
            if !told.is_empty() {
                return told;
            }
            // One that comes in between leaves a permit.
            self.woken.notified().await;
        }
    }

    fn tell(&self, id: BackendId, nudge: Nudge) {
        match self.told().entry(id) {
            Entry::Occupied(mut told) if *told.get() != nudge => *told.get_mut() = Nudge::Both,
            Entry::Occupied(_) => return,
            Entry::Vacant(free) => {
                free.insert(nudge);
            }
        }
        self.woken.notify_one();
    }

    fn told(&self) -> std::sync::MutexGuard<'_, HashMap<BackendId, Nudge>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
