//! What is taken for the answer to one question.
//!
//! ```text
//! ## Known => Missing      the name is gone: its records are kept for the hold time
//! ## Missing => Known      it is back
//! ## Missing => Unknown    the hold time is over
//! ```
//!
//! A failure changes nothing of this; it only is asked again soon.

use std::time::{Duration, Instant};

use super::{Found, ResolveError};

/// The records that were found last.
#[derive(Debug)]
pub(super) struct Memory<T> {
    records: Vec<T>,
    missing_since: Option<Instant>,
    failures: u32,
}

/// How long answers are believed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) shortest: Duration,
    pub(super) longest: Duration,
    pub(super) hold: Duration,
}

/// What an operator wants to hear of, once.
#[derive(Debug)]
pub(super) enum News {
    Failed(ResolveError),
    Missing,
    Gone,
    Back,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { records: Vec::new(), missing_since: None, failures: 0 }
    }
}

impl<T> Memory<T> {
    pub(super) fn records(&self) -> &[T] {
        &self.records
    }

    /// Takes an answer in. Returns when to ask again.
    pub(super) fn learn(
        &mut self,
        answer: Result<Found<T>, ResolveError>,
        rules: &Rules,
        now: Instant,
    ) -> (Duration, Option<News>) {
        match answer {
            Ok(found) if !found.records.is_empty() => {
                let was_missing = self.missing_since.take().is_some();
                let news = (was_missing | self.answers()).then_some(News::Back);
                self.records = found.records;
                (rules.clamp(found.ttl), news)
            }
            Ok(found) => self.missing(Some(found.ttl), rules, now),
            Err(ResolveError::NotFound { ttl }) => self.missing(ttl, rules, now),
            Err(error) => {
                let pause = rules.shortest.saturating_mul(2_u32.saturating_pow(self.failures));
                self.failures = self.failures.saturating_add(1);
                let news = (self.failures == 1).then_some(News::Failed(error));
                (rules.clamp(pause.min(LONGEST_PAUSE)), news)
            }
        }
    }

    fn missing(
        &mut self,
        ttl: Option<Duration>,
        rules: &Rules,
        now: Instant,
    ) -> (Duration, Option<News>) {
        let answers = self.answers();
        let again = rules.clamp(ttl.unwrap_or(MISSING_TTL));
        if self.records.is_empty() {
            return (again, answers.then_some(News::Back));
        }
        let first = self.missing_since.is_none();
        let held = now.saturating_duration_since(*self.missing_since.get_or_insert(now));
        let rest = rules.hold.saturating_sub(held);
        if rest.is_zero() {
            self.records.clear();
            self.missing_since = None;
            return (again, Some(News::Gone));
        }
        (rules.clamp(again.min(rest)), first.then_some(News::Missing))
    }

    /// The resolver answers, in whatever way. Whether it did not before.
    fn answers(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }
}

impl Rules {
    fn clamp(&self, time: Duration) -> Duration {
        // The upper bound has the last word, should they be the wrong way round.
        time.max(self.shortest).min(self.longest)
    }
}

/// A resolver that comes back is noticed in this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where the answer has no SOA record to say it (RFC 2308 §5): a name that is about to come is
/// noticed soon.
const MISSING_TTL: Duration = Duration::from_secs(10);
