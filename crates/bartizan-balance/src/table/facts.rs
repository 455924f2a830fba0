//! How backends are at the moment.

use std::sync::Arc;
use std::time::Instant;

use super::Bits;
use crate::cluster::Rules;
use crate::{Backend, Role, SlowStart, State};

/// What one look at all backends has found.
///
/// One look, because there are thousands of them, and none is in a cache.
#[derive(Debug)]
pub(super) struct Facts(Box<[Fact]>);

#[derive(Clone, Copy, Debug)]
struct Fact {
    weight: u16,
    share: u32,
    state: State,
    role: Role,
    up: bool,
    may_be_tried: bool,
}

impl Facts {
    pub(super) fn of(members: &[Arc<Backend>], ramp: Option<(SlowStart, Instant)>) -> Self {
        let fact = |member: &Arc<Backend>| {
            let weight = member.weight();
            Fact {
                weight,
                share: share(member, weight, ramp),
                state: member.state(),
                role: member.role(),
                up: member.is_up(),
                may_be_tried: member.may_be_tried(),
            }
        };
        Self(members.iter().map(fact).collect())
    }

    /// Who may be picked, and whether that is out of panic.
    pub(super) fn eligible(&self, rules: &Rules) -> (Bits, bool) {
        let count = |is: &dyn Fn(&Fact) -> bool| self.0.iter().filter(|fact| is(fact)).count();
        let (total, healthy) = (count(&Fact::is_active), count(&Fact::is_well));
        // With backups at hand, that all others are down is no reason to doubt it.
        let backed_up = healthy == 0 && self.0.iter().any(Fact::is_backup);
        if !backed_up && rules.panic_below.is_some_and(|rule| healthy < rule.of(total)) {
            let any = |fact: &Fact| fact.is_active() && fact.may_be_tried;
            if self.0.iter().any(any) {
                return (self.bits(any), true);
            }
        }
        if healthy > 0 {
            return (self.bits(Fact::is_well), false);
        }
        let first = self.0.iter().position(Fact::is_backup);
        let used = |(position, fact): (usize, &Fact)| {
            fact.is_backup() && (rules.all_backups || Some(position) == first)
        };
        (Bits::new(self.0.iter().enumerate().map(used)), false)
    }

    /// Who the checks find well.
    pub(super) fn up(&self) -> Bits {
        self.bits(|fact| fact.up)
    }

    /// Who pinned clients may go to.
    pub(super) fn standing(&self, panic: bool) -> Bits {
        let up = |fact: &Fact| fact.up || panic && fact.may_be_tried;
        self.bits(|fact| up(fact) && fact.state != State::Maintenance)
    }

    /// The configured weights, if they are not these.
    pub(super) fn other_weights(&self, weights: &[u16]) -> Option<Arc<[u16]>> {
        let now = || self.0.iter().map(|fact| fact.weight);
        (!now().eq(weights.iter().copied())).then(|| now().collect())
    }

    /// The weights as they count now.
    pub(super) fn shares(&self) -> Arc<[u32]> {
        self.0.iter().map(|fact| fact.share).collect()
    }

    /// Whether anybody has less than its whole share.
    pub(super) fn are_warming(&self) -> bool {
        self.0.iter().any(|fact| fact.share < full(fact.weight))
    }

    fn bits(&self, is: impl Fn(&Fact) -> bool) -> Bits {
        Bits::new(self.0.iter().map(is))
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
        self.is_active() && self.up
    }

    fn is_backup(&self) -> bool {
        self.is_willing() && self.role == Role::Backup && self.up
    }
}

/// What this weight is in sixteenths, after slow start.
pub(super) fn full(weight: u16) -> u32 {
    u32::from(weight) * SCALE
}

fn share(member: &Backend, weight: u16, ramp: Option<(SlowStart, Instant)>) -> u32 {
    let full = full(weight);
    let Some((ramp, now)) = ramp else { return full };
    let Some(since) = member.recovered() else { return full };
    let share = ramp.share(now.saturating_duration_since(since));
    // Rounded up, as HAProxy does: who is back gets something.
    ((f64::from(full) * share).ceil() as u32).clamp(1.min(full), full)
}

/// Parts of a unit of weight, as in HAProxy: slow start needs something between 0 and 1.
const SCALE: u32 = 16;
