//! The immutable snapshot of a cluster.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use crate::cluster::{ClusterLoad, Rules};
use crate::{Backend, BackendId, CheckState, PickContext, State, Why};
use bits::Bits;
use classes::Classes;
use facts::{Facts, full};

mod bits;
mod classes;
mod facts;

pub use classes::WeightClass;
pub(crate) use facts::Room;

/// The backends of a cluster at one moment, and which of them are eligible.
///
/// Members and eligibility are apart: when a check changes its mind, only the bits and the order by
/// weight are made anew, and whatever a policy has computed for the members stays right.
///
/// Eligible is what is ready, up, and of a weight above 0: active backends, or, if there is none,
/// the first such backup (all of them, where [told so](crate::ClusterBuilder::all_backups)).
#[derive(Clone, Debug)]
pub struct Table {
    members: Arc<[Arc<Backend>]>,
    places: Arc<Places>,
    // Configured weights, which indexes of hashes are made of.
    weights: Arc<[u16]>,
    eligible: Bits,
    // What a pinned client may go to, eligible or not: what is up and not in maintenance.
    standing: Bits,
    // Positions of those whose ejection is over.
    trials: Arc<[u32]>,
    // Weights as they count now, in sixteenths: less than configured during slow start.
    shares: Arc<[u32]>,
    // What the eligible ones before each weigh together.
    before: Arc<[u64]>,
    classes: Classes,
    load: Arc<ClusterLoad>,
    membership: u64,
    weighing: u64,
    version: u64,
    panic: bool,
    limited: bool,
    next_step: Option<Instant>,
    // How many more may be ejected.
    room: Room,
}

/// Where to find a backend.
#[derive(Debug)]
struct Places {
    ids: HashMap<BackendId, u32>,
    names: HashMap<Arc<str>, u32>,
}

/// Whether a client that is pinned to a backend may go there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It may.
    Serving,
    /// It may, though nobody new does: it drains, or its weight is 0.
    Draining,
    /// It may not: it is down, in maintenance, or gone.
    Out,
}

impl Table {
    pub(crate) fn new(
        members: Arc<[Arc<Backend>]>,
        rules: &Rules,
        load: Arc<ClusterLoad>,
        now: Instant,
    ) -> Self {
        let ids = members.iter().zip(0..).map(|(member, place)| (member.id(), place)).collect();
        let names =
            members.iter().zip(0..).map(|(member, place)| (member.name().clone(), place)).collect();
        let empty = Self {
            places: Arc::new(Places { ids, names }),
            weights: [].into(),
            eligible: Bits::new([].into_iter()),
            standing: Bits::new([].into_iter()),
            trials: [].into(),
            shares: [].into(),
            before: [].into(),
            classes: Classes::new(&Bits::new([].into_iter()), &[]),
            load,
            membership: 0,
            weighing: 0,
            version: 0,
            panic: false,
            limited: false,
            next_step: None,
            room: Room::default(),
            members,
        };
        empty.refreshed(rules, now)
    }

    /// The next table, of other members.
    pub(crate) fn replaced(
        &self,
        members: Arc<[Arc<Backend>]>,
        rules: &Rules,
        now: Instant,
    ) -> Self {
        let mut table = Self::new(members, rules, Arc::clone(&self.load), now);
        table.membership = self.membership + 1;
        table.weighing = self.weighing + 1;
        table.version = self.version + 1;
        table
    }

    /// The next table, of the same members, asked again how they are.
    pub(crate) fn refreshed(&self, rules: &Rules, now: Instant) -> Self {
        let ramp = rules.slow_start.map(|ramp| (ramp, now));
        let facts = Facts::of(&self.members, ramp, rules.keep);
        let (eligible, panic) = facts.eligible(rules);
        let others = facts.other_weights(&self.weights);
        let (weighing, shares) = (self.weighing + u64::from(others.is_some()), facts.shares());
        let classes = Classes::new(&eligible, &shares);
        let before = before(&eligible, &shares);
        let judge = rules.passive.as_ref().and_then(|passive| passive.judge());
        let sweep = judge.and_then(|judge| judge.next_sweep());
        let warming = ramp.filter(|_| facts.are_warming()).map(|(ramp, now)| now + ramp.step());
        Self {
            members: Arc::clone(&self.members),
            places: Arc::clone(&self.places),
            weights: others.unwrap_or_else(|| Arc::clone(&self.weights)),
            eligible,
            standing: facts.standing(panic),
            shares,
            before,
            classes,
            load: Arc::clone(&self.load),
            membership: self.membership,
            weighing,
            version: self.version + 1,
            panic,
            trials: facts.trials(),
            limited: self.members.iter().any(|member| member.limits().is_limited()),
            next_step: [warming, facts.next_return(), sweep].into_iter().flatten().min(),
            room: facts.room(),
        }
    }

