//! Backends in turn.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::passed::Passed;
use crate::{Pick, PickContext, Policy, Reason, Table};
use wheel::Wheel;

mod wheel;

/// Takes the backends in turn, those of more weight more often, and spread out.
///
/// Exact: over any picks in a row that are as many as the weights sum up to, each backend is picked
/// as often as its weight says, while the table stays as it is; and of two backends of the same
/// weight that stay eligible, neither is ever ahead by more than one, whatever the health of the others
/// does; where members are added or taken out, one may miss a turn. A
/// backend that is passed over gives its turn to nobody in particular: the neighbour of a dead
/// backend gets no double share.
///
/// Where all weigh the same, a turn is one step over the bits of the table, without a lock. Else,
/// nginx' smooth weighted round robin (its commit 52327e0627f4) runs over the different weights
/// rather than over the backends, behind a short lock, and those of one weight take turns. So the
/// state is as large as there are different weights, whatever their values.
///
/// | | differs in |
/// | --- | --- |
/// | HAProxy `roundrobin` | at most 4095 servers; one that flaps may lose hundreds of turns |
/// | nginx | spreads each server by itself, at a cost that grows with their number; starts anew when workers do |
/// | Envoy `ROUND_ROBIN` | schedules by deadlines |
///
/// Each worker that has a policy of its own should [start at its own place](Self::starting_at); use
/// it that way, because a policy shared by threads makes them write to one cache line per pick. One
/// policy serves one cluster.
///
/// Cost: a few nanoseconds, a few more for each different weight, and a few instructions per 64
/// backends that are not eligible.
#[derive(Debug)]
pub struct RoundRobin {
    // The position after the one chosen last, while all weigh the same.
    next: AtomicUsize,
    // Where those who find nobody in turn have stopped looking.
    spare: AtomicUsize,
    // Whether the wheel knows better than `next`.
    wheeling: AtomicBool,
    wheel: Mutex<Wheel>,
}

impl RoundRobin {
    /// Starts with the first backend.
    pub fn new() -> Self {
        Self::starting_at(0)
    }

    /// Starts so many turns later, for workers that should not all start with the first backend.
    pub fn starting_at(turn: usize) -> Self {
        Self {
            next: AtomicUsize::new(turn),
            spare: AtomicUsize::new(turn),
            wheeling: AtomicBool::new(false),
            wheel: Mutex::new(Wheel::starting_at(turn)),
        }
    }

    /// The next one, which nearly always may be picked.
    fn in_turn(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let (next, count) = (self.next.load(Ordering::Relaxed), table.members().len());
        // A division would take as long as all the rest.
        let start = if next < count { next } else { next.checked_rem(count)? };
        let same = Ordering::Relaxed;
        if table.check(start, context).is_ok()
            && self.next.compare_exchange(next, start + 1, same, same).is_ok()
        {
            let backend = Arc::clone(&table.members()[start]);
            return Some(Pick::new(backend, "roundrobin", Reason::Turn { position: start }));
        }
        Self::walk(&self.next, table, context, Passed::default())
    }

    /// The first backend from `cursor` on that may be picked; the next time, from behind it.
    fn walk(
        cursor: &AtomicUsize,
        table: &Table,
        context: &PickContext<'_>,
        mut passed: Passed,
    ) -> Option<Pick> {
        let mut next = cursor.load(Ordering::Relaxed);
        loop {
            let start = next.checked_rem(table.members().len())?;
            let position = table.eligible_from(start).find(|position| {
                let checked = table.check(*position, context);
                checked.map_err(|why| passed.better(table, *position, why)).is_ok()
            })?;
            let (done, same) = (position + 1, Ordering::Relaxed);
            match cursor.compare_exchange_weak(next, done, same, same) {
                Ok(_) => return picked(table, position, passed),
                Err(now) => next = now,
            }
        }
    }

    /// A turn of the wheel. After a few turns of those who may not be picked it is anybody's.
    fn weighed(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let mut passed = Passed::default();
        let mut wheel = self.wheel();
        if !self.wheeling.load(Ordering::Relaxed) && !self.wheeling.swap(true, Ordering::Relaxed) {
            wheel.start_from(self.next.load(Ordering::Relaxed));
        }
        wheel.follow(table);
        for _ in 0..TURNS {
            let position = wheel.turn(table)?;
            match table.check(position, context) {
                Ok(()) => return picked(table, position, passed),
                Err(why) => passed.better(table, position, why),
            }
            if passed.is_full() {
                break;
            }
        }
        drop(wheel);
        Self::walk(&self.spare, table, context, passed)
    }

    /// Goes on without the wheel where it has stopped.
    fn leave_wheel(&self, weight: u32) {
        let wheel = self.wheel();
        if self.wheeling.swap(false, Ordering::Relaxed)
            && let Some(next) = wheel.next(weight)
        {
            self.next.store(next, Ordering::Relaxed);
        }
    }

    fn wheel(&self) -> MutexGuard<'_, Wheel> {
        self.wheel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for RoundRobin {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for RoundRobin {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        match table.classes() {
            [] => None,
            [class] => {
                if self.wheeling.load(Ordering::Relaxed) {
                    self.leave_wheel(class.weight());
                }
                self.in_turn(table, context)
            }
            _ => self.weighed(table, context),
        }
    }
}

fn picked(table: &Table, position: usize, passed: Passed) -> Option<Pick> {
    let backend = table.members().get(position)?.clone();
    let pick = Pick::new(backend, "roundrobin", Reason::Turn { position });
    Some(pick.rejected(passed.into_rejected()))
}

/// Enough to get past a heavy backend that is full, and few enough to be quick where most are.
const TURNS: usize = 64;

#[cfg(test)]
mod tests;
