//! How long a backend takes to answer, by recent experience.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sync::{AtomicU64, Ordering};

/// Kept by the backend itself, so that it survives rebuilds of the table and is shared by all
/// policies that look at it.
///
/// One word: the average in microseconds, and the milliseconds from `base` to when it was last
/// measured. 0 is a backend that has never been measured, looked at for the first time at `base`.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Latency {
    word: AtomicU64,
    base: OnceLock<Instant>,
}

/// How experience is weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weighing {
    /// After this time, what was known counts 1/e of what it did; in milliseconds.
    pub(crate) decay: f32,
    /// What a backend that was never measured is expected to take, in microseconds.
    pub(crate) unknown: f32,
}

impl Latency {
    /// Takes a measurement into account.
    pub(crate) fn observe(&self, took: Duration, now: Instant, weighing: Weighing) {
        self.observe_at(micros(took), self.stamp(now), weighing);
    }

    /// What the next answer is expected to take, in microseconds; never 0.
    ///
    /// What nobody asks is forgotten by and by, down to almost nothing, or a backend that was slow
    /// once would never be tried again. That holds for one request only: with `busy`, the last
    /// experience counts in full, so who was forgotten is tried, not flooded.
    pub(crate) fn expected(&self, busy: bool, now: Instant, weighing: Weighing) -> f32 {
        self.expected_at(busy, self.stamp(now), weighing)
    }

    fn observe_at(&self, took: f32, now: u32, weighing: Weighing) {
        let next = |word| Some(pack(observed(unpack(word), took, now, weighing.decay)));
        // Nothing else is published with it.
        let _ = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    fn expected_at(&self, busy: bool, now: u32, weighing: Weighing) -> f32 {
        let Average { micros, at } = unpack(self.word.load(Ordering::Relaxed));
        let known = if micros == 0.0 { weighing.unknown } else { micros };
        match busy {
            true => known.max(LEAST),
            false => (known * kept(at, now, weighing.decay)).max(LEAST),
        }
    }

    /// Milliseconds since the first look, counted round: 0 follows 2^32 - 1.
    fn stamp(&self, now: Instant) -> u32 {
        let base = *self.base.get_or_init(|| now);
        match now.checked_duration_since(base) {
            Some(after) => after.as_millis() as u32,
            None => (base.saturating_duration_since(now).as_millis() as u32).wrapping_neg(),
        }
    }
}

/// An average, and when it was last measured.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Average {
    micros: f32,
    at: u32,
}

/// What follows from `took`, measured at `now`: a peak counts at once, what is less by and by.
fn observed(before: Average, took: f32, now: u32, decay: f32) -> Average {
    let took = took.max(LEAST);
    let micros = if took >= before.micros {
        took
    } else {
        let kept = kept(before.at, now, decay);
        before.micros * kept + took * (1.0 - kept)
    };
    Average { micros, at: now }
}

/// Which part of what was known at `at` still counts at `now`.
fn kept(at: u32, now: u32, decay: f32) -> f32 {
    let passed = now.wrapping_sub(at);
    // Two threads need not measure in the order in which they read the clock.
    if passed == 0 || passed > u32::MAX - DISORDER { 1.0 } else { (-(passed as f32) / decay).exp() }
}

fn micros(took: Duration) -> f32 {
    took.as_secs_f32() * 1e6
}

fn pack(average: Average) -> u64 {
    u64::from(average.micros.to_bits()) << 32 | u64::from(average.at)
}

fn unpack(word: u64) -> Average {
    Average { micros: f32::from_bits((word >> 32) as u32), at: word as u32 }
}

/// In microseconds. Nothing is free, or what is in flight would not count; and no network is faster.
const LEAST: f32 = 1.0;

/// In milliseconds: a time stamp that is this much in the future belongs to the past 49 days before,
/// and one that is less is a race.
const DISORDER: u32 = 60_000;

#[cfg(test)]
mod tests;
