//! Who answers worse than the others: pure numbers.

use super::{FailurePercentage, SuccessRate};

/// What became of the requests of one interval, at one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(super) total: u32,
    pub(super) good: u32,
}

impl Volume {
    /// The part that went well, in per cent. Not of nothing.
    pub(super) fn rate(self) -> f64 {
        f64::from(self.good) * 100.0 / f64::from(self.total)
    }

    /// Whether at least `percent` of it failed, in whole numbers.
    fn fails(self, percent: u32) -> bool {
        let failed = u64::from(self.total.saturating_sub(self.good));
        failed * 100 >= u64::from(percent) * u64::from(self.total)
    }
}

/// Somebody whom the numbers of an interval speak against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Suspect {
    /// Whose volume it was.
    pub(super) place: usize,
    pub(super) rate: f64,
    pub(super) rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    /// Its rate is below this threshold.
    SuccessRate(f64),
    /// So many per cent failed.
    FailurePercentage(u32),
}

/// Those whom the numbers speak against, the worst first.
pub(super) fn suspects(
    volumes: &[Volume],
    success_rate: Option<SuccessRate>,
    failure_percentage: Option<FailurePercentage>,
) -> Vec<Suspect> {
    let mut found = Vec::new();
    if let Some(rule) = success_rate
        && let Some(threshold) = threshold(volumes, rule)
    {
        let below = |(_, v): &(usize, Volume)| v.rate() < threshold - ROUNDING;
        let suspect = |(place, v): (usize, Volume)| Suspect {
            place,
            rate: v.rate(),
            rule: Rule::SuccessRate(threshold),
        };
        found.extend(with(volumes, rule.request_volume).filter(below).map(suspect));
    }
    if let Some(rule) = failure_percentage
        && with(volumes, rule.request_volume).count() >= rule.minimum_hosts.max(1)
    {
        let percent = rule.threshold;
        let fails = with(volumes, rule.request_volume).filter(|(_, v)| v.fails(percent));
        let suspect = |(place, v): (usize, Volume)| Suspect {
            place,
            rate: v.rate(),
            rule: Rule::FailurePercentage(percent),
        };
        found.extend(fails.map(suspect));
    }
    // The rates are numbers: nobody without requests is asked for one.
    found.sort_by(|a, b| a.rate.total_cmp(&b.rate).then(a.place.cmp(&b.place)));
    let mut seen = std::collections::HashSet::new();
    found.retain(|suspect| seen.insert(suspect.place));
    found
}

/// `mean − deviation × factor / 1000` of the rates, where enough backends have enough requests.
pub(super) fn threshold(volumes: &[Volume], rule: SuccessRate) -> Option<f64> {
    let rates: Vec<_> = with(volumes, rule.request_volume).map(|(_, v)| v.rate()).collect();
    if rates.len() < rule.minimum_hosts.max(1) {
        return None;
    }
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count;
    Some(mean - variance.sqrt() * f64::from(rule.stdev_factor) / 1000.0)
}

fn with(volumes: &[Volume], at_least: u32) -> impl Iterator<Item = (usize, Volume)> + '_ {
    let at_least = at_least.max(1);
    volumes.iter().copied().enumerate().filter(move |(_, volume)| volume.total >= at_least)
}

/// Backends that all fare alike must not be below their own mean because it was rounded.
const ROUNDING: f64 = 1e-9;
