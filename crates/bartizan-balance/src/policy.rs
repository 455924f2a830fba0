//! How a backend is chosen.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Backend, BackendId, Table};

mod chance;
mod first;
mod least_conn;
mod passed;
mod peak_ewma;
mod pick;
mod power_of_two;
mod random;
mod round_robin;

pub use first::First;
pub use least_conn::LeastConn;
pub use peak_ewma::PeakEwma;
pub use pick::{Pick, Reason, Rejected, Rejection, Why};
pub use power_of_two::PowerOfTwo;
pub use random::Random;
pub use round_robin::RoundRobin;

/// Chooses a backend from a table.
///
/// Synchronous, and free of allocation and locks where the definition allows: it runs once per
/// request. Policies are shared by the connections of a worker, so their state is atomic.
pub trait Policy {
    /// Chooses among the eligible backends that are not in [`PickContext::tried`].
    ///
    /// A policy of load (round robin, least connections, …) passes over backends without
    /// [room](Table::has_room), and answers `None` if there is no other: the request then waits for
    /// the first slot that becomes free in the cluster. A policy of affinity (the hashes) answers
    /// with the backend that the key belongs to, full or not: the request then waits for that one.
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick>;

    /// Who is to be told of what becomes of picks. Default: nobody.
    fn observer(&self) -> Option<Arc<dyn Observer>> {
        None
    }

    /// What is to be made ready before a table is published that differs in members or weights, off
    /// the path of requests. Default: nothing.
    fn preparation(&self) -> Option<Arc<dyn Prepare>> {
        None
    }
}

impl<P: Policy + ?Sized> Policy for Arc<P> {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        (**self).pick(table, context)
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        (**self).observer()
    }

    fn preparation(&self) -> Option<Arc<dyn Prepare>> {
        (**self).preparation()
    }
}

impl<P: Policy + ?Sized> Policy for Box<P> {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        (**self).pick(table, context)
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        (**self).observer()
    }

    fn preparation(&self) -> Option<Arc<dyn Prepare>> {
        (**self).preparation()
    }
}

/// Is told of what becomes of picks, on whatever thread it happens. Must be quick, must not panic, and
/// must not change the cluster nor take or drop leases: a lock may be held.
///
/// All the leases of a [`Balance`](crate::Balance) are told, also those of pinned clients, whom no
/// policy has chosen a backend for.
pub trait Observer: fmt::Debug + Send + Sync {
    /// What is in flight or waits at the backend has become more: its counts are up to date.
    fn more(&self, backend: &Arc<Backend>);

    /// It has become less.
    fn less(&self, backend: &Arc<Backend>);

    /// A pick has a slot of the backend, and is in flight there; what waits has none yet. Follows
    /// [`more`](Self::more), at once or when the wait is over. Default: nothing.
    fn started(&self, backend: &Arc<Backend>) {
        let _ = backend;
    }

    /// What had [started](Self::started) is over. Precedes [`less`](Self::less). Default: nothing.
    fn finished(&self, backend: &Arc<Backend>) {
        let _ = backend;
    }

    /// The backend has answered: for a request, the head is there; for a connection, it was
    /// dialled. `took` counts from the pick.
    fn answered(&self, backend: &Arc<Backend>, took: Duration, now: Instant) {
        let _ = (backend, took, now);
    }

    /// The backend could not be dialled, or failed without an answer, `took` after the pick.
    fn failed(&self, backend: &Arc<Backend>, took: Duration, now: Instant) {
        let _ = (backend, took, now);
    }
}

/// Makes indexes for tables that are about to be published.
pub trait Prepare: fmt::Debug + Send + Sync {
    /// Makes what [`Policy::pick`] will need for `table`. Until it returns, the cluster publishes
    /// nothing else.
    fn prepare(&self, table: &Table);
}

/// What a policy may know of the request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PickContext<'a> {
    /// The time of the pick.
    pub now: Instant,
    /// Backends that failed for this request already.
    pub tried: &'a [BackendId],
    /// A hash of the request's key, well mixed; none if the request has no key. A policy of hashes
    /// then takes backends in turn.
    pub hash: Option<u64>,
}

impl<'a> PickContext<'a> {
    /// A first try, at this time, of a request that nothing is known of.
    pub fn new(now: Instant) -> Self {
        Self { now, tried: &[], hash: None }
    }

    /// A further try, after these backends failed.
    pub fn tried(self, tried: &'a [BackendId]) -> Self {
        Self { tried, ..self }
    }

    /// A request whose key has this hash.
    pub fn hash(self, hash: Option<u64>) -> Self {
        Self { hash, ..self }
    }
}

#[cfg(test)]
pub(crate) mod tests;
