//! What is told of a backend's health.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Condition, Verdict};

/// How a backend is, since when, and why. Its text is a sentence.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HealthReport {
    /// What it is, all in all.
    pub condition: Condition,
    /// Whether it may be picked in the cluster that was asked.
    pub eligible: bool,
    /// The part of its weight that it has, from 0 to 1: less than 1 during slow start.
    pub weight_factor: f64,
    /// Since when it is in this condition.
    pub since: Instant,
    /// For how long it has been.
    pub age: Duration,
    /// Why.
    pub reason: Arc<str>,
    /// What has happened to it so far.
    pub counts: HealthCounts,
}

/// What has happened to a backend since it was made, in whatever clusters and checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthCounts {
    /// Probes that found that it works, stopping or not.
    pub checks_passed: u64,
    /// Probes that found that it does not work, or that it is not who it should be.
    pub checks_failed: u64,
    /// How often it came up: checks, or the backend that it tracks, found it well again, or for the
    /// first time if it had to pass a check first.
    pub went_up: u64,
    /// How often it went down, having been up.
    pub went_down: u64,
    /// How often requests had it ejected.
    pub ejections: u64,
}

impl fmt::Display for HealthReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1?}: {}", self.condition, self.age, self.reason)
    }
}

impl HealthCounts {
    pub(super) fn count(&mut self, verdict: &Verdict, is_up: bool) {
        let passed = match verdict {
            Verdict::Pass => true,
            // Of one that is down it is a failure.
            Verdict::Stop { .. } => is_up,
            Verdict::Fail { .. } | Verdict::Unfit { .. } => false,
            Verdict::Agent(reply) => match reply.up {
                Some(up) => up,
                None => return,
            },
        };
        let count = if passed { &mut self.checks_passed } else { &mut self.checks_failed };
        *count += 1;
    }
}
