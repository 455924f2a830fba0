//! How many backends have to be well before health is believed.

/// The fewest healthy backends: a number, and a share of all.
///
/// In whole backends, so that nothing depends on how a percentage rounds: of `n` backends,
/// `max(min(at_least, n), ⌈n × percent / 100⌉)` have to be healthy.
///
/// | backends | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |
/// | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
/// | 50 % | 1 | 1 | 2 | 2 | 3 | 3 | 4 | 4 | 5 | 5 |
/// | 10 % | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 |
/// | 34 % | 1 | 1 | 2 | 2 | 2 | 3 | 3 | 3 | 4 | 4 |
/// | 90 % | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 9 |
/// | at least 2, 50 % | 1 | 2 | 2 | 2 | 3 | 3 | 4 | 4 | 5 | 5 |
/// | at least 3, 10 % | 1 | 2 | 3 | 3 | 3 | 3 | 3 | 3 | 3 | 3 |
///
/// Below that, a cluster that was [told so](crate::ClusterBuilder::panic_below) is in panic: it is
/// more likely that the checks are wrong, or that the few that are left would be overrun, and all
/// backends are used. Envoy's panic threshold has the default of 50 %; HAProxy has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinHealthy {
    at_least: usize,
    percent: u8,
}

impl MinHealthy {
    /// This share of all; above 100 counts as 100.
    pub const fn percent(percent: u8) -> Self {
        Self { at_least: 0, percent: if percent > 100 { 100 } else { percent } }
    }

    /// This number, or all, if there are fewer.
    pub const fn at_least(self, at_least: usize) -> Self {
        Self { at_least, ..self }
    }

    /// How many of `total` have to be healthy.
    pub const fn of(self, total: usize) -> usize {
        let share = (total as u128 * self.percent as u128).div_ceil(100) as usize;
        let number = if self.at_least < total { self.at_least } else { total };
        if number > share { number } else { share }
    }

    /// How many of `total` may be taken out while the others stay enough.
    pub const fn may_be_out(self, total: usize) -> usize {
        total - self.of(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the documentation.
    const TABLE: [(usize, u8, [usize; 10]); 6] = [
        (0, 50, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]),
        (0, 10, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (0, 34, [1, 1, 2, 2, 2, 3, 3, 3, 4, 4]),
        (0, 90, [1, 2, 3, 4, 5, 6, 7, 8, 9, 9]),
        (2, 50, [1, 2, 2, 2, 3, 3, 4, 4, 5, 5]),
        (3, 10, [1, 2, 3, 3, 3, 3, 3, 3, 3, 3]),
    ];

    #[test]
    fn is_exact_for_one_to_ten() {
        for (at_least, percent, needed) in TABLE {
            let rule = MinHealthy::percent(percent).at_least(at_least);
            for (total, needed) in (1..).zip(needed) {
                assert_eq!(rule.of(total), needed, "{at_least}, {percent} % of {total}");
                assert_eq!(rule.may_be_out(total), total - needed);
            }
        }
    }

    #[test]
    fn holds_at_the_ends() {
        assert_eq!(MinHealthy::percent(100).of(usize::MAX), usize::MAX);
        assert_eq!(MinHealthy::percent(255).of(7), 7);
        assert_eq!(MinHealthy::percent(0).of(7), 0);
        assert_eq!(MinHealthy::percent(50).at_least(3).of(0), 0);
    }
}
