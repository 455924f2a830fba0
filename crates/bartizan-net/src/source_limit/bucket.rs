//! A token bucket as the time at which it is full again (GCRA, ITU-T I.371). Pure.

/// The rule for all sources. Times are in nanoseconds from any start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    // What one connection costs.
    cost: u64,
    // How far ahead of the time a source may be before it takes.
    ahead: u64,
}

impl Bucket {
    pub(super) fn new(rate: f64, burst: u32) -> Result<Self, BadRate> {
        if !(rate > 0.0 && rate <= NANOS) {
            return Err(BadRate { what: "the rate", least: "above 0, at most 1,000,000,000" });
        }
        if burst == 0 {
            return Err(BadRate { what: "the burst", least: "at least 1" });
        }
        // Saturates: a rate of one in centuries is as good as none.
        let cost = ((NANOS / rate) as u64).max(1);
        Ok(Self { cost, ahead: cost.saturating_mul(u64::from(burst) - 1) })
    }

    /// Takes one out of a bucket that is full again at `due`. Returns when it is full again then;
    /// `None` if it is empty.
    pub(super) fn take(&self, due: u64, now: u64) -> Option<u64> {
        let due = due.max(now);
        (due - now <= self.ahead).then(|| due.saturating_add(self.cost))
    }
}

/// A rate or a burst makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of a limit has to be {least}")]
pub struct BadRate {
    what: &'static str,
    least: &'static str,
}

const NANOS: f64 = 1e9;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// How many of `tries` at one moment are admitted.
    fn admitted(bucket: &Bucket, due: &mut u64, now: u64, tries: u32) -> u32 {
        let mut count = 0;
        for _ in 0..tries {
            if let Some(next) = bucket.take(*due, now) {
                *due = next;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_burst_goes_through_and_then_the_rate() {
        let (bucket, mut due) = (Bucket::new(10.0, 5).unwrap(), 0);
        assert_eq!(admitted(&bucket, &mut due, 0, 20), 5);
        assert_eq!(admitted(&bucket, &mut due, SECOND / 10 - 1, 20), 0);
        assert_eq!(admitted(&bucket, &mut due, SECOND / 10, 20), 1);
        assert_eq!(admitted(&bucket, &mut due, SECOND / 2, 20), 4);
        assert_eq!(admitted(&bucket, &mut due, 3600 * SECOND, 20), 5, "no more than the burst");
    }

    #[test]
    fn a_refusal_costs_nothing() {
        let (bucket, mut due) = (Bucket::new(1.0, 1).unwrap(), 0);
        assert_eq!(admitted(&bucket, &mut due, 0, 1_000), 1);
        assert_eq!(admitted(&bucket, &mut due, SECOND, 1_000), 1);
    }

    #[test]
    fn rates_below_one_and_at_the_limits_work() {
        let (slow, mut due) = (Bucket::new(0.1, 1).unwrap(), 0);
        assert_eq!(admitted(&slow, &mut due, 0, 2), 1);
        assert_eq!(admitted(&slow, &mut due, 10 * SECOND - 1, 2), 0);
        assert_eq!(admitted(&slow, &mut due, 10 * SECOND, 2), 1);
        let (fastest, mut due) = (Bucket::new(1e9, u32::MAX).unwrap(), 0);
        assert_eq!(admitted(&fastest, &mut due, 0, 1_000), 1_000);
        let (never, mut due) = (Bucket::new(f64::MIN_POSITIVE, u32::MAX).unwrap(), 0);
        assert!(admitted(&never, &mut due, u64::MAX, 3) > 0);
    }

    #[test]
    fn nonsense_is_refused() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e10] {
            let error = Bucket::new(rate, 1).unwrap_err().to_string();
            assert!(error.contains("the rate"), "{rate}: {error}");
        }
        assert!(Bucket::new(1.0, 0).unwrap_err().to_string().contains("the burst"));
    }
}
