//! How backends are at the moment.

use std::sync::Arc;
use std::time::Instant;

use super::Bits;
use crate::cluster::Rules;
use crate::health::{Ejection, HealthState};
use crate::{Backend, CheckState, MinHealthy, Role, SlowStart, State};

/// What one look at all backends has found.
///
/// One look, because there are thousands of them, and none is in a cache.
#[derive(Debug)]
pub(super) struct Facts {
    all: Box<[Fact]>,
    next_return: Option<Instant>,
    room: Room,
}

/// How many more may be ejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    active: usize,
    backup: usize,
}

impl Room {
    pub(crate) fn of(self, role: Role) -> usize {
        match role {
            Role::Active => self.active,
            Role::Backup => self.backup,
        }
    }

    /// One of this role is ejected.
    pub(crate) fn take(&mut self, role: Role) {
        let left = match role {
            Role::Active => &mut self.active,
            Role::Backup => &mut self.backup,
        };
        *left = left.saturating_sub(1);
    }
}

#[derive(Clone, Copy, Debug)]
struct Fact {
    weight: u16,
    share: u32,
    state: State,
    role: Role,
    checked: CheckState,
    ejection: Ejection,
    // Though it may be kept in, because too few would be left without it.
    on_trial: bool,
}

impl Facts {
    /// Looks at all of them, and takes back ejections where too few would be left.
    pub(super) fn of(
        members: &[Arc<Backend>],
        ramp: Option<(SlowStart, Instant)>,
        keep: Option<MinHealthy>,
    ) -> Self {
        let fact = |member: &Arc<Backend>| {
            let weight = member.weight();
            let ejection = member.live.ejection();
            Fact {
                weight,
                share: share(member, weight, ramp),
                state: member.state(),
                role: member.role(),
                checked: member.live.checked(),
                ejection,
                on_trial: ejection == Ejection::Trial,
            }
        };
        let mut all: Box<[Fact]> = members.iter().map(fact).collect();
        let next_return = all.iter().filter_map(Fact::returns).min();
        let mut room = Room::default();
        if let Some(keep) = keep {
            room.active = keep_enough(&mut all, keep, Role::Active);
            room.backup = keep_enough(&mut all, keep, Role::Backup);
        }
        Self { all, next_return, room }
    }

    /// Who may be picked, and whether that is out of panic.
    pub(super) fn eligible(&self, rules: &Rules) -> (Bits, bool) {
        let count = |is: &dyn Fn(&Fact) -> bool| self.all.iter().filter(|fact| is(fact)).count();
        let (total, healthy) = (count(&Fact::is_active), count(&Fact::is_well));
        // With backups at hand, that all others are down is no reason to doubt it.
        let backed_up = healthy == 0 && self.all.iter().any(Fact::is_backup);
        if !backed_up && rules.panic_below.is_some_and(|rule| healthy < rule.of(total)) {
            let any = |fact: &Fact| fact.is_active() && fact.may_be_tried();
            if self.all.iter().any(any) {
                return (self.bits(any), true);
            }
        }
        if healthy > 0 {
            return (self.bits(Fact::is_well), false);
        }
        let first = self.all.iter().position(Fact::is_backup);
        let used = |(position, fact): (usize, &Fact)| {
            fact.is_backup() && (rules.all_backups || Some(position) == first)
        };
        (Bits::new(self.all.iter().enumerate().map(used)), false)
    }

    /// Who pinned clients may go to.
    pub(super) fn standing(&self, panic: bool) -> Bits {
        let up = |fact: &Fact| fact.works() || panic && fact.may_be_tried();
        self.bits(|fact| up(fact) && fact.state != State::Maintenance)
    }

    /// Who is to be tried, one request at a time.
    pub(super) fn trials(&self) -> Arc<[u32]> {
        // While an active backend can do it, nobody goes to a backup, on trial or not.
        let none_is_well = !self.all.iter().any(Fact::is_well);
        let on_trial = |(position, fact): (usize, &Fact)| {
            let trial = fact.on_trial && (fact.role == Role::Active || none_is_well);
            let is = trial && fact.is_willing() && fact.checked == CheckState::Up;
            is.then_some(position as u32)
        };
        self.all.iter().enumerate().filter_map(on_trial).collect()
    }

