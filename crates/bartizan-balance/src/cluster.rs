//! Named sets of backends.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use bartizan_net::AddressError;
use tokio::sync::{broadcast, watch};

use crate::clock::now;
use crate::health::CheckRules;
use crate::passive::Passive;
use crate::queue::Queue;
use crate::tenure::{Tenures, Watch};
use crate::{Backend, HealthChange, OnMarkedDown, OnMarkedUp, Prepare, Role, SessionEnded, Table};

mod builder;
mod change;
mod eject;
mod load;
mod nudge;
mod vitals;

pub use builder::ClusterBuilder;
pub(crate) use builder::Rules;
use change::Applied;
pub use change::Change;
pub(crate) use load::ClusterLoad;
pub(crate) use nudge::{Nudge, Nudges};
use vitals::Changes;
pub(crate) use vitals::{Attachment, Say, affect};

/// A named set of backends. Clones are handles on the same set.
///
/// Readers take its [`table`](Self::table) and never wait. Changes are made to a copy, checked, and
/// published in one step.
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    name: Arc<str>,
    rules: Rules,
    table: ArcSwap<Table>,
    queue: Queue,
    writing: Mutex<Writing>,
    // Holds the number of the table's membership.
    membership: watch::Sender<u64>,
    // Holds the version of the table.
    version: watch::Sender<u64>,
    // Once somebody wants to know.
    changes: OnceLock<broadcast::Sender<HealthChange>>,
    // The checks that run.
    nudged: nudge::Nudged,
    // Those of all backups together.
    backup_tenures: Tenures,
}

/// What only those who publish look at.
#[derive(Debug, Default)]
struct Writing {
    // The sets of checks that judge what is added.
    checks: Vec<(u64, CheckRules)>,
    prepare: Vec<Weak<dyn Prepare>>,
}

impl Cluster {
    /// Starts a cluster called `name`.
    pub fn builder(name: impl Into<Arc<str>>) -> ClusterBuilder {
        ClusterBuilder::new(name.into())
    }

    /// Its name, for logs and errors.
    pub fn name(&self) -> &Arc<str> {
        &self.inner.name
    }

    /// The current snapshot. Hold it for one pick, not for longer.
    pub fn table(&self) -> Guard<Arc<Table>> {
        self.inner.table.load()
    }

    /// Changes the set of backends, their weights and states, in one step.
    ///
    /// A backend that is left in keeps its live state, if it is the same `Arc`; one that is taken
    /// out is not picked any more, and what is in flight there goes on. May be called from any
    /// thread, but not from within `change`, where no [`CheckGuard`](crate::CheckGuard) may be dropped
    /// either; two changes wait for each other.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]; all then stays as it was.
    pub fn update(&self, change: impl FnOnce(&mut Change)) -> Result<(), ClusterError> {
        self.update_at(now(), change)
    }

    /// As [`update`](Self::update), at the time `now`, for who has a clock of his own: simulations.
    ///
    /// Slow start and ejections depend on the time. Whoever picks has to [`step`](Self::step) by the same
    /// clock.
    ///
    /// # Errors
    ///
    /// As for `update`.
    pub fn update_at(
        &self,
        now: Instant,
        change: impl FnOnce(&mut Change),
    ) -> Result<(), ClusterError> {
        let writing = self.writing();
        let old = self.inner.table.load();
        let mut asked = Change::new(Arc::clone(&old));
        change(&mut asked);
        let Applied { members, mut changed, touched } = asked.apply(now)?;
        let (load, rules) = (self.inner.queue.load(), &self.inner.rules);
        match members {
            Some(members) => {
                changed.extend(self.admit(&writing, old.members(), &members, now));
                load.members(&members);
                let table = old.replaced(members.into(), rules, now);
                let membership = table.membership();
                self.publish(&writing, table);
                self.inner.membership.send_replace(membership);
            }
            None => {
                // An agent may have set another maximum.
                load.members(old.members());
                self.publish(&writing, old.refreshed(rules, now));
            }
        }
        drop(writing);
        self.refresh_others(&touched, now);
        self.announce(changed);
        Ok(())
    }

    /// Who judges backends by what becomes of picks.
    pub(crate) fn passive(&self) -> Option<&Passive> {
        self.inner.rules.passive.as_deref()
    }

