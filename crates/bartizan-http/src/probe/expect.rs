//! What an answer has to be like.

use std::fmt;
use std::ops::{Bound, Not, RangeBounds};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use regex::bytes::Regex;

use super::HttpProbeError;

/// One thing that is expected of an answer to an [`HttpProbe`](crate::HttpProbe); with `!` before it,
/// that it is not so.
///
/// | here | HAProxy's `http-check expect` |
/// | --- | --- |
/// | `Expect::status(200..=299)` | `status 200-299` |
/// | `Expect::header(name)` | `hdr name "…"` |
/// | `Expect::header_is(name, value)` | `fhdr name "…" value "…"` |
/// | `Expect::body("ready")` | `string ready` |
/// | `Expect::body_matches("^ok")` | `rstring ^ok` |
/// | `!Expect::status(500..=599)` | `! status 500-599` |
#[derive(Clone, Debug)]
pub struct Expect {
    what: What,
    negated: bool,
}

#[derive(Clone, Debug)]
enum What {
    // Both ends are within.
    Status(u16, u16),
    Header(HeaderName),
    HeaderIs(HeaderName, HeaderValue),
    Body(Bytes),
    BodyMatches(Regex),
}

impl Expect {
    /// A status within `range`. Of several that are not negated, one is enough.
    pub fn status(range: impl RangeBounds<u16>) -> Self {
        let first = match range.start_bound() {
            Bound::Included(first) => *first,
            // A range that begins after the last status of all is empty, and so is 1 to 0.
            Bound::Excluded(before) => match before.checked_add(1) {
                Some(first) => first,
                None => return Self::new(What::Status(1, 0)),
            },
            Bound::Unbounded => 0,
        };
        let last = match range.end_bound() {
            Bound::Included(last) => *last,
            Bound::Excluded(after) => match after.checked_sub(1) {
                Some(last) => last,
                None => return Self::new(What::Status(1, 0)),
            },
            Bound::Unbounded => u16::MAX,
        };
        Self::new(What::Status(first, last))
    }

    /// A header field of this name, whatever it says.
    ///
    /// Fields for one hop, such as `Connection`, are gone when a probe looks.
    pub fn header(name: HeaderName) -> Self {
        Self::new(What::Header(name))
    }

    /// A header field of this name whose value is this, letter by letter. Of several fields of the
    /// name, one is enough.
    pub fn header_is(name: HeaderName, value: HeaderValue) -> Self {
        Self::new(What::HeaderIs(name, value))
    }

    /// A body with this in it.
    pub fn body(part: impl Into<Bytes>) -> Self {
        Self::new(What::Body(part.into()))
    }

    /// A body that this regular expression matches somewhere, in the syntax of the crate `regex`. Its
    /// time is linear in the length of the body, whatever the expression.
    ///
    /// # Errors
    ///
    /// [`HttpProbeError::Pattern`].
    pub fn body_matches(pattern: &str) -> Result<Self, HttpProbeError> {
        let pattern = Regex::new(pattern).map_err(|error| HttpProbeError::Pattern(error.into()))?;
        Ok(Self::new(What::BodyMatches(pattern)))
    }

    fn new(what: What) -> Self {
        Self { what, negated: false }
    }
}

impl Not for Expect {
    type Output = Self;

    fn not(self) -> Self {
        Self { negated: !self.negated, ..self }
    }
}

/// What is expected, for people.
impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let no = if self.negated { "no " } else { "" };
        match &self.what {
            What::Status(first, last) if first == last => write!(f, "{no}status {first}"),
            What::Status(first, last) => write!(f, "{no}status from {first} to {last}"),
            What::Header(name) => write!(f, "{no}header {name}"),
            What::HeaderIs(name, value) => write!(f, "{no}header {name}: {value:?}"),
            What::Body(part) => write!(f, "{no}{:?} in the body", String::from_utf8_lossy(part)),
            What::BodyMatches(pattern) => {
                write!(f, "{no}match of {:?} in the body", pattern.as_str())
            }
        }
    }
}

/// All that is expected of an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Expectations(Vec<Expect>);

impl Expectations {
    pub(super) fn add(&mut self, expect: Expect) {
        self.0.push(expect);
    }

    /// Whether the body has to be looked at.
    pub(super) fn want_body(&self) -> bool {
        self.0.iter().any(|expect| matches!(expect.what, What::Body(_) | What::BodyMatches(_)))
    }

    /// Looks at the head.
    ///
    /// # Errors
    ///
    /// What is not as expected, for people.
    pub(super) fn look_at_head<B>(&self, response: &Response<B>) -> Result<(), String> {
        self.look_at_status(response.status())?;
        let headers = response.headers();
        self.0.iter().try_for_each(|expect| match expect.met_by_headers(headers) {
            Some(false) => Err(format!("{expect} is expected, and the answer is not like that")),
            _ => Ok(()),
        })
    }

    fn look_at_status(&self, status: StatusCode) -> Result<(), String> {
        let ranges = self.0.iter().filter_map(Expect::as_status);
        let (barred, wanted): (Vec<_>, Vec<_>) = ranges.partition(|(negated, _)| *negated);
        let within =
            |(_, (first, last)): &(bool, (u16, u16))| (*first..=*last).contains(&status.as_u16());
        if barred.iter().any(within) {
            return Err(format!("it answered {status}, which it must not"));
        }
        let wanted = match &*wanted {
            [] if barred.is_empty() => &[(false, HAPROXYS)],
            // Whoever says what it must not be allows the rest.
            [] => return Ok(()),
            wanted => wanted,
        };
        if wanted.iter().any(within) {
            return Ok(());
        }
        let wanted = wanted.iter().map(|(_, (first, last))| format!("{first} to {last}"));
        let wanted = wanted.collect::<Vec<_>>().join(" or ");
        Err(format!("it answered {status}, and {wanted} is expected"))
    }

    /// Looks at the body, or at the first of its bytes: then it is not `whole`.
    ///
    /// # Errors
    ///
    /// What is not as expected, for people.
    pub(super) fn look_at_body(&self, body: &[u8], whole: bool) -> Result<(), String> {
        let unmet = self.0.iter().find(|expect| expect.met_by_body(body) == Some(false));
        let Some(expect) = unmet else { return Ok(()) };
        if whole || expect.negated {
            return Err(format!("{expect} is expected, and the answer is not like that"));
        }
        let seen = body.len();
        Err(format!(
            "{expect} is expected, and is not among the first {seen} bytes, which are all \
             that is looked at"
        ))
    }
}

impl Expect {
    fn as_status(&self) -> Option<(bool, (u16, u16))> {
        match self.what {
            What::Status(first, last) => Some((self.negated, (first, last))),
            _ => None,
        }
    }

    /// Whether header fields are as expected, if it is about those.
    fn met_by_headers(&self, headers: &HeaderMap) -> Option<bool> {
        let so = match &self.what {
            What::Header(name) => headers.contains_key(name),
            What::HeaderIs(name, value) => headers.get_all(name).iter().any(|is| is == value),
            _ => return None,
        };
        Some(so != self.negated)
    }

    /// Whether the body is as expected, if it is about that.
    fn met_by_body(&self, body: &[u8]) -> Option<bool> {
        let so = match &self.what {
            What::Body(part) => contains(body, part),
            What::BodyMatches(pattern) => pattern.is_match(body),
            _ => return None,
        };
        Some(so != self.negated)
    }
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    part.is_empty() || body.windows(part.len()).any(|window| window == part)
}

/// What HAProxy expects of a status if nothing is said.
const HAPROXYS: (u16, u16) = (200, 399);

#[cfg(test)]
mod tests;
