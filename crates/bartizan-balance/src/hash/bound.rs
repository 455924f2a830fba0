//! Bounded loads.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use crate::{Backend, Observer, Table};

/// How far above the average a backend may be loaded before its keys go on to the next, in percent:
/// HAProxy's `hash-balance-factor`.
///
/// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2016, arXiv 1608.01350),
/// by HAProxy's rule: with `n` in flight in all, the request that is about to be sent included,
/// `ceil(n · factor / 100)` slots are shared out by weight, at least one to each; a backend takes a
/// key while it has fewer in flight than slots. Requests that wait in a queue do not count. Slow
/// start counts, as the share of the weight that it leaves.
///
/// The smaller the factor, the evener the load, and the more keys are away from home: with 125, no
/// backend has more than 1.25 times its fair share, and a key goes elsewhere only while its own
/// backend is over that. A bound on one backend moves no key of another that is below its own.
///
/// Cost: a counter that all workers write to, twice per request, and some divisions per pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BalanceFactor(u16);

impl BalanceFactor {
    /// This many percent of the average; below 101 counts as 101, and above 1,000 as 1,000. At 100
    /// there would be no room to move, and HAProxy refuses it too; it recommends 125 to 200.
    pub const fn percent(percent: u16) -> Self {
        match percent {
            ..LEAST => Self(LEAST),
            LEAST..MOST => Self(percent),
            MOST.. => Self(MOST),
        }
    }

    /// The percentage.
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// Counts what is in flight, and says how much of it each backend may have.
#[derive(Debug)]
pub(super) struct Bound {
    factor: BalanceFactor,
    // Signed: what was in flight before anybody counted may end first.
    served: AtomicIsize,
}

impl Bound {
    pub(super) fn new(factor: BalanceFactor) -> Self {
        Self { factor, served: AtomicIsize::new(0) }
    }

    pub(super) fn slots(&self, table: &Table) -> Slots {
        let served = u64::try_from(self.served.load(Ordering::Relaxed)).unwrap_or(0);
        Slots::new(self.factor, served, table.total_share())
    }
}

impl Observer for Bound {
    fn more(&self, _: &Arc<Backend>) {}

    fn less(&self, _: &Arc<Backend>) {}

    fn started(&self, _: &Arc<Backend>) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    fn finished(&self, _: &Arc<Backend>) {
        self.served.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The slots that are shared out at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots {
    per_share: u64,
    left_over: u64,
    shares: u64,
}

impl Slots {
    fn new(factor: BalanceFactor, served: u64, shares: u64) -> Self {
        let total = served.saturating_add(1).saturating_mul(u64::from(factor.0)).div_ceil(100);
        let shares = shares.max(1);
        Self { per_share: total / shares, left_over: total % shares, shares }
    }

    /// How many the backend at this position may have in flight.
    pub(super) fn of(&self, table: &Table, position: usize) -> u64 {
        let (share, before) = (u64::from(table.share(position)), table.share_before(position));
        // What does not divide evenly goes to the first whose sums of weights reach a whole slot, so
        // that all of it is given out, and once.
        let up_to = |weight: u64| {
            (u128::from(weight) * u128::from(self.left_over) / u128::from(self.shares)) as u64
        };
        (share * self.per_share + up_to(before + share) - up_to(before)).max(1)
    }

    /// Whether it may have one more.
    pub(super) fn has_one(&self, table: &Table, position: usize) -> bool {
        let Some(member) = table.members().get(position) else { return false };
        (member.in_flight() as u64) < self.of(table, position)
    }
}

/// The least that leaves room to move.
const LEAST: u16 = 101;

/// Ten times the average binds nothing that is not broken otherwise.
const MOST: u16 = 1_000;