    /// All backends, in the order in which they were added.
    pub fn members(&self) -> &Arc<[Arc<Backend>]> {
        &self.members
    }

    /// Changes whenever [`members`](Self::members) does.
    pub fn membership(&self) -> u64 {
        self.membership
    }

    /// Changes whenever members or their configured weights do: what an index for hashes is made
    /// of. Slow start does not change it.
    pub fn weighing(&self) -> u64 {
        self.weighing
    }

    /// Grows with every table of a cluster.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether so few backends are healthy that all are used.
    pub fn in_panic(&self) -> bool {
        self.panic
    }

    /// When it changes again, though nothing happens: during a slow start or an ejection, or
    /// while [rates](crate::Outlier::success_rate) are compared.
    pub fn next_step(&self) -> Option<Instant> {
        self.next_step
    }

    /// Whether any member has a limit of concurrent requests.
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// How many more may be ejected, as far as this table knows.
    pub(crate) fn room(&self) -> Room {
        self.room
    }

    /// How many more may be ejected, asked again.
    pub(crate) fn room_now(&self, rules: &Rules) -> Room {
        Facts::of(&self.members, None, rules.keep).room()
    }

    /// Where a backend is in [`members`](Self::members).
    pub fn position(&self, id: BackendId) -> Option<usize> {
        self.places.ids.get(&id).map(|place| *place as usize)
    }

    /// Where the backend of this name is in [`members`](Self::members).
    pub fn position_of_name(&self, name: &str) -> Option<usize> {
        self.places.names.get(name).map(|place| *place as usize)
    }

    /// The shares of all members, for what compares two tables.
    pub(crate) fn shares(&self) -> &[u32] {
        &self.shares
    }

    /// Positions of the backends whose ejection is over, and which have yet to show that they work.
    pub fn trials(&self) -> &[u32] {
        &self.trials
    }

    /// Whether the backend at this position may be picked; `false` past the end.
    pub fn is_eligible(&self, position: usize) -> bool {
        self.eligible.get(position)
    }

    /// The bits behind [`is_eligible`](Self::is_eligible), 64 positions a word, the first one lowest.
    pub fn eligible_words(&self) -> &[u64] {
        self.eligible.words()
    }

    /// How many backends may be picked.
    pub fn eligible_count(&self) -> usize {
        self.eligible.count()
    }

    /// Whether a client that is pinned to this backend may go there.
    pub fn standing(&self, position: usize) -> Standing {
        let Some(member) = self.members.get(position) else { return Standing::Out };
        match member.state() {
            _ if !self.standing.get(position) => Standing::Out,
            State::Ready if member.weight() > 0 && member.live.checked() == CheckState::Up => {
                Standing::Serving
            }
            _ => Standing::Draining,
        }
    }

    /// Whether anybody is sent there, pinned or not.
    pub(crate) fn is_in_use(&self, backend: &Backend) -> bool {
        let used = |p: usize| self.is_eligible(p) || self.standing.get(p);
        self.position(backend.id()).is_some_and(used)
    }

    /// The weight that was configured, from 0 to 256; 0 past the end.
    pub fn weight(&self, position: usize) -> u16 {
        self.weights.get(position).copied().unwrap_or(0)
    }

    /// The weight as it counts now, in sixteenths: 16 times the configured one, or less during slow
    /// start, but then never 0.
    pub fn share(&self, position: usize) -> u32 {
        self.shares.get(position).copied().unwrap_or(0)
    }

