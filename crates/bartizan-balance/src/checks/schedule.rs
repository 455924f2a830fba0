//! When the next probe of each backend is due.
//!
//! Pure: the time is an argument, and chance comes from a seed.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use crate::splitmix::{GAMMA, mix};
use crate::{BackendId, Pace};

/// The settings that make intervals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) every: Duration,
    pub(super) fast: Duration,
    pub(super) down: Duration,
    /// The share of an interval by which it may be longer or shorter.
    pub(super) jitter: f64,
    pub(super) max_concurrent: usize,
}

/// When a first probe is due.
#[derive(Clone, Copy, Debug)]
pub(super) enum First {
    /// Now, and the second one by this share of an interval earlier: those that start at the same
    /// time are spread evenly from then on.
    AtOnce(f64),
    /// At this share of the first interval.
    Share(f64),
    /// Where it leaves all first probes that were placed like this evenly spread.
    Placed,
    /// When it is resumed.
    Resumed,
}

/// What is probed when. Each backend waits, is probed, or rests.
#[derive(Debug)]
pub(super) struct Schedule {
    timing: Timing,
    random: u64,
    begin: Instant,
    placed: u64,
    // By time, and so in the order in which they become due.
    due: BTreeSet<(Instant, BackendId)>,
    plans: HashMap<BackendId, Plan, RandomState>,
    running: usize,
    late: bool,
    // By which share of an interval second probes are earlier.
    firsts: HashMap<BackendId, f64, RandomState>,
    // When a probe was started last.
    started: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Plan {
    Waits { due: Instant },
    // `hurried`: when the next one has to start at the latest, whatever its verdict is.
    Runs { due: Instant, started: Instant, hurried: Option<Instant> },
    Rests,
}

impl Schedule {
    pub(super) fn new(timing: Timing, begin: Instant, seed: u64) -> Self {
        Self {
            timing,
            random: seed,
            begin,
            placed: 0,
            due: BTreeSet::new(),
            plans: HashMap::default(),
            running: 0,
            late: false,
            firsts: HashMap::default(),
            started: None,
        }
    }

    /// Takes a backend in. One that is there already starts anew.
    pub(super) fn insert(&mut self, id: BackendId, first: First, now: Instant) {
        self.remove(id);
        let due = match first {
            First::AtOnce(share) => {
                self.firsts.insert(id, share.clamp(0.0, 1.0));
                now
            }
            First::Share(share) => now + self.timing.every.mul_f64(share.clamp(0.0, 1.0)),
            First::Placed => self.place(now),
            First::Resumed => {
                self.plans.insert(id, Plan::Rests);
                return;
            }
        };
        self.wait(id, due);
    }

    /// Forgets a backend.
    pub(super) fn remove(&mut self, id: BackendId) {
        self.leave(id);
        self.plans.remove(&id);
        self.firsts.remove(&id);
    }

    /// Lets it rest: no probe is due until it is [resumed](Self::resume), and one that runs does not
    /// count. Returns whether one runs.
    pub(super) fn rest(&mut self, id: BackendId) -> bool {
        let ran = matches!(self.plans.get(&id), Some(Plan::Runs { .. }));
        if self.plans.contains_key(&id) {
            self.leave(id);
            self.plans.insert(id, Plan::Rests);
        }
        ran
    }

    /// If it rests, it is probed at once.
    pub(super) fn resume(&mut self, id: BackendId, now: Instant) {
        if matches!(self.plans.get(&id), Some(Plan::Rests)) {
            self.wait(id, now);
        }
    }

    /// The next probe is due after the fast interval at the latest.
    pub(super) fn hurry(&mut self, id: BackendId, now: Instant) {
        let latest = now + self.timing.fast;
        match self.plans.get_mut(&id) {
            Some(Plan::Waits { due }) if *due > latest => self.wait(id, latest),
            Some(Plan::Runs { hurried, .. }) => {
                *hurried = Some(hurried.map_or(latest, |at| at.min(latest)));
            }
            _ => {}
        }
    }

    /// Starts the probe that has been due for the longest time, if one is, and one more may run.
    pub(super) fn start(&mut self, now: Instant) -> Option<BackendId> {
        let (due, id) = *self.due.first()?;
        if due > now || self.is_full() {
            return None;
        }
        self.leave(id);
        self.plans.insert(id, Plan::Runs { due, started: now, hurried: None });
        self.running += 1;
        self.started = Some(now);
        Some(id)
    }

