//! The proof that a pick is in flight.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::clock::now;
use crate::tenure::Watch;
use crate::{Backend, Cluster, Observer, Outcome, Policy, SessionEnded, Table};

/// Counts as in flight at its backend for as long as it lives.
///
/// It holds the backend itself, so the count is right across every rebuild of the table. For a
/// request it lives until the end of the response's body, for a connection until that is closed.
/// Dropped, also by a panic, it gives its slot to whoever has waited longest.
#[derive(Debug)]
#[must_use = "dropped, it counts as done"]
pub struct Lease {
    backend: Arc<Backend>,
    home: Option<Arc<Home>>,
    // Whether the cluster counts it.
    counted: bool,
    // Whether it has the slot of its backend's trial.
    on_trial: AtomicBool,
    // Whether its request has counted as an error: it is not to count twice.
    failed: AtomicBool,
    // Where the cluster ends sessions.
    watch: Option<Watch>,
}

impl Lease {
    /// Counts one more in flight at `backend`, whatever its limit. No cluster, queue or policy is
    /// told.
    pub fn new(backend: Arc<Backend>) -> Self {
        backend.load.take();
        let (on_trial, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { backend, home: None, counted: false, on_trial, failed, watch: None }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Ready when what holds the lease has to end: the backend was marked down, and the cluster is
    /// [set](crate::OnMarkedDown) so. Otherwise the task is woken then; one task at a time.
    ///
    /// [`Balance`](crate::Balance) and [`Leased`](crate::Leased) ask. Whoever holds a lease in a way
    /// of his own ([`Hold`](crate::Hold)) has to, where sessions are to end.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnded> {
        self.watch.as_mut().map_or(Poll::Pending, |watch| watch.poll_ended(cx))
    }

    /// Whether what holds the lease has to end. As [`poll_ended`](Self::poll_ended), but wakes
    /// nobody.
    pub fn ended(&self) -> Option<SessionEnded> {
        self.watch.as_ref()?.ended()
    }

    /// Tells who judges backends by it what became of the pick.
    pub(crate) fn report(&self, outcome: impl FnOnce() -> Outcome) {
        if let Some(home) = &self.home
            && let Some(passive) = home.cluster.passive()
        {
            let outcome = outcome();
            // An answer that was an error already is none once more when it breaks off.
            if outcome == Outcome::BrokenOff && self.failed.load(Ordering::Relaxed) {
                return;
            }
            let is_error =
                matches!(outcome, Outcome::Answered { status, .. } if status.as_u16() >= 500);
            self.failed.store(is_error, Ordering::Relaxed);
            let on_trial = self.on_trial.load(Ordering::Relaxed);
            passive.note(&home.cluster, &self.backend, outcome, on_trial, now());
            // After that: who comes next is to find what has come of this one.
            self.end_trial();
        }
    }

    /// Takes the slot of its backend's trial with it, which is held already.
    pub(crate) fn on_trial(self) -> Self {
        self.on_trial.store(true, Ordering::Relaxed);
        self
    }

    fn end_trial(&self) {
        if self.on_trial.load(Ordering::Relaxed) && self.on_trial.swap(false, Ordering::Relaxed) {
            self.backend.tally.trial.give_back();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.end_trial();
        self.backend.load.give_back();
        let Some(home) = self.home.take() else { return };
        if self.counted {
            home.cluster.queue().load().less();
        }
        home.finished(&self.backend);
        home.less(&self.backend);
        // Last: who waits is to see all of it.
        if self.backend.limits().is_limited() {
            home.cluster.queue().freed(&home.cluster.table(), &self.backend);
        }
    }
}

/// Where leases come from, and who is told of them.
#[derive(Clone)]
pub(crate) struct Home {
    cluster: Cluster,
    observer: Option<Arc<dyn Observer>>,
}

impl Home {
    pub(crate) fn new(cluster: Cluster, policy: &impl Policy) -> Self {
        if let Some(prepare) = policy.preparation() {
            cluster.prepare(&prepare);
        }
        Self { cluster, observer: policy.observer() }
    }

    /// Takes a slot of the backend at `position`, if one is free.
    pub(crate) fn lease(self: &Arc<Self>, table: &Table, position: usize) -> Option<Lease> {
        let backend = table.members().get(position)?;
        if !backend.load.try_take(table.limit(position)) {
            return None;
        }
        let counted = table.load().more();
        self.more(backend);
        self.started(backend);
        Some(Lease {
            backend: Arc::clone(backend),
            home: Some(Arc::clone(self)),
            counted,
            on_trial: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            watch: self.cluster.watch(backend),
        })
    }

    /// A lease of a backend that the table does not know, if it has not reached its maximum: what
    /// the limit is at the moment, only a table tells.
    pub(crate) fn lease_beyond(self: &Arc<Self>, backend: &Arc<Backend>) -> Option<Lease> {
        let most = backend.limits().max.and_then(|max| NonZeroUsize::new(max.get() as usize));
        if !backend.load.try_take(most) {
            return None;
        }
        self.more(backend);
        self.started(backend);
        let home = Some(Arc::clone(self));
        let watch = self.cluster.watch(backend);
        let (on_trial, failed) = (AtomicBool::new(false), AtomicBool::new(false));
        let backend = Arc::clone(backend);
        Some(Lease { backend, home, counted: false, on_trial, failed, watch })
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) fn more(&self, backend: &Arc<Backend>) {
        self.observer.iter().for_each(|observer| observer.more(backend));
    }

    pub(crate) fn less(&self, backend: &Arc<Backend>) {
        self.observer.iter().for_each(|observer| observer.less(backend));
    }

    fn started(&self, backend: &Arc<Backend>) {
        self.observer.iter().for_each(|observer| observer.started(backend));
    }

    fn finished(&self, backend: &Arc<Backend>) {
        self.observer.iter().for_each(|observer| observer.finished(backend));
    }

    pub(crate) fn answered(&self, backend: &Arc<Backend>, since: Instant) {
        let Some(observer) = &self.observer else { return };
        let (took, now) = measured(since);
        observer.answered(backend, took, now);
    }

    pub(crate) fn failed(&self, backend: &Arc<Backend>, since: Instant) {
        let Some(observer) = &self.observer else { return };
        let (took, now) = measured(since);
        observer.failed(backend, took, now);
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Home").field("cluster", self.cluster.name()).finish_non_exhaustive()
    }
}

fn measured(since: Instant) -> (Duration, Instant) {
    let now = now();
    (now.saturating_duration_since(since), now)
}
