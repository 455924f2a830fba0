//! The first of a key's order of preference that takes it.

use super::bound::Slots;
use super::index::Index;
use super::roster::Roster;
use crate::{PickContext, Rejected, Table, Why};

/// One pick: who is asked for, and what holds at the moment.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) table: &'a Table,
    pub(super) context: &'a PickContext<'a>,
    pub(super) roster: &'a Roster,
    pub(super) hash: u64,
    pub(super) slots: Option<Slots>,
}

impl Asked<'_> {
    /// Where the key goes, and who was preferred to that.
    ///
    /// If those that may be picked all refuse the key, because they are warming up or over their
    /// bounds, it goes to the first of them: neither is a reason for an error.
    pub(super) fn choose(&self, index: &impl Index) -> Option<(usize, Rejected)> {
        if self.table.total_share() == 0 {
            return None;
        }
        let mut preferred = index.preferred(self.hash);
        // Nearly always the first one takes it: nothing is set up for what comes after.
        let first = preferred.next();
        match first.map(|position| (position, self.verdict(position))) {
            Some((position, Ok(()))) => Some((position, Rejected::default())),
            Some((position, Err(why))) => self.walk((position, why), preferred),
            None => self.scan(Passed::new()),
        }
    }

    /// Goes on behind the first one, who does not take it.
    #[cold]
    fn walk(
        &self,
        (first, why): (usize, Why),
        others: impl Iterator<Item = usize>,
    ) -> Option<(usize, Rejected)> {
        let mut passed = Passed::new();
        self.pass(&mut passed, first, why);
        for position in others.take(LOOKS) {
            match self.verdict(position) {
                Ok(()) => return Some((position, passed.rejected)),
                Err(why) => self.pass(&mut passed, position, why),
            }
            if passed.len == SEEN || passed.len == self.table.members().len() {
                break;
            }
        }
        self.scan(passed)
    }

    #[inline]
    fn verdict(&self, position: usize) -> Result<(), Why> {
        self.may(position)?;
        let (table, roster) = (self.table, self.roster);
        // Nothing is warming up where no step of a ramp is due.
        let warm = table.next_step().is_none()
            || table.admits(position, roster.warming_hash(position, self.hash));
        if !warm {
            Err(Why::Warming)
        } else if self.slots.is_some_and(|slots| !slots.has_one(table, position)) {
            Err(Why::OverBound)
        } else {
            Ok(())
        }
    }

    /// Whether it may be picked at all, for whatever key.
    #[inline]
    fn may(&self, position: usize) -> Result<(), Why> {
        let tried = self.context.tried;
        if !self.table.is_eligible(position) {
            Err(Why::Ineligible)
        } else if !tried.is_empty() && tried.contains(&self.table.members()[position].id()) {
            Err(Why::Tried)
        } else {
            Ok(())
        }
    }

    fn pass(&self, passed: &mut Passed, position: usize, why: Why) {
        if passed.has(position) {
            return;
        }
        if matches!(why, Why::Warming | Why::OverBound) && passed.willing.is_none() {
            passed.willing = Some((position, passed.rejected));
        }
        if let Some(seen) = passed.seen.get_mut(passed.len) {
            *seen = position as u32;
            passed.len += 1;
        }
        if let Some(member) = self.table.members().get(position) {
            passed.rejected.note(member.id(), why);
        }
    }

    /// The rest of the order: all that were not looked at yet, by rendezvous hashing.
    fn scan(&self, mut passed: Passed) -> Option<(usize, Rejected)> {
        let best = self.roster.best(self.hash, |position| self.verdict(position).is_ok());
        if best.is_none() && passed.willing.is_some() {
            return passed.willing;
        }
        let anyone = || self.roster.best(self.hash, |position| self.may(position).is_ok());
        let (position, cost) = best.or_else(anyone)?;
        for better in self.roster.before(self.hash, cost) {
            if let Err(why) = self.verdict(better) {
                self.pass(&mut passed, better, why);
            }
        }
        Some((position, passed.rejected))
    }
}

/// Who was passed over.
struct Passed {
    // The distinct ones, the first `len`, because a structure may lead to one several times.
    seen: [u32; SEEN],
    len: usize,
    rejected: Rejected,
    // The first that may be picked and only refused this key, and who was preferred to it.
    willing: Option<(usize, Rejected)>,
}

impl Passed {
    fn new() -> Self {
        Self { seen: [0; SEEN], len: 0, rejected: Rejected::default(), willing: None }
    }

    fn has(&self, position: usize) -> bool {
        self.seen[..self.len].contains(&(position as u32))
    }
}

/// Distinct backends that are passed over before all are compared: with 9 of 10 down, one key in
/// 1,000 gets there.
const SEEN: usize = 64;

/// Places of a structure that are looked at before all backends are compared. More than `SEEN`,
/// because few backends come up again and again before each has come up once.
const LOOKS: usize = 512;
