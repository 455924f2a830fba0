//! What is counted of an entry.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

/// Counts that an entry of a [`StickTable`](crate::StickTable) can have, with HAProxy's names. 8
/// bytes each; [`ConnCur`](Self::ConnCur) 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StickCount {
    /// Connections so far: `conn_cnt`.
    ConnCnt,
    /// Connections at the moment: `conn_cur`. What a [`Tracked`](crate::Tracked) counted, it gives
    /// back when it is dropped.
    ConnCur,
    /// Requests so far: `http_req_cnt`.
    HttpReqCnt,
    /// Requests so far that were the client's fault: `http_err_cnt`.
    HttpErrCnt,
    /// Bytes from the client so far: `bytes_in_cnt`.
    BytesInCnt,
    /// Bytes to the client so far: `bytes_out_cnt`.
    BytesOutCnt,
    /// Whatever is counted with it: `gpc0`.
    Gpc0,
}

/// Rates that an entry of a [`StickTable`](crate::StickTable) can have, with HAProxy's names. 24
/// bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StickRate {
    /// Connections per period: `conn_rate`.
    Conn,
    /// Requests per period: `http_req_rate`.
    HttpReq,
    /// Requests per period that were the client's fault: `http_err_rate`.
    HttpErr,
    /// Bytes from the client per period: `bytes_in_rate`.
    BytesIn,
    /// Bytes to the client per period: `bytes_out_rate`.
    BytesOut,
    /// Whatever is counted with it, per period: `gpc0_rate`.
    Gpc0,
}

/// A count or a rate. Displays as HAProxy's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StickCounter {
    /// How many there were, or are.
    Count(StickCount),
    /// How many there were in a period up to now.
    Rate(StickRate),
}

impl From<StickCount> for StickCounter {
    fn from(count: StickCount) -> Self {
        Self::Count(count)
    }
}

impl From<StickRate> for StickCounter {
    fn from(rate: StickRate) -> Self {
        Self::Rate(rate)
    }
}

impl fmt::Display for StickCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Count(StickCount::ConnCnt) => "conn_cnt",
            Self::Count(StickCount::ConnCur) => "conn_cur",
            Self::Count(StickCount::HttpReqCnt) => "http_req_cnt",
            Self::Count(StickCount::HttpErrCnt) => "http_err_cnt",
            Self::Count(StickCount::BytesInCnt) => "bytes_in_cnt",
            Self::Count(StickCount::BytesOutCnt) => "bytes_out_cnt",
            Self::Count(StickCount::Gpc0) => "gpc0",
            Self::Rate(StickRate::Conn) => "conn_rate",
            Self::Rate(StickRate::HttpReq) => "http_req_rate",
            Self::Rate(StickRate::HttpErr) => "http_err_rate",
            Self::Rate(StickRate::BytesIn) => "bytes_in_rate",
            Self::Rate(StickRate::BytesOut) => "bytes_out_rate",
            Self::Rate(StickRate::Gpc0) => "gpc0_rate",
        })
    }
}

/// Which words of an entry are what.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    fields: Vec<Field>,
    width: usize,
}

#[derive(Clone, Copy, Debug)]
struct Field {
    counter: StickCounter,
    // Of a rate, in nanoseconds.
    period: u64,
    at: usize,
}

impl Layout {
    /// Adds a counter; one that is there already gets the new period.
    pub(super) fn add(&mut self, counter: StickCounter, period: Duration) {
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
        if let Some(field) = self.fields.iter_mut().find(|field| field.counter == counter) {
            field.period = period;
            return;
        }
        self.fields.push(Field { counter, period, at: self.width });
        self.width += match counter {
            StickCounter::Count(StickCount::ConnCur) => 2,
            StickCounter::Count(_) => 1,
            StickCounter::Rate(_) => 3,
        };
    }

    /// Words per entry.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// The words of the entry in this place.
    pub(super) fn range(&self, place: u32) -> Range<usize> {
        let at = place as usize * self.width;
        at..at + self.width
    }

    /// Sets the words of a new entry.
    pub(super) fn start(&self, words: &mut [u64], now: u64) {
        words.fill(0);
        for field in &self.fields {
            if let StickCounter::Rate(_) = field.counter {
                words[field.at] = now;
            }
        }
    }

    /// Adds `n`, and returns the new value.
    pub(super) fn count(
        &self,
        words: &mut [u64],
        counter: StickCounter,
        n: u64,
        now: u64,
    ) -> Option<u64> {
        let field = self.field(counter)?;
        let words = &mut words[field.at..];
        match (counter, words) {
            (StickCounter::Rate(_), [start, current, past, ..]) => {
                let mut rate = Sliding { start: *start, current: *current, past: *past };
                rate.turn(field.period, now);
                rate.current = rate.current.saturating_add(n);
                (*start, *current, *past) = (rate.start, rate.current, rate.past);
                Some(rate.read(field.period, now))
            }
            (StickCounter::Count(_), [value, ..]) => {
                *value = value.saturating_add(n);
                Some(*value)
            }
            _ => None,
        }
    }