    /// A probe is over: the next one is due an interval after it started, or at once.
    ///
    /// It may have been late by a tenth of that interval without moving those after it. Otherwise
    /// whatever holds the process up for a moment would put together for good what was spread evenly.
    /// After more than that, the next interval starts with the probe itself, because probes must not
    /// follow each other closely.
    pub(super) fn ended(&mut self, id: BackendId, pace: Pace, now: Instant) {
        let Some(Plan::Runs { due, started, hurried }) = self.plans.get(&id).copied() else {
            return;
        };
        let interval = self.interval(pace);
        let on_time = started.saturating_duration_since(due) <= interval / 10;
        let earlier = if self.firsts.is_empty() { None } else { self.firsts.remove(&id) };
        let interval = earlier.map_or(interval, |share| interval.mul_f64(1.0 - share));
        let next = if on_time { due } else { started } + interval;
        let due = hurried.map_or(next, |at| at.min(next)).max(now);
        self.wait(id, due);
    }

    /// When to look what is due: not for each of thousands by itself, since to wake up costs more than
    /// to start a probe.
    pub(super) fn wake(&self) -> Option<Instant> {
        let Timing { every, fast, down, .. } = self.timing;
        let batch = BATCH.min(every.min(fast).min(down) / 10);
        let soonest = self.started.map(|started| started + batch);
        self.next().map(|due| soonest.map_or(due, |soonest| due.max(soonest)))
    }

    /// When the next probe is due; none while no more may run.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().filter(|_| !self.is_full()).map(|(due, _)| *due)
    }

    /// Whether probes that are due have begun to wait for others, which is told once, until there
    /// is room again.
    pub(super) fn falls_behind(&mut self, now: Instant) -> bool {
        let was = self.late;
        self.late = self.is_full() && self.due.first().is_some_and(|(due, _)| *due <= now);
        self.late && !was
    }

    pub(super) fn running(&self) -> usize {
        self.running
    }

    fn is_full(&self) -> bool {
        self.running >= self.timing.max_concurrent
    }

    fn wait(&mut self, id: BackendId, due: Instant) {
        self.leave(id);
        self.due.insert((due, id));
        self.plans.insert(id, Plan::Waits { due });
    }

    /// Undoes what its plan counts for elsewhere.
    fn leave(&mut self, id: BackendId) {
        match self.plans.get(&id) {
            Some(Plan::Waits { due }) => {
                self.due.remove(&(*due, id));
            }
            Some(Plan::Runs { .. }) => self.running -= 1,
            Some(Plan::Rests) | None => {}
        }
    }

    fn interval(&mut self, pace: Pace) -> Duration {
        let Timing { every, fast, down, jitter, .. } = self.timing;
        let interval = match pace {
            Pace::Normal => every,
            Pace::Fast => fast,
            Pace::Down => down,
        };
        if jitter == 0.0 {
            return interval;
        }
        self.random = self.random.wrapping_add(GAMMA);
        // The upper 53 bits, which are what an `f64` holds: from 0 to 1.
        let chance = (mix(self.random) >> 11) as f64 / (1_u64 << 53) as f64;
        interval.mul_f64(1.0 + jitter * (2.0 * chance - 1.0))
    }

    /// The next point in time that continues an even spread, however many are placed, and when.
    ///
    /// The multiples of the golden ratio, modulo one, are spread evenly for any number of them: each
    /// falls into one of the widest gaps. What they are shares of is one interval on a grid that
    /// begins with the checks.
    fn place(&mut self, now: Instant) -> Instant {
        if self.plans.is_empty() {
            (self.begin, self.placed) = (now, 0);
        }
        let share = (self.placed.wrapping_mul(GAMMA) >> 11) as f64 / (1_u64 << 53) as f64;
        self.placed += 1;
        let every = self.timing.every.as_nanos();
        let elapsed = now.saturating_duration_since(self.begin).as_nanos() % every;
        let place = (every as f64 * share) as u128;
        let wait = if place >= elapsed { place - elapsed } else { place + every - elapsed };
        // Less than the interval, which is at most a year.
        now + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

/// Too short to be seen in what is probed, and five times as long as a timer's own step.
const BATCH: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests;
