//! How ejections grow longer, and shorter again.

use std::time::{Duration, Instant};

/// How often a backend was ejected of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Growth {
    times: u32,
    // Since when it has been in again.
    back: Option<Instant>,
}

impl Growth {
    /// It is in again.
    pub(crate) fn back_in(&mut self, now: Instant) {
        self.back = Some(now);
    }

    /// It is out: each `interval` that it has stayed in lets one ejection be forgotten.
    pub(crate) fn goes_out(&mut self, interval: Duration, now: Instant) {
        let stayed = self.back.take().map_or(Duration::ZERO, |b| now.saturating_duration_since(b));
        let forgotten = stayed.as_nanos() / interval.as_nanos().max(1);
        self.times = self.times.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
    }

    /// One more ejection. Returns how many of late make it so.
    pub(crate) fn ejected(&mut self, interval: Duration, now: Instant) -> u32 {
        self.goes_out(interval, now);
        self.times = self.times.saturating_add(1);
        self.times
    }
}

/// For how long the `times`th ejection of late is: `base` as often, but no longer than `longest`,
/// and `jitter` more.
pub(super) fn ejection_time(
    times: u32,
    base: Duration,
    longest: Duration,
    jitter: Duration,
) -> Duration {
    base.saturating_mul(times).min(longest.max(base)).saturating_add(jitter)
}