    /// Looks out for what ends a session that begins at `backend` now.
    ///
    /// It may have been picked by a table that is older than a mark. Either the tenure is from before
    /// that mark, and its end is still to come, or the table is seen here that was published before
    /// that end.
    pub(crate) fn watch(&self, backend: &Backend) -> Option<Watch> {
        let rules = &self.inner.rules;
        let mark = (rules.on_marked_down == OnMarkedDown::ShutdownSessions).then(|| {
            let watch = backend.live.tenures.watch(SessionEnded::MarkedDown);
            let late = backend.live.is_marked_down() && !self.table().is_in_use(backend);
            if late { Watch::over(SessionEnded::MarkedDown) } else { watch }
        });
        let relieved = rules.on_marked_up == OnMarkedUp::ShutdownBackupSessions;
        if !relieved || backend.role() != Role::Backup {
            return mark;
        }
        let relief = self.inner.backup_tenures.watch(SessionEnded::ActiveIsBack);
        Some(match mark {
            Some(mark) => mark.or(relief),
            None => relief,
        })
    }

    pub(crate) fn membership(&self) -> watch::Receiver<u64> {
        self.inner.membership.subscribe()
    }

    /// Changes with each table that is published.
    pub(crate) fn versions(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.inner.queue
    }

    /// Has indexes made before tables are published, for as long as `prepare` is held.
    pub fn prepare(&self, prepare: &Arc<dyn Prepare>) {
        let mut writing = self.writing();
        prepare.prepare(&self.inner.table.load());
        writing.prepare.retain(|other| other.strong_count() > 0);
        if !writing.prepare.iter().any(|other| Weak::ptr_eq(other, &Arc::downgrade(prepare))) {
            writing.prepare.push(Arc::downgrade(prepare));
        }
    }

    /// Lets slow starts and ejections go on, if it is time for that.
    ///
    /// [`Balance`](crate::Balance) calls it; only who picks without one has to, with the time of the
    /// pick.
    pub fn step(&self, now: Instant) {
        let due = |table: &Table| table.next_step().is_some_and(|at| at <= now);
        if !due(&self.table()) {
            return;
        }
        // Somebody else who publishes does this as well.
        let Ok(writing) = self.inner.writing.try_lock() else { return };
        let table = self.inner.table.load();
        if !due(&table) {
            return;
        }
        let mut changed = self.move_on(&table, now);
        changed.extend(self.sweep(&table, now));
        self.publish(&writing, table.refreshed(&self.inner.rules, now));
        drop(writing);
        self.announce(changed);
    }

    fn publish(&self, writing: &Writing, table: Table) {
        if table.weighing() != self.inner.table.load().weighing() {
            let prepare = writing.prepare.iter().filter_map(Weak::upgrade);
            prepare.for_each(|prepare| prepare.prepare(&table));
        }
        let (version, table) = (table.version(), Arc::new(table));
        self.inner.table.store(Arc::clone(&table));
        self.inner.version.send_replace(version);
        // Limits may have grown, and backends may have come or gone.
        self.inner.queue.reconsider(&table);
    }

    fn writing(&self) -> std::sync::MutexGuard<'_, Writing> {
        self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A set of backends makes no cluster, or a change of it cannot be made. The operator's fault.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// A backend's address cannot be read.
    #[error("backend {backend}: {source}")]
    Address {
        /// The backend's name.
        backend: Arc<str>,
        /// What is wrong with the address.
        source: AddressError,
    },

    /// Two backends have the same name.
    #[error("two backends are called {name}; names tell them apart in logs and cookies")]
    DuplicateName {
        /// The name.
        name: Arc<str>,
    },

    /// A change names a backend that is not there.
    #[error("no backend is called {name}")]
    UnknownName {
        /// The name.
        name: Arc<str>,
    },

    /// A weight is beyond HAProxy's range.
    #[error("backend {backend}: a weight is from 0 to 256, and {weight} is not")]
    Weight {
        /// The backend's name.
        backend: Arc<str>,
        /// The weight.
        weight: u16,
    },
}

fn check_names(backends: &[Arc<Backend>]) -> Result<(), ClusterError> {
    let mut names = HashSet::with_capacity(backends.len());
    match backends.iter().find(|backend| !names.insert(backend.name())) {
        Some(twice) => Err(ClusterError::DuplicateName { name: Arc::clone(twice.name()) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
