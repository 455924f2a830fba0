//! What is counted of one backend.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::rates::Volume;
use super::trial::Trial;

/// What is counted of one backend, in whatever cluster requests get there.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Errors in a row, for active checks.
    pub(super) observed: Streak,
    /// Statuses from 500 on, in a row.
    pub(super) errors: Streak,
    /// 502, 503 and 504, in a row.
    pub(super) gateway: Streak,
    /// Dials that failed and requests without an answer, in a row.
    pub(super) local: Streak,
    /// All requests, or, where failures are told apart, those that were answered.
    pub(super) answers: Window,
    /// Where failures are told apart: whether there was an answer.
    pub(super) links: Window,
    pub(crate) trial: Trial,
}

impl Tally {
    /// After an ejection nothing from before it counts.
    pub(crate) fn forget(&self) {
        for streak in [&self.errors, &self.gateway, &self.local] {
            streak.end();
        }
        self.trial.reset();
    }
}

/// Failures in a row.
#[derive(Debug, Default)]
pub(super) struct Streak(AtomicU32);

impl Streak {
    /// One more. Says so to one caller once there are `limit`, and starts anew. Never for 0.
    pub(super) fn reaches(&self, limit: u32) -> bool {
        if limit == 0 {
            return false;
        }
        // Another cluster may have a higher limit, so there may be more already. Of several at once,
        // only one takes them.
        let many = self.0.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= limit;
        many && self.0.swap(0, Ordering::Relaxed) >= limit
    }

    pub(super) fn end(&self) {
        // Most of the time it is 0, and what is only read can be in all caches.
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

/// What became of the requests of an interval: the total in the upper half, the good in the lower,
/// so that one step counts both.
#[derive(Debug, Default)]
pub(super) struct Window(AtomicU64);

impl Window {
    pub(super) fn count(&self, good: bool) {
        self.0.fetch_add(ONE | u64::from(good), Ordering::Relaxed);
    }

    /// What counted as good was not.
    pub(super) fn take_back(&self) {
        // The interval may have ended in the meantime: there is nothing to take back then.
        let less = |both: u64| (both as u32 > 0).then(|| both - 1);
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// What it was; the next interval begins.
    pub(super) fn take(&self) -> Volume {
        if self.0.load(Ordering::Relaxed) == 0 {
            return Volume::default();
        }
        let both = self.0.swap(0, Ordering::Relaxed);
        Volume { total: (both >> 32) as u32, good: both as u32 }
    }
}

const ONE: u64 = 1 << 32;
