//! Ejections, where they meet the cluster: whether enough are left, and what is published then.

use std::sync::Arc;
use std::time::Instant;

use super::{Changes, Cluster};
use crate::health::Ejection;
use crate::live::Changed;
use crate::passive::{Judge, Sentence};
use crate::table::Room;
use crate::{Backend, Condition, OutlierCounts, Table};

impl Cluster {
    /// How often backends were taken out because of what requests had shown. `None` without
    /// [`outlier`](crate::ClusterBuilder::outlier).
    pub fn outlier_counts(&self) -> Option<OutlierCounts> {
        self.judge().map(Judge::counts)
    }

    /// Who ejects, if anybody does.
    pub(crate) fn judge(&self) -> Option<&Judge> {
        self.passive().and_then(|passive| passive.judge())
    }

    /// Takes a backend that is in out, if enough stay, and publishes that. Returns whether it did.
    pub(crate) fn eject(
        &self,
        judge: &Judge,
        backend: &Arc<Backend>,
        sentence: Sentence,
        reason: &str,
        now: Instant,
    ) -> bool {
        if !may_lose(backend) {
            return false;
        }
        // To look at thousands takes long, and where many fail this comes often: the table, which is
        // hardly ever behind, can say no.
        if self.table().room().of(backend.role()) == 0 {
            judge.refuse(self, backend, reason);
            return false;
        }
        let writing = self.writing();
        let table = self.inner.table.load();
        if table.position(backend.id()).is_none() {
            return false;
        }
        let mut room = table.room_now(&self.inner.rules);
        let Some(change) = self.put_out(judge, backend, &mut room, sentence, reason, now) else {
            return false;
        };
        self.publish(&writing, table.refreshed(&self.inner.rules, now));
        drop(writing);
        self.announce(vec![(Arc::clone(backend), change)]);
        true
    }

    /// Has rates compared then.
    pub(crate) fn plan_sweep(&self, judge: &Judge, at: Instant, now: Instant) {
        let writing = self.writing();
        judge.plan(Some(at));
        let table = self.inner.table.load();
        self.publish(&writing, table.refreshed(&self.inner.rules, now));
    }

    /// Compares rates, if it is time for that.
    pub(super) fn sweep(&self, table: &Table, now: Instant) -> Changes {
        let due = |judge: &&Judge| judge.next_sweep().is_some_and(|at| at <= now);
        let Some(judge) = self.judge().filter(due) else { return Changes::new() };
        let suspects = judge.sweep(table.members(), now);
        if suspects.is_empty() {
            return Changes::new();
        }
        let mut room = table.room_now(&self.inner.rules);
        let out = suspects.into_iter().filter_map(|(backend, reason)| {
            let change = self.put_out(judge, &backend, &mut room, Sentence::Grows, &reason, now)?;
            Some((backend, change))
        });
        out.collect()
    }

    /// Takes a backend out, if there is room for that. The cluster's lock has to be held.
    fn put_out(
        &self,
        judge: &Judge,
        backend: &Arc<Backend>,
        room: &mut Room,
        sentence: Sentence,
        reason: &str,
        now: Instant,
    ) -> Option<Changed> {
        if !may_lose(backend) {
            return None;
        }
        if room.of(backend.role()) == 0 {
            judge.refuse(self, backend, reason);
            return None;
        }
        let ((), change) = backend.live.change(|health| {
            // A check may have been faster.
            if health.condition() == Condition::Up && health.ejection() == Ejection::In {
                let mut growth = health.growth();
                let ejection = judge.sentence(sentence, &mut growth, now);
                health.grow(growth);
                health.eject(ejection, reason, now);
            }
        });
        if change.is_some() {
            room.take(backend.role());
            backend.tally.forget();
        }
        change
    }
}

/// Whether an ejection would change anything: who takes no new clients anyway can lose none.
fn may_lose(backend: &Backend) -> bool {
    backend.weight() > 0 && backend.condition() == Condition::Up
}
