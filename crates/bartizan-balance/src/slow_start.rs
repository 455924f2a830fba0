//! How a backend that has recovered comes back by degrees.

use std::time::Duration;

/// The ramp of a backend's share after a recovery.
///
/// A backend that checks bring back gets a small share of its weight at first, and of its limit of
/// concurrent requests; both grow until the window is over. There is no ramp when a cluster starts,
/// nor for a backend that is added: only for one that was seen down, or in maintenance.
///
/// The share after the time `t` is the larger of `least` and `(t / window) ^ (1 / aggression)`:
/// with an aggression of 1, HAProxy's linear `slowstart`; with another, Envoy's slow start.
///
/// | setting | default | HAProxy | Envoy |
/// | --- | --- | --- | --- |
/// | window | – | `slowstart` | `slow_start_window` |
/// | [`aggression`](Self::aggression) | 1.0 | – | `aggression` |
/// | [`least`](Self::least) | 0 % | one step of the weight | `min_weight_percent`, 10 % |
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    window: Duration,
    aggression: f64,
    least: f64,
}

impl SlowStart {
    /// Grows over `window`, in proportion to the time. A window of zero is none.
    pub fn new(window: Duration) -> Self {
        Self { window, aggression: 1.0, least: 0.0 }
    }

    /// Above 1, the share grows faster at the beginning; below, at the end. Values that are not
    /// finite or not above 0 count as 1.
    pub fn aggression(self, aggression: f64) -> Self {
        let usable = aggression.is_finite() && aggression > 0.0;
        Self { aggression: if usable { aggression } else { 1.0 }, ..self }
    }

    /// The share that it starts with, in percent; above 100 counts as 100.
    pub fn least(self, percent: u8) -> Self {
        Self { least: f64::from(percent.min(100)) / 100.0, ..self }
    }

    /// How long it takes.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// The share of the whole, from 0 to 1, so long after the recovery.
    pub fn share(&self, since: Duration) -> f64 {
        if since >= self.window {
            return 1.0;
        }
        let linear = since.as_secs_f64() / self.window.as_secs_f64();
        linear.powf(self.aggression.recip()).clamp(self.least, 1.0)
    }

    /// How long a share counts before it is reckoned anew.
    pub(crate) fn step(&self) -> Duration {
        (self.window / STEPS).max(SHORTEST_STEP)
    }
}

/// Steps of one per cent cannot be told from a ramp, and the table is made anew for each.
const STEPS: u32 = 100;

/// Bounds the work for short windows.
const SHORTEST_STEP: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_linear_as_haproxys() {
        let ramp = SlowStart::new(Duration::from_secs(10));
        for (seconds, share) in [(0, 0.0), (1, 0.1), (5, 0.5), (10, 1.0), (60, 1.0)] {
            assert_eq!(ramp.share(Duration::from_secs(seconds)), share, "after {seconds} s");
        }
    }

    #[test]
    fn follows_envoys_formula() {
        let ramp = SlowStart::new(Duration::from_secs(100)).aggression(2.0).least(10);
        assert_eq!(ramp.share(Duration::ZERO), 0.1);
        assert_eq!(ramp.share(Duration::from_secs(25)), 0.5);
        assert_eq!(ramp.share(Duration::from_secs(100)), 1.0);
    }

    #[test]
    fn nothing_that_is_set_makes_it_anything_but_a_share() {
        for aggression in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300, 1e300] {
            let ramp = SlowStart::new(Duration::from_secs(1)).aggression(aggression).least(200);
            assert_eq!(ramp.share(Duration::from_millis(3)), 1.0, "{aggression}");
            let ramp = SlowStart::new(Duration::from_secs(1)).aggression(aggression);
            let share = ramp.share(Duration::from_millis(3));
            assert!((0.0..=1.0).contains(&share), "{aggression}: {share}");
        }
        assert_eq!(SlowStart::new(Duration::ZERO).share(Duration::ZERO), 1.0);
    }
}
