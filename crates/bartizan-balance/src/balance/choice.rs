//! Choosing a backend, and getting a slot of it.

use std::sync::Arc;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::work::{InLine, Next, Watch, Work};
use crate::clock::{self, A_YEAR};
use crate::queue::{Joined, Waiting};
use crate::{
    Affinity, BalanceError, Lease, OnDrain, OnPinnedDown, Pick, PickContext, Pin, Policy, Reason,
    Resend, Standing, Table, Tie,
};

impl<P, A, Req> Work<P, A, Req>
where
    P: Policy,
    A: Affinity<Req>,
    Req: Resend + 'static,
{
    pub(super) fn pick(&mut self) -> Result<Next, BalanceError> {
        let shared = Arc::clone(&self.shared);
        if !std::mem::take(&mut self.is_fresh) {
            self.picked = clock::now();
        }
        let now = Instant::from_std(self.picked);
        let mut table = shared.layer.cluster.table();
        if table.next_step().is_some_and(|at| at <= self.picked) {
            shared.layer.cluster.step(self.picked);
            table = shared.layer.cluster.table();
        }
        if let Some(pin) = self.pin {
            if let Some(next) = self.pinned(&shared, &table, pin, now)? {
                return Ok(next);
            }
            (self.pin, self.may_try_out) = (None, false);
        }
        if !table.trials().is_empty()
            && let Some((pick, lease)) = self.try_out(&shared, &table)
        {
            return self.agree_to(&shared, &table, pick, lease);
        }
        match shared.layer.policy.pick(&table, &self.context()) {
            Some(pick) => {
                let pick = self.agreed(&table, pick);
                self.occupy(&shared, &table, pick)
            }
            None => self.nobody(&shared, &table),
        }
    }

    fn context(&self) -> PickContext<'_> {
        PickContext::new(self.picked).tried(&self.tried).hash(self.tie.hash())
    }

    /// Where a pinned client goes; `None` if to whom the policy chooses.
    fn pinned(
        &mut self,
        shared: &Shared<P, A>,
        table: &Table,
        pin: Pin,
        now: Instant,
    ) -> Result<Option<Next>, BalanceError> {
        // Who has left for good comes back to nobody.
        let Some(position) = table.position(pin.backend) else { return Ok(None) };
        let standing = table.standing(position);
        let has_failed = self.tried.contains(&pin.backend);
        match standing {
            Standing::Draining if pin.contract.on_drain == OnDrain::Migrate => Ok(None),
            Standing::Serving | Standing::Draining if !has_failed && !self.has_waited(now) => {
                let backend = Arc::clone(&table.members()[position]);
                let pick = Pick::new(backend, pin.by, Reason::Pinned);
                self.occupy(shared, table, pick).map(Some)
            }
            standing => {
                if pin.contract.on_down != OnPinnedDown::Repin
                    && let Some(lease) = self.try_own(shared, table, position)
                {
                    let pick = Pick::new(Arc::clone(lease.backend()), pin.by, Reason::Pinned);
                    return Ok(Some(self.dial(table, pick, lease)));
                }
                let until = match pin.contract.on_down {
                    OnPinnedDown::Repin => return Ok(None),
                    OnPinnedDown::Fail => None,
                    OnPinnedDown::Wait(longest) => {
                        Some(*self.patience.get_or_insert_with(|| later(now, longest)))
                    }
                };
                if until.is_some_and(|until| until <= now) {
                    if self.waited > 0 && !has_failed {
                        self.tried.push(pin.backend);
                    }
                    return Ok(None);
                }
                if standing != Standing::Out {
                    // It could not be dialled a moment ago: nobody else will do.
                    self.tried.retain(|id| *id != pin.backend);
                    return Ok(Some(self.pause(until)));
                }
                let Some(until) = until else {
                    let backend = Arc::clone(table.members()[position].name());
                    let cluster = Arc::clone(shared.layer.cluster.name());
                    return Err(self.refused(BalanceError::PinnedDown { cluster, backend }));
                };
                Ok(Some(watch(shared, table, until).map_or(Next::Pick, Next::Watch)))
            }
        }
    }

    /// What the policy chose, or what a simultaneous request of the same client chose before.
    fn agreed(&mut self, table: &Table, pick: Pick) -> Pick {
        let id = self.tie.propose(&pick.backend);
        if id == pick.backend.id() {
            return pick;
        }
        let position = table.position(id);
        let usable = |position: &usize| table.standing(*position) != Standing::Out;
        match position.filter(usable).filter(|_| !self.tried.contains(&id)) {
            Some(position) => {
                let backend = Arc::clone(&table.members()[position]);
                Pick::new(backend, "simultaneous request", Reason::Pinned)
            }
            None => {
                // Or the others would go on to be sent there.
                if let Some(position) = position {
                    self.tie.failed(&table.members()[position]);
                }
                self.tie.propose(&pick.backend);
                pick
            }
        }
    }

    /// Takes a slot of the backend that was chosen, or waits for one.
    fn occupy(
        &mut self,
        shared: &Shared<P, A>,
        table: &Table,
        pick: Pick,
    ) -> Result<Next, BalanceError> {
        let affine = matches!(pick.reason, Reason::Key { .. } | Reason::Pinned);
        let queue = shared.layer.cluster.queue();
        if !affine && table.is_limited() && queue.is_lined_up() {
            return self.line_up(shared, table);
        }
        // A policy with an index may be ahead of the table by a moment.
        let Some(position) = table.position(pick.backend.id()) else {
            return match shared.home.lease_beyond(&pick.backend) {
                Some(lease) => Ok(self.dial(table, pick, lease)),
                None => self.line_up(shared, table),
            };
        };
        // Who is in line for this very backend came first.
        let free = !(affine && pick.backend.queued() > 0);
        match free.then(|| shared.home.lease(table, position)).flatten() {
            Some(lease) => Ok(self.dial(table, pick, lease)),
            None if affine => self.line_up_at(shared, table, position, pick),
            None => self.line_up(shared, table),
        }
    }

    fn dial(&mut self, table: &Table, pick: Pick, lease: Lease) -> Next {
        tracing::trace!(
            cluster = %self.shared.layer.cluster.name(), backend = %pick.backend.name(),
            reason = %pick.explain(table), "picked"
        );
        self.tries += 1;
        self.pick = Some(pick);
        self.lease = Some(lease);
        self.shared.layer.cluster.queue().grown(table);
        Next::Dial
    }

    /// The policy had nothing to choose from.
    fn nobody(&mut self, shared: &Shared<P, A>, table: &Table) -> Result<Next, BalanceError> {
        if table.eligible_count() == 0 {
            return Err(self.give_up());
        }
        let untried = |position: usize| !self.tried.contains(&table.members()[position].id());
        if table.eligible_from(0).any(untried) {
            // They are all full, or the policy does not want them.
            return match table.is_limited() {
                true => self.line_up(shared, table),
                false => Err(self.give_up()),
            };
        }
        self.tried.clear();
        if std::mem::take(&mut self.overflowed) {
            return self.line_up(shared, table);
        }
        // A wait helps against backends that failed once, not against there being none.
        Ok(self.pause(None))
    }

    /// Waits for a slot of any backend.
    fn line_up(&mut self, shared: &Shared<P, A>, table: &Table) -> Result<Next, BalanceError> {
        let ticket = self.queue.map(|queued| queued.ticket);
        // A lease must not be dropped in here: that takes the lock which is held.
        let again = || {
            let pick = shared.layer.policy.pick(table, &self.context())?;
            let lease = shared.home.lease(table, table.position(pick.backend.id())?)?;
            Some((pick, lease))
        };
        let queue = shared.layer.cluster.queue();
        match queue.join_any(&shared.home, table, &self.tried, ticket, again) {
            Joined::Served((pick, lease)) => self.agree_to(shared, table, pick, lease),
            Joined::Waits(waiting) => Ok(self.wait(shared, waiting)),
            Joined::Outdated => Ok(Next::Pick),
            Joined::Full => Err(self.queue_full(shared)),
        }
    }

    fn queue_full(&mut self, shared: &Shared<P, A>) -> BalanceError {
        let cluster = Arc::clone(shared.layer.cluster.name());
        self.refused(BalanceError::QueueFull { cluster })
    }

    /// Waits for a slot of this very backend.
    fn line_up_at(
        &mut self,
        shared: &Shared<P, A>,
        table: &Table,
        position: usize,
        pick: Pick,
    ) -> Result<Next, BalanceError> {
        let ticket = self.queue.map(|queued| queued.ticket);
        let queue = shared.layer.cluster.queue();
        match queue.join_own(&shared.home, table, position, ticket) {
            Joined::Served(lease) => Ok(self.dial(table, pick, lease)),
            Joined::Waits(waiting) => {
                self.pick = Some(pick);
                Ok(self.wait(shared, waiting))
            }
            Joined::Outdated => Ok(Next::Pick),
            Joined::Full
                if self.pin.is_some_and(|pin| pin.contract.on_down == OnPinnedDown::Fail) =>
            {
                Err(self.queue_full(shared))
            }
            Joined::Full => {
                // As HAProxy does beyond `maxqueue`: another one, at the price of persistence.
                self.tie.failed(&pick.backend);
                self.tried.push(pick.backend.id());
                self.overflowed = true;
                self.pin = None;
                Ok(Next::Pick)
            }
        }
    }

    fn wait(&mut self, shared: &Shared<P, A>, waiting: Waiting) -> Next {
        let now = Instant::now();
        let left = self.queue.map_or(shared.layer.queue_timeout, |queued| queued.left);
        self.queue = Some(InLine { since: now, left, ticket: waiting.ticket() });
        Next::Queue(Box::pin(timeout_at(later(now, left), waiting)))
    }

    /// What came of waiting in line.
    pub(super) fn granted(
        &mut self,
        granted: Result<Option<Lease>, Elapsed>,
    ) -> Result<Next, BalanceError> {
        let shared = Arc::clone(&self.shared);
        let expected = self.pick.take();
        if let Some(queued) = &mut self.queue {
            queued.left = queued.left.saturating_sub(queued.since.elapsed());
        }
        match granted {
            Ok(Some(lease)) => {
                let table = shared.layer.cluster.table();
                self.picked = clock::now();
                let same = |pick: &Pick| pick.backend.id() == lease.backend().id();
                if let Some(pick) = expected.filter(same) {
                    return Ok(self.dial(&table, pick, lease));
                }
                let pick = Pick::new(Arc::clone(lease.backend()), "queue", Reason::Queue);
                self.agree_to(&shared, &table, pick, lease)
            }
            // The backend has gone: another choice, with the same place in line.
            Ok(None) => Ok(Next::Pick),
            Err(_) => {
                let cluster = Arc::clone(shared.layer.cluster.name());
                let waited = shared.layer.queue_timeout;
                Err(self.refused(BalanceError::QueueTimeout { cluster, waited }))
            }
        }
    }

    /// Keeps the slot, unless a simultaneous request of the same client chose another backend.
    fn agree_to(
        &mut self,
        shared: &Shared<P, A>,
        table: &Table,
        pick: Pick,
        lease: Lease,
    ) -> Result<Next, BalanceError> {
        let agreed = self.agreed(table, pick);
        if Arc::ptr_eq(&agreed.backend, lease.backend()) {
            return Ok(self.dial(table, agreed, lease));
        }
        drop(lease);
        self.occupy(shared, table, agreed)
    }
}

/// Until the table has changed or is due to, or until then. `None` if it has changed already.
fn watch<P, A>(shared: &Shared<P, A>, table: &Table, until: Instant) -> Option<Watch> {
    // Nobody else may be there to let an ejection go on.
    let until = table.next_step().map_or(until, |at| until.min(Instant::from_std(at)));
    let mut versions = shared.layer.cluster.versions();
    if *versions.borrow() > table.version() {
        return None;
    }
    Some(Box::pin(async move {
        // Whichever it was, the next choice finds out. The cluster outlives the request.
        let _ = timeout_at(until, versions.changed()).await;
    }))
}

/// In so long, or in a year, if that is more than a clock can be moved by.
fn later(now: Instant, span: std::time::Duration) -> Instant {
    now + span.min(A_YEAR)
}
