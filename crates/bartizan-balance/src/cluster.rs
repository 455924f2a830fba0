//! Named sets of backends.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use bartizan_net::AddressError;
use tokio::sync::watch;

use crate::clock::now;
use crate::queue::Queue;
use crate::{Backend, Prepare, Table};

mod builder;
mod change;
mod load;

pub use builder::ClusterBuilder;
pub(crate) use builder::Rules;
pub use change::Change;
pub(crate) use load::ClusterLoad;

/// A named set of backends. Clones are handles on the same set.
///
/// Readers take its [`table`](Self::table) and never wait. Changes are made to a copy, checked, and
/// published in one step.
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    rules: Rules,
    table: ArcSwap<Table>,
    queue: Queue,
    writing: Mutex<Writing>,
    // Holds the number of the table's membership.
    membership: watch::Sender<u64>,
    // Holds the version of the table.
    version: watch::Sender<u64>,
}

/// What only those who publish look at.
#[derive(Debug, Default)]
struct Writing {
    // The number of `Probation`s: while there is one, what is added starts down.
    probations: usize,
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
    /// thread, but not from within `change`; two changes wait for each other.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]; all then stays as it was.
    pub fn update(&self, change: impl FnOnce(&mut Change)) -> Result<(), ClusterError> {
        self.update_at(now(), change)
    }

    /// As [`update`](Self::update), at the time `now`, for who has a clock of his own: simulations.
    ///
    /// Only slow start depends on the time. Whoever picks has to [`step`](Self::step) by the same
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
        let now = self.inner.rules.slow_start.map(|_| now);
        let writing = self.writing();
        let old = self.inner.table.load();
        let mut asked = Change::new(Arc::clone(&old));
        change(&mut asked);
        let Some(members) = asked.apply(now)? else {
            self.publish(&writing, old.refreshed(&self.inner.rules, now));
            return Ok(());
        };
        if writing.probations > 0 {
            let stay: HashSet<_> = old.members().iter().map(|member| member.id()).collect();
            let added = members.iter().filter(|member| !stay.contains(&member.id()));
            added.for_each(|member| member.put_on_trial());
        }
        self.inner.queue.load().members(&members);
        let table = old.replaced(members.into(), &self.inner.rules, now);
        let membership = table.membership();
        self.publish(&writing, table);
        self.inner.membership.send_replace(membership);
        Ok(())
    }

    /// Records that a backend is up or down, and publishes it. Returns whether that is news.
    #[cfg(test)]
    pub(crate) fn set_up(&self, backend: &Backend, up: bool) -> bool {
        self.judge(backend, backend.trial(), if up { Judgement::Up } else { Judgement::Down })
    }

    /// Records how a backend is, and publishes it, unless it was put on trial since `trial`. Returns
    /// whether that is news.
    pub(crate) fn judge(&self, backend: &Backend, trial: u64, judgement: Judgement) -> bool {
        let writing = self.writing();
        if backend.trial() != trial {
            return false;
        }
        let news = match judgement {
            Judgement::Up => {
                let (news, recovered) = backend.set_up();
                if news {
                    backend.set_recovered(self.now().filter(|_| recovered));
                }
                news
            }
            Judgement::Down => backend.set_down(false),
            Judgement::Unfit => backend.set_down(true),
        };
        let table = self.inner.table.load();
        // Another cluster that shares the backend may have recorded it already, for itself.
        if news || !table.knows(backend) {
            self.publish(&writing, table.refreshed(&self.inner.rules, self.now()));
        }
        news
    }

    /// Sets all backends down, and from now on those that are added, in one step.
    pub(crate) fn on_probation(&self) -> Probation {
        let mut writing = self.writing();
        writing.probations += 1;
        let old = self.inner.table.load();
        old.members().iter().for_each(|member| member.put_on_trial());
        self.publish(&writing, old.refreshed(&self.inner.rules, self.now()));
        Probation { cluster: self.clone() }
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

    /// Lets slow start go on, if it is time for that.
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
        if let Some(ramp) = self.inner.rules.slow_start.filter(|_| due(&table)) {
            for member in table.members().iter() {
                if member.recovered().is_some_and(|since| ramp.is_over(since, now)) {
                    member.set_recovered(None);
                }
            }
            self.publish(&writing, table.refreshed(&self.inner.rules, Some(now)));
        }
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

    /// The time, where anything depends on it.
    fn now(&self) -> Option<Instant> {
        self.inner.rules.slow_start.map(|_| now())
    }
}

/// What the checks say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Up,
    Down,
    /// Down, and not who it should be: not even panic may use it.
    Unfit,
}

/// While it is held, backends that are added to the cluster start down.
#[derive(Debug)]
pub(crate) struct Probation {
    cluster: Cluster,
}

impl Drop for Probation {
    fn drop(&mut self) {
        self.cluster.writing().probations -= 1;
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
