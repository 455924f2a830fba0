//! The least busy backend.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::passed::Passed;
use crate::{Backend, Observer, Pick, PickContext, Policy, Prepare, Reason, Table};
use index::{Index, key, load};

mod index;
mod tree;

/// Takes the backend with the least to do in relation to its weight.
///
/// The order is HAProxy's `leastconn`, exactly: by what is in flight or waits there, plus one, times
/// 4096, divided by the weight in sixteenths, rounded down; 0 for who is idle. Among equals it is
/// the one whose key has changed longest ago, so an idle cluster is used in turn, and weights only
/// count under load. Choose it where requests take long and unequal times: tunnels, sessions,
/// databases. For short requests [`PowerOfTwo`](crate::PowerOfTwo) is as even, without an index.
///
/// | | differs in |
/// | --- | --- |
/// | HAProxy `leastconn` | a server without room stays in its tree and is stepped over |
/// | nginx `least_conn` | compares without the one more; among equals, weighted round robin |
/// | Envoy `LEAST_REQUEST` | looks at two, or at all of them |
///
/// Clones share one index, behind one short lock: give each worker a clone. A pick is counted before
/// its lease exists, so those who pick at once choose differently. The leases of a
/// [`Balance`](crate::Balance) keep the index right; who picks without one has to tell the
/// [`observer`](Policy::observer). What others do to the backends, such as another cluster that
/// shares them, is noticed when a backend seems to be the least busy. What these give back is not: a
/// backend that they had made busy or full is passed over until something of this cluster begins or
/// ends there, or nobody else has room. One policy serves one cluster.
///
/// Cost: a pick and each end of a lease take as many steps as the number of backends has binary
/// digits. A change of eligibility is taken up by the next pick, in microseconds; one of the members
/// is prepared before it is published. Where limits are set and nobody seems to have room, all
/// backends are looked at.
#[derive(Clone, Debug, Default)]
pub struct LeastConn {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    index: Mutex<Index>,
}

impl LeastConn {
    /// With an index of its own; its clones share it.
    pub fn new() -> Self {
        Self::default()
    }

    /// The least busy of all that may be picked, when the index knows of none: a limit that depends
    /// on the load of the cluster may have risen, or another cluster may have left room.
    fn look_at_all(&self, table: &Table, context: &PickContext<'_>) -> Option<Arc<Backend>> {
        let members = table.members();
        let free = table.eligible_from(0).filter(|i| table.check(*i, context).is_ok());
        let key = |i: &usize| members.get(*i).map(|member| key(load(member), table.share(*i)));
        let backend = members.get(free.min_by_key(key)?)?;
        self.shared.index().expect(backend);
        Some(backend.clone())
    }
}

impl Policy for LeastConn {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let mut passed = Passed::default();
        let mut index = self.shared.index();
        index.follow(table);
        let chosen = index.pick(context, &mut passed);
        drop(index);
        let (backend, load, weight) = match chosen {
            Some(chosen) => chosen,
            // Without limits nobody is ever out for want of room.
            None if !table.is_limited() => return None,
            None => {
                let backend = self.look_at_all(table, context)?;
                let share = table.position(backend.id()).map_or(0, |i| table.share(i));
                let load = load(&backend);
                (backend, load, share)
            }
        };
        let reason = Reason::Least { load, weight };
        Some(Pick::new(backend, "leastconn", reason).rejected(passed.into_rejected()))
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        Some(self.shared.clone())
    }

    fn preparation(&self) -> Option<Arc<dyn Prepare>> {
        Some(self.shared.clone())
    }
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Shared {
    fn more(&self, backend: &Arc<Backend>) {
        self.index().changed(backend);
    }

    fn less(&self, backend: &Arc<Backend>) {
        self.index().changed(backend);
    }
}

impl Prepare for Shared {
    fn prepare(&self, table: &Table) {
        self.index().follow(table);
    }
}

#[cfg(test)]
mod tests;
