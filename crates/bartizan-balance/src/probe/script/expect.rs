//! What a script expects, and finding it in what comes piece by piece.

use std::fmt;
use std::sync::Arc;

use regex::bytes::Regex;

use crate::probe::excerpt::Excerpt;

/// What a step of a [`ScriptProbe`](super::ScriptProbe) looks for. Text and bytes, where one of these
/// is wanted, mean [`contains`](Self::contains).
#[derive(Clone, Debug)]
pub struct Expect {
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Contains(Needle),
    StartsWith(Arc<[u8]>),
    Exact(Arc<[u8]>),
    Regex(Regex),
    AtLeast(usize),
}

impl Expect {
    /// These bytes, anywhere: HAProxy's `string` and `binary`.
    pub fn contains(bytes: impl AsRef<[u8]>) -> Self {
        Self { kind: Kind::Contains(Needle::new(bytes.as_ref())) }
    }

    /// These bytes first. Anything else fails as soon as it differs.
    pub fn starts_with(bytes: impl AsRef<[u8]>) -> Self {
        Self { kind: Kind::StartsWith(bytes.as_ref().into()) }
    }

    /// These bytes, and then the end of the connection.
    pub fn exact(bytes: impl AsRef<[u8]>) -> Self {
        Self { kind: Kind::Exact(bytes.as_ref().into()) }
    }

    /// A match anywhere: HAProxy's `rstring` and `rbinary`.
    ///
    /// The expression is tried again with each piece that comes, so that one which may go on (`a+`)
    /// matches what is there, and `$` matches before what is still to come.
    pub fn regex(regex: Regex) -> Self {
        Self { kind: Kind::Regex(regex) }
    }

    /// So many bytes, whatever they are: HAProxy's `min-recv`.
    pub fn at_least(bytes: usize) -> Self {
        Self { kind: Kind::AtLeast(bytes) }
    }
}

impl From<&str> for Expect {
    fn from(text: &str) -> Self {
        Self::contains(text)
    }
}

impl From<&[u8]> for Expect {
    fn from(bytes: &[u8]) -> Self {
        Self::contains(bytes)
    }
}

impl<const N: usize> From<&[u8; N]> for Expect {
    fn from(bytes: &[u8; N]) -> Self {
        Self::contains(bytes)
    }
}

impl From<Regex> for Expect {
    fn from(regex: Regex) -> Self {
        Self::regex(regex)
    }
}

/// For reasons: printable and short.
impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Contains(needle) => Excerpt(&needle.bytes).fmt(f),
            Kind::StartsWith(bytes) => write!(f, "{} first", Excerpt(bytes)),
            Kind::Exact(bytes) => write!(f, "{} and the end", Excerpt(bytes)),
            Kind::Regex(regex) => write!(f, "a match of {}", Excerpt(regex.as_str().as_bytes())),
            Kind::AtLeast(bytes) => write!(f, "{bytes} bytes"),
        }
    }
}

/// How a search stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It is there, and ends here.
    Until(usize),
    /// It may still come.
    NotYet,
    /// It cannot come any more.
    Never,
}

/// A search under way. It is shown the same bytes again, with more behind them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Search {
    // How far a needle was looked for, and how much of it matches there.
    looked_at: usize,
    matched: usize,
}

impl Search {
    /// Looks into `seen`, after which nothing comes if it has `ended`.
    pub(super) fn look(&mut self, expect: &Expect, seen: &[u8], ended: bool) -> Found {
        let found = match &expect.kind {
            Kind::Contains(needle) => self.find(needle, seen),
            Kind::StartsWith(bytes) => begins(seen, bytes),
            Kind::Exact(bytes) if seen.len() > bytes.len() => Found::Never,
            Kind::Exact(bytes) => match begins(seen, bytes) {
                Found::Until(_) if !ended => Found::NotYet,
                found => found,
            },
            Kind::Regex(regex) => match regex.find(seen) {
                Some(matched) => Found::Until(matched.end()),
                None => Found::NotYet,
            },
            Kind::AtLeast(bytes) if seen.len() >= *bytes => Found::Until(*bytes),
            Kind::AtLeast(_) => Found::NotYet,
        };
        if ended && found == Found::NotYet { Found::Never } else { found }
    }

    /// Knuth, Morris and Pratt, 1977: each byte is looked at once, however it comes.
    fn find(&mut self, needle: &Needle, seen: &[u8]) -> Found {
        let bytes = &needle.bytes;
        if bytes.is_empty() {
            return Found::Until(0);
        }
        for (at, byte) in seen.iter().enumerate().skip(self.looked_at) {
            self.matched = needle.after(self.matched, *byte);
            self.looked_at = at + 1;
            if self.matched == bytes.len() {
                return Found::Until(at + 1);
            }
        }
        Found::NotYet
    }
}