    /// Takes back what was counted of [`StickCount::ConnCur`] in this life of the entry.
    pub(super) fn give_back(&self, words: &mut [u64], n: u64, life: u64) {
        if let Some((value, of)) = self.current(words)
            && *of == life
        {
            *value = value.saturating_sub(n);
        }
    }

    /// Which life of the entry this is; `next` if that was not asked before.
    pub(super) fn life(&self, words: &mut [u64], next: impl FnOnce() -> u64) -> u64 {
        let Some((_, life)) = self.current(words) else { return 0 };
        if *life == 0 {
            *life = next();
        }
        *life
    }

    pub(super) fn get(&self, words: &[u64], counter: StickCounter, now: u64) -> Option<u64> {
        let field = self.field(counter)?;
        match (counter, &words[field.at..]) {
            (StickCounter::Rate(_), [start, current, past, ..]) => {
                let rate = Sliding { start: *start, current: *current, past: *past };
                Some(rate.read(field.period, now))
            }
            (StickCounter::Count(_), [value, ..]) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn all(&self, words: &[u64], now: u64) -> Vec<(StickCounter, u64)> {
        let value = |field: &Field| Some((field.counter, self.get(words, field.counter, now)?));
        self.fields.iter().filter_map(value).collect()
    }

    fn current<'a>(&self, words: &'a mut [u64]) -> Option<(&'a mut u64, &'a mut u64)> {
        let field = self.field(StickCount::ConnCur.into())?;
        match &mut words[field.at..] {
            [value, life, ..] => Some((value, life)),
            _ => None,
        }
    }

    fn field(&self, counter: StickCounter) -> Option<Field> {
        self.fields.iter().find(|field| field.counter == counter).copied()
    }
}

/// A rate over the period up to now, from the counts of the current period and of the one before,
/// as HAProxy estimates it: the earlier count is taken to be spread evenly over its period, and
/// counts in proportion to what of that the sliding period still covers.
#[derive(Clone, Copy, Debug)]
struct Sliding {
    start: u64,
    current: u64,
    past: u64,
}

impl Sliding {
    /// Starts a new period, if it is time for that.
    fn turn(&mut self, period: u64, now: u64) {
        let elapsed = now.saturating_sub(self.start);
        if elapsed < period {
            return;
        }
        let next = elapsed - period < period;
        self.past = if next { self.current } else { 0 };
        self.start = if next { self.start + period } else { now };
        self.current = 0;
    }

    fn read(mut self, period: u64, now: u64) -> u64 {
        self.turn(period, now);
        // As in HAProxy, so that a low rate does not flap between 0 and 1.
        if self.current == 0 && self.past <= 1 {
            return self.past;
        }
        let left = period - now.saturating_sub(self.start).min(period);
        let past = u128::from(self.past) * u128::from(left) / u128::from(period);
        self.current.saturating_add(past as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: StickCounter = StickCounter::Rate(StickRate::HttpReq);

    fn layout() -> (Layout, Vec<u64>) {
        let mut layout = Layout::default();
        layout.add(StickCount::ConnCnt.into(), Duration::ZERO);
        layout.add(RATE, Duration::from_nanos(1_000));
        let mut words = vec![7; layout.width()];
        layout.start(&mut words, 500);
        (layout, words)
    }

    #[test]
    fn a_rate_slides_from_one_period_into_the_next() {
        let (layout, mut words) = layout();
        assert_eq!(layout.count(&mut words, RATE, 10, 600), Some(10));
        assert_eq!(layout.get(&words, RATE, 1_499), Some(10));
        assert_eq!(layout.get(&words, RATE, 1_500), Some(10), "all of the period before");
        assert_eq!(layout.get(&words, RATE, 1_800), Some(7));
        assert_eq!(layout.count(&mut words, RATE, 4, 2_000), Some(4 + 5));
        assert_eq!(layout.get(&words, RATE, 2_499), Some(4));
        assert_eq!(layout.get(&words, RATE, 3_000), Some(2));
        assert_eq!(layout.get(&words, RATE, 3_500), Some(0), "nothing for a whole period");
    }

    #[test]
    fn one_in_the_period_before_does_not_flap() {
        let (layout, mut words) = layout();
        layout.count(&mut words, RATE, 1, 500);
        assert_eq!(layout.get(&words, RATE, 2_499), Some(1));
        assert_eq!(layout.get(&words, RATE, 2_500), Some(0));
    }

    #[test]
    fn a_count_that_is_not_stored_is_none_and_none_overflows() {
        let (layout, mut words) = layout();
        assert_eq!(layout.count(&mut words, StickCount::Gpc0.into(), 1, 0), None);
        let count = StickCount::ConnCnt.into();
        assert_eq!(layout.count(&mut words, count, u64::MAX, 0), Some(u64::MAX));
        assert_eq!(layout.count(&mut words, count, 1, 0), Some(u64::MAX));
        assert_eq!(layout.count(&mut words, RATE, u64::MAX, 600), Some(u64::MAX));
        assert_eq!(layout.count(&mut words, RATE, u64::MAX, 1_600), Some(u64::MAX));
    }
}