    /// What the eligible backends before this position weigh together, in sixteenths; 0 past the end.
    pub fn share_before(&self, position: usize) -> u64 {
        self.before.get(position).copied().unwrap_or(0)
    }

    /// The eligible backends by weight, the heavy ones first.
    pub fn classes(&self) -> &[WeightClass] {
        self.classes.all()
    }

    /// Positions of the backends of a class of this table, in order.
    pub fn in_class(&self, class: &WeightClass) -> &[u32] {
        self.classes.positions(class)
    }

    /// What all eligible backends weigh, in sixteenths.
    pub fn total_share(&self) -> u64 {
        self.classes.total()
    }

    /// An eligible position, each as likely as its share of the weight, if `random` is uniform.
    ///
    /// Costs a search among the different weights, a few of them as a rule.
    pub fn draw(&self, random: u64) -> Option<usize> {
        if self.classes.total() == 0 { None } else { self.classes.draw(random) }
    }

    /// Whether a backend may take this key, as far as slow start goes: of a backend at 30 % of its
    /// weight, 30 % of the keys, and always the same ones.
    ///
    /// Moves keys back by degrees, and no others. `hash` has to be independent of the one that led
    /// to the backend; mix it with the backend's identity.
    pub fn admits(&self, position: usize, hash: u64) -> bool {
        let (share, full) = (self.share(position), full(self.weight(position)));
        share >= full || (u128::from(hash) * u128::from(full)) >> 64 < u128::from(share)
    }

    /// Whether the backend at this position may take one more at this moment.
    pub fn has_room(&self, position: usize) -> bool {
        if !self.limited {
            return true;
        }
        let Some(member) = self.members.get(position) else { return false };
        self.limit(position).is_none_or(|limit| member.in_flight() < limit.get())
    }

    /// How many the backend at this position takes at the moment.
    pub(crate) fn limit(&self, position: usize) -> Option<NonZeroUsize> {
        let member = self.members.get(position)?;
        let ramp = (self.share(position), full(self.weight(position)));
        self.load.limit(member.limits(), ramp)
    }

    pub(crate) fn load(&self) -> &Arc<ClusterLoad> {
        &self.load
    }

    /// Whether a policy may pick the backend at this position, and if not, why.
    pub fn check(&self, position: usize, context: &PickContext<'_>) -> Result<(), Why> {
        // The backend itself is not looked at unless it has to be: of thousands, it is not in a cache.
        let tried = || self.members.get(position).is_some_and(|m| context.tried.contains(&m.id()));
        if !self.is_eligible(position) {
            Err(Why::Ineligible)
        } else if !context.tried.is_empty() && tried() {
            Err(Why::Tried)
        } else if !self.has_room(position) {
            Err(Why::Full)
        } else {
            Ok(())
        }
    }

    /// The first eligible position at or after `start`, turning to the front once. Skips backends
    /// that are in `except`.
    ///
    /// Costs a few instructions per 64 backends that are not eligible.
    pub fn next_eligible(&self, start: usize, except: &[BackendId]) -> Option<usize> {
        let free = |position: &usize| !except.contains(&self.members[*position].id());
        if except.is_empty() {
            let count = self.members.len();
            let start = if start < count { start } else { 0 };
            return self.eligible.next(start, count).or_else(|| self.eligible.next(0, start));
        }
        self.eligible_from(start).find(free)
    }

    /// All eligible positions from `start` on, turning to the front once.
    pub fn eligible_from(&self, start: usize) -> impl Iterator<Item = usize> {
        let count = self.members.len();
        let start = if start < count { start } else { 0 };
        self.eligible.iter(start, count).chain(self.eligible.iter(0, start))
    }
}

/// What the eligible backends before each position weigh together.
fn before(eligible: &Bits, shares: &[u32]) -> Arc<[u64]> {
    let mut sum = 0;
    let before = shares.iter().enumerate().map(|(position, share)| {
        let before = sum;
        sum += if eligible.get(position) { u64::from(*share) } else { 0 };
        before
    });
    before.collect()
}

#[cfg(test)]
mod tests;
