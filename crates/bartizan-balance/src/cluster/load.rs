//! What a whole cluster has to do, and what its backends may take because of that.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{Backend, Limits};

/// Counts only where a backend's limit depends on it: all workers would write to one cache line.
#[derive(Debug)]
pub(crate) struct ClusterLoad {
    in_flight: AtomicUsize,
    counts: AtomicBool,
    // The load at which limits are at their maximum: what was configured, or the sum of these.
    full: AtomicUsize,
    configured: bool,
}

impl ClusterLoad {
    pub(crate) fn new(full: Option<usize>) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            counts: AtomicBool::new(false),
            full: AtomicUsize::new(full.unwrap_or(1)),
            configured: full.is_some(),
        }
    }

    /// The members have become these.
    pub(crate) fn members(&self, members: &[Arc<Backend>]) {
        let ramps = members.iter().any(|member| member.limits().min.is_some());
        self.counts.store(ramps, Ordering::Relaxed);
        if !self.configured {
            let max =
                |member: &Arc<Backend>| member.limits().max.map_or(0, |max| max.get() as usize);
            self.full.store(members.iter().map(max).sum::<usize>().max(1), Ordering::Relaxed);
        }
    }

    /// Whether any limit depends on the load.
    pub(crate) fn counts(&self) -> bool {
        self.counts.load(Ordering::Relaxed)
    }

    /// Counts one more, if anything depends on it. Says whether it did, for `less`.
    pub(crate) fn more(&self) -> bool {
        let counts = self.counts();
        if counts {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        counts
    }

    pub(crate) fn less(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// HAProxy's `srv_dynamic_maxconn`: what a backend with these limits takes, if its share of its
    /// weight is `share` of `full`.
    pub(crate) fn limit(&self, limits: Limits, (share, full): (u32, u32)) -> Option<NonZeroUsize> {
        let max = limits.max?.get() as usize;
        let ramped = match limits.min {
            Some(min) if (min.get() as usize) < max => {
                let full_load = self.full.load(Ordering::Relaxed);
                let load = self.in_flight.load(Ordering::Relaxed).min(full_load);
                (max * load / full_load).max(min.get() as usize)
            }
            _ => max,
        };
        let warm = match share < full {
            true => ramped * share as usize / full as usize,
            false => ramped,
        };
        Some(NonZeroUsize::new(warm).unwrap_or(NonZeroUsize::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_RAMP: (u32, u32) = (16, 16);

    fn limit(load: &ClusterLoad, limits: Limits, ramp: (u32, u32)) -> Option<usize> {
        load.limit(limits, ramp).map(NonZeroUsize::get)
    }

    #[test]
    fn limits_grow_with_the_load_from_the_minimum_to_the_maximum() {
        let load = ClusterLoad::new(Some(100));
        let limits = Limits::none().max(50).min(10);
        for (in_flight, expected) in [(0, 10), (20, 10), (21, 10), (40, 20), (100, 50), (900, 50)] {
            load.in_flight.store(in_flight, Ordering::Relaxed);
            assert_eq!(limit(&load, limits, NO_RAMP), Some(expected), "{in_flight} in flight");
        }
        assert_eq!(limit(&load, Limits::none().min(10), NO_RAMP), None, "no maximum");
        assert_eq!(limit(&load, Limits::none().max(5).min(10), NO_RAMP), Some(5));
    }

    #[test]
    fn slow_start_scales_the_limit_from_one() {
        let load = ClusterLoad::new(None);
        let limits = Limits::none().max(100);
        for (share, expected) in [(0, 1), (1, 6), (8, 50), (16, 100)] {
            assert_eq!(limit(&load, limits, (share, 16)), Some(expected), "{share} of 16");
        }
    }
}
