//! `Retry-After`.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// When a backend wants to be asked again: `Retry-After` (RFC 9110 §10.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryAfter {
    /// In so long.
    In(Duration),
    /// Then.
    At(SystemTime),
}

impl RetryAfter {
    /// What a head says, if it says it once and can be understood.
    pub(super) fn of(head: &HeaderMap) -> Option<Self> {
        let mut all = head.get_all(RETRY_AFTER).iter();
        let text = all.next()?.to_str().ok()?.trim();
        if all.next().is_some() || text.is_empty() {
            return None;
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            // More digits than a number has mean the same as the largest one: it is capped anyway.
            return Some(Self::In(Duration::from_secs(text.parse().unwrap_or(u64::MAX))));
        }
        httpdate::parse_http_date(text).ok().map(Self::At)
    }

    /// How long that is from the wall time `now` on; nothing, if it is over.
    pub(super) fn from(self, now: SystemTime) -> Duration {
        match self {
            Self::In(span) => span,
            Self::At(at) => at.duration_since(now).unwrap_or_default(),
        }
    }
}
