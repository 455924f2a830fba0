//! Requests that find out whether a backend works again.

use std::sync::Arc;

use super::Shared;
use super::work::Work;
use crate::health::{Ejection, HealthState};
use crate::passive::Judge;
use crate::{Affinity, Backend, Lease, Pick, Policy, Reason, Resend, Table};

impl<P, A, Req> Work<P, A, Req>
where
    P: Policy,
    A: Affinity<Req>,
    Req: Resend + 'static,
{
    /// The slot of a backend that is on trial, if this request is one to try it with.
    #[cold]
    pub(super) fn try_out(
        &mut self,
        shared: &Shared<P, A>,
        table: &Table,
    ) -> Option<(Pick, Lease)> {
        // A client who was pinned to somewhere is not to be pinned to what may fail, and nobody
        // suffers from more than one trial.
        if !self.may_try_out {
            return None;
        }
        let judge = shared.layer.cluster.judge()?;
        let mut places = table.trials().iter().map(|place| *place as usize);
        let place = places.find(|place| self.suits(judge, &table.members()[*place]))?;
        let lease = self.slot(shared, table, place)?;
        Some((Pick::new(Arc::clone(lease.backend()), "outlier", Reason::Trial), lease))
    }

    /// The slot of the client's own backend, if that is on trial, and if there is nowhere else to go:
    /// without such requests, one that only such clients use would never be tried.
    #[cold]
    pub(super) fn try_own(
        &mut self,
        shared: &Shared<P, A>,
        table: &Table,
        place: usize,
    ) -> Option<Lease> {
        let on_trial = table.trials().iter().any(|other| *other as usize == place);
        let has_failed = self.tried.contains(&table.members()[place].id());
        if !on_trial || has_failed || !self.may_try_out {
            return None;
        }
        self.slot(shared, table, place)
    }

    fn slot(&mut self, shared: &Shared<P, A>, table: &Table, place: usize) -> Option<Lease> {
        let backend = &table.members()[place];
        let trial = &backend.tally.trial;
        if !trial.take() {
            return None;
        }
        // From here on the lease gives the slot back. Another trial may have ended meanwhile.
        let goes_on = backend.live.ejection() == Ejection::Trial;
        let Some(lease) = goes_on.then(|| shared.home.lease(table, place)).flatten() else {
            trial.give_back();
            return None;
        };
        self.may_try_out = false;
        Some(lease.on_trial())
    }

    fn suits(&mut self, judge: &Judge, backend: &Backend) -> bool {
        if backend.tally.trial.is_taken() || self.tried.contains(&backend.id()) {
            return false;
        }
        let tried_since = || backend.live.look(HealthState::since);
        self.can_be_resent()
            || self.picked.saturating_duration_since(tried_since()) >= judge.patience()
    }
}