    /// How many more may be ejected.
    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// When the next ejection is over.
    pub(super) fn next_return(&self) -> Option<Instant> {
        self.next_return
    }

    /// The configured weights, if they are not these.
    pub(super) fn other_weights(&self, weights: &[u16]) -> Option<Arc<[u16]>> {
        let now = || self.all.iter().map(|fact| fact.weight);
        (!now().eq(weights.iter().copied())).then(|| now().collect())
    }

    /// The weights as they count now.
    pub(super) fn shares(&self) -> Arc<[u32]> {
        self.all.iter().map(|fact| fact.share).collect()
    }

    /// Whether anybody has less than its whole share.
    pub(super) fn are_warming(&self) -> bool {
        self.all.iter().any(|fact| fact.share < full(fact.weight))
    }

    fn bits(&self, is: impl Fn(&Fact) -> bool) -> Bits {
        Bits::new(self.all.iter().map(is))
    }
}

impl Fact {
    fn is_willing(&self) -> bool {
        self.state == State::Ready && self.weight > 0
    }

    fn is_active(&self) -> bool {
        self.is_willing() && self.role == Role::Active
    }

    fn is_well(&self) -> bool {
        self.is_active() && self.takes_new()
    }

    fn is_backup(&self) -> bool {
        self.is_willing() && self.role == Role::Backup && self.takes_new()
    }

    fn takes_new(&self) -> bool {
        self.checked == CheckState::Up && self.ejection == Ejection::In
    }

    /// Whether it works, whether or not it wants new clients.
    fn works(&self) -> bool {
        // Where no new clients go, none can be on trial: those who are pinned are the trial.
        let drains = self.state == State::Drain || self.weight == 0;
        let stops = drains || self.checked == CheckState::Stopping;
        let is_in = self.ejection == Ejection::In || stops && self.ejection == Ejection::Trial;
        self.checked <= CheckState::Stopping && is_in
    }

    /// Whether it may be used in panic: unless it has not been checked yet though it has to be, or
    /// is not who it should be.
    fn may_be_tried(&self) -> bool {
        !matches!(self.checked, CheckState::Unproven | CheckState::Unfit)
    }

    fn returns(&self) -> Option<Instant> {
        self.ejection.ends()
    }
}

/// Whatever requests show, so many of a role stay in: those on trial are taken back first, then those
/// who would return soonest. Returns how many more may be ejected.
fn keep_enough(all: &mut [Fact], keep: MinHealthy, role: Role) -> usize {
    let is_one = |fact: &Fact| fact.is_willing() && fact.role == role;
    let total = all.iter().filter(|fact| is_one(fact)).count();
    let healthy = all.iter().filter(|fact| is_one(fact) && fact.takes_new()).count();
    let needed = keep.of(total);
    if healthy >= needed {
        return healthy - needed;
    }
    let ejected = |fact: &Fact| {
        is_one(fact) && fact.checked == CheckState::Up && fact.ejection != Ejection::In
    };
    let mut out: Vec<_> = all.iter_mut().filter(|fact| ejected(fact)).collect();
    // `None`, which is on trial, comes first.
    out.sort_by_key(|fact| fact.returns());
    out.into_iter().take(needed - healthy).for_each(|fact| fact.ejection = Ejection::In);
    0
}

/// What this weight is in sixteenths, after slow start.
pub(super) fn full(weight: u16) -> u32 {
    u32::from(weight) * SCALE
}

fn share(member: &Backend, weight: u16, ramp: Option<(SlowStart, Instant)>) -> u32 {
    let full = full(weight);
    let Some((ramp, now)) = ramp else { return full };
    let Some(since) = member.live.look(HealthState::recovered) else { return full };
    let share = ramp.share(now.saturating_duration_since(since));
    // Rounded up, as HAProxy does: who is back gets something.
    ((f64::from(full) * share).ceil() as u32).clamp(1.min(full), full)
}

/// Parts of a unit of weight, as in HAProxy: slow start needs something between 0 and 1.
const SCALE: u32 = 16;