/// Bytes to look for, and where to go on after a mismatch.
#[derive(Clone, Debug)]
pub(super) struct Needle {
    bytes: Arc<[u8]>,
    // For each beginning of it: how much of its end is a beginning as well.
    borders: Arc<[usize]>,
}

impl Needle {
    fn new(bytes: &[u8]) -> Self {
        let mut borders: Vec<usize> = Vec::with_capacity(bytes.len());
        for (at, byte) in bytes.iter().enumerate() {
            // The first byte has nothing before it that it could end.
            let border = if at == 0 { 0 } else { next(bytes, &borders, borders[at - 1], *byte) };
            borders.push(border);
        }
        Self { bytes: bytes.into(), borders: borders.into() }
    }

    /// How much matches after one more byte.
    fn after(&self, matched: usize, byte: u8) -> usize {
        next(&self.bytes, &self.borders, matched, byte)
    }
}

fn next(bytes: &[u8], borders: &[usize], mut matched: usize, byte: u8) -> usize {
    while matched > 0 && bytes.get(matched) != Some(&byte) {
        matched = borders[matched - 1];
    }
    if bytes.get(matched) == Some(&byte) { matched + 1 } else { 0 }
}

fn begins(seen: &[u8], bytes: &[u8]) -> Found {
    let (some, all) = (seen.len().min(bytes.len()), bytes.len());
    match seen[..some] == bytes[..some] {
        true if some == all => Found::Until(all),
        true => Found::NotYet,
        false => Found::Never,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn look(expect: impl Into<Expect>, seen: &str, ended: bool) -> Found {
        Search::default().look(&expect.into(), seen.as_bytes(), ended)
    }

    #[test]
    fn each_kind_finds_what_it_is_for() {
        use Found::{Never, NotYet, Until};
        let digits = || Regex::new("[0-9]+ ok").unwrap();
        for (expect, seen, open, ended) in [
            (Expect::contains("ok"), "is ok, ok", Until(5), Until(5)),
            (Expect::contains("ok"), "is o", NotYet, Never),
            (Expect::contains(""), "", Until(0), Until(0)),
            (Expect::starts_with("220"), "220 mail", Until(3), Until(3)),
            (Expect::starts_with("220"), "22", NotYet, Never),
            (Expect::starts_with("220"), "21", Never, Never),
            (Expect::exact("up"), "up", NotYet, Until(2)),
            (Expect::exact("up"), "u", NotYet, Never),
            (Expect::exact("up"), "upp", Never, Never),
            (Expect::regex(digits()), "a 12 ok b", Until(7), Until(7)),
            (Expect::regex(digits()), "a ok", NotYet, Never),
            (Expect::at_least(2), "abc", Until(2), Until(2)),
            (Expect::at_least(4), "abc", NotYet, Never),
        ] {
            let found = (look(expect.clone(), seen, false), look(expect.clone(), seen, true));
            assert_eq!(found, (open, ended), "{expect} in {seen}");
        }
    }

    #[test]
    fn an_expression_is_of_bytes() {
        let regex = Regex::new(r"(?-u)\x0a[\x00-\xff]{2}").unwrap();
        let found = Search::default().look(&regex.into(), b"J\x00\x0a\xff\x00", false);
        assert_eq!(found, Found::Until(5));
    }

    #[test]
    fn what_is_expected_is_shown_short() {
        assert_eq!(Expect::from("+PONG\r\n").to_string(), r#""+PONG\r\n""#);
        assert!(Expect::exact([b'a'; 4000]).to_string().len() < 200);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_needle_is_found_where_it_first_ends_in_whatever_pieces_it_comes(
            needle in "[ab]{1,6}",
            hay in "[ab]{0,40}",
            cuts in prop::collection::vec(0usize..41, 0..6),
        ) {
            let expect = Expect::contains(&needle);
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(hay.len())).collect();
            cuts.push(hay.len());
            cuts.sort_unstable();
            let mut search = Search::default();
            let end = hay.find(&needle).map(|at| at + needle.len());
            for cut in cuts {
                let found = search.look(&expect, &hay.as_bytes()[..cut], false);
                match end {
                    Some(end) if end <= cut => {
                        prop_assert_eq!(found, Found::Until(end));
                        break;
                    }
                    _ => prop_assert_eq!(found, Found::NotYet),
                }
            }
        }
    }
}
