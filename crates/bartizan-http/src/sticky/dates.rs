//! How long a cookie is believed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// When a client was here, in seconds since 1970; 0 where that is not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dates {
    pub(super) last: u64,
    pub(super) first: u64,
}

/// The limits, in seconds; 0 for none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lifetime {
    pub(super) idle: u64,
    pub(super) life: u64,
}

impl Dates {
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl Lifetime {
    /// Whether a cookie with these dates is believed. What is not dated is.
    pub(super) fn accepts(self, dates: Dates, now: u64) -> bool {
        let within = |date: u64, limit: u64| {
            date == 0
                || limit == 0
                || now.saturating_sub(date) <= limit && date.saturating_sub(now) <= SKEW
        };
        within(dates.first, self.life) && within(dates.last, self.idle)
    }

    /// Whether a client with these dates is to be given others.
    pub(super) fn is_due(self, dates: Dates, now: u64) -> bool {
        let idle = self.idle > 0;
        idle != (dates.last > 0) || (self.life > 0) != (dates.first > 0) || idle && dates.last < now
    }

    /// What a cookie that is set now is dated. `dates` are those of the one that it replaces.
    pub(super) fn renewed(self, dates: Dates, now: u64) -> Dates {
        // Rounded up, so that a page of many parts sets the cookie once.
        let now = now.next_multiple_of(RESOLUTION);
        let first = if dates.first > 0 { dates.first } else { now };
        let (idle, life) = (self.idle > 0, self.life > 0);
        Dates { last: if idle { now } else { 0 }, first: if life { first } else { 0 } }
    }

    /// Whether there are limits at all.
    pub(super) fn is_limited(self) -> bool {
        self.idle > 0 || self.life > 0
    }
}

/// Whole seconds; what is beyond the range counts as never.
pub(super) fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}

/// Seconds since 1970.
pub(super) fn unix(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, seconds)
}

/// HAProxy's: what is dated further in the future is not believed. Less may be a clock set right.
const SKEW: u64 = 24 * 60 * 60;

/// HAProxy's, in seconds.
const RESOLUTION: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn dates(last: u64, first: u64) -> Dates {
        Dates { last, first }
    }

    #[test]
    fn a_cookie_is_believed_up_to_its_limits_and_not_a_second_longer() {
        let both = Lifetime { idle: 60, life: 600 };
        let (idle, life) = (Lifetime { life: 0, ..both }, Lifetime { idle: 0, ..both });
        for (lifetime, last, first, accepted) in [
            (both, 0, 0, true),
            (both, NOW - 60, NOW - 600, true),
            (both, NOW - 61, NOW - 600, false),
            (both, NOW - 60, NOW - 601, false),
            (both, NOW + SKEW, NOW + SKEW, true),
            (both, NOW + SKEW + 1, NOW, false),
            (both, NOW, NOW + SKEW + 1, false),
            (both, 0, NOW - 601, false),
            (both, NOW - 61, 0, false),
            (idle, NOW - 60, 1, true),
            (idle, NOW - 61, NOW, false),
            (life, 1, NOW - 600, true),
            (life, NOW, NOW - 601, false),
            (Lifetime::default(), 1, u64::MAX, true),
            (both, u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(lifetime.accepts(dates(last, first), NOW), accepted, "{lifetime:?} {last}");
        }
    }

    #[test]
    fn dates_are_set_anew_when_they_are_older_than_now_missing_or_not_wanted_any_more() {
        let both = Lifetime { idle: 60, life: 600 };
        let (idle, life) = (Lifetime { life: 0, ..both }, Lifetime { idle: 0, ..both });
        for (lifetime, last, first, due) in [
            (both, NOW, NOW - 9, false),
            (both, NOW + 3, NOW - 9, false),
            (both, NOW - 1, NOW - 9, true),
            (both, 0, NOW, true),
            (both, NOW, 0, true),
            (idle, NOW, 0, false),
            (idle, NOW, NOW, true),
            (life, 0, NOW - 500, false),
            (life, NOW, NOW - 500, true),
            (Lifetime::default(), 0, 0, false),
            (Lifetime::default(), NOW, 0, true),
            (Lifetime::default(), 0, NOW, true),
        ] {
            assert_eq!(
                lifetime.is_due(dates(last, first), NOW),
                due,
                "{lifetime:?} {last} {first}"
            );
        }
    }

    #[test]
    fn the_first_visit_stays_the_first() {
        let both = Lifetime { idle: 60, life: 600 };
        let (idle, life) = (Lifetime { life: 0, ..both }, Lifetime { idle: 0, ..both });
        assert_eq!(both.renewed(dates(5, 7), NOW + 1), dates(NOW + 4, 7));
        assert_eq!(both.renewed(dates(5, 0), NOW), dates(NOW, NOW));
        assert_eq!(idle.renewed(dates(5, 7), NOW), dates(NOW, 0));
        assert_eq!(life.renewed(dates(5, 7), NOW), dates(0, 7));
        assert_eq!(Lifetime::default().renewed(dates(5, 7), NOW), Dates::default());
    }

    #[test]
    fn a_clock_before_1970_dates_nothing() {
        assert_eq!(unix(UNIX_EPOCH - Duration::from_secs(9)), 0);
        assert_eq!(unix(UNIX_EPOCH + Duration::from_millis(9_900)), 9);
    }
}
