//! Host names as DNS compares them.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// A host name in the form that indexes use: lower case, A-labels, no dot at the end.
///
/// What comes off the wire is ASCII already (RFC 6066 §3), so this neither allocates nor looks at
/// Unicode unless there is a capital letter in it.
pub fn fold_host(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// A name that a certificate, a route or a rule is for: exact, or with `*` as its whole first label,
/// which stands for exactly one.
///
/// It is kept as the text that a look-up asks for: a wildcard is what follows its `*`, with the dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern(Box<str>);

impl HostPattern {
    /// Reads a name as people write it: in any case, perhaps internationalised (UTS 46), perhaps
    /// with a dot at the end.
    ///
    /// # Errors
    ///
    /// [`BadHostPattern`] says what makes it no name.
    pub fn parse(text: &str) -> Result<Self, BadHostPattern> {
        let bad = |what| BadHostPattern { name: text.to_owned(), what };
        let trimmed = text.strip_suffix('.').unwrap_or(text);
        let (wildcard, rest) = match trimmed.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, trimmed),
        };
        if rest.is_empty() {
            return Err(bad("it is empty"));
        }
        if rest.contains('*') {
            return Err(bad("only a whole first label can be `*`"));
        }
        let ascii = if rest.is_ascii() {
            fold_host(rest)
        } else {
            Cow::Owned(idna::domain_to_ascii(rest).map_err(|_| bad("it is no domain name"))?)
        };
        if !is_host_name(&ascii) {
            return Err(bad("it is no domain name"));
        }
        let prefix = if wildcard { "." } else { "" };
        Ok(Self(format!("{prefix}{ascii}").into_boxed_str()))
    }

    /// Whether its first label is `*`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('.')
    }

    /// The wildcard that stands for this exact name, if it has a label to stand for.
    pub fn wider(&self) -> Option<Self> {
        wildcard_key(&self.0).map(|parent| Self(parent.into()))
    }

    /// What a look-up asks for: the name, or what follows the `*` of a wildcard.
    pub fn key(&self) -> &str {
        &self.0
    }

    /// Whether it stands for `name`, which is folded ([`fold_host`]).
    pub fn covers(&self, name: &str) -> bool {
        if self.is_wildcard() { wildcard_key(name) == Some(&self.0) } else { *self.0 == *name }
    }
}

impl FromStr for HostPattern {
    type Err = BadHostPattern;

    fn from_str(text: &str) -> Result<Self, BadHostPattern> {
        Self::parse(text)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_wildcard() { "*" } else { "" };
        write!(f, "{star}{}", self.0)
    }
}

/// The [key](HostPattern::key) of the wildcard that stands for `name`, which is folded: all from its
/// first dot on. `None` if it has no first label.
pub fn wildcard_key(name: &str) -> Option<&str> {
    // A name that begins with a dot has no first label for a `*` to stand for.
    name.find('.').filter(|dot| *dot > 0).map(|dot| &name[dot..])
}

/// A name that was configured is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a host name or a wildcard such as `*.example.com`: {what}")]
pub struct BadHostPattern {
    name: String,
    what: &'static str,
}

/// RFC 1123 §2.1, with the underscore that many use all the same.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    #[test]
    fn names_compare_as_dns_compares_them() {
        assert_eq!(fold_host("WWW.Example.COM."), "www.example.com");
        assert!(matches!(fold_host("www.example.com"), Cow::Borrowed("www.example.com")));
        assert_eq!(pattern("WWW.Example.com.").key(), "www.example.com");
        assert_eq!(pattern("Bücher.example").key(), "xn--bcher-kva.example");
        assert_eq!(pattern("*.BÜCHER.example").to_string(), "*.xn--bcher-kva.example");
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let wildcard = pattern("*.example.com");
        assert!(wildcard.covers("www.example.com"));
        for other in ["example.com", "a.www.example.com", ".example.com", "wwwexample.com"] {
            assert!(!wildcard.covers(other), "{other}");
        }
        assert!(pattern("example.com").covers("example.com"));
        assert!(!pattern("example.com").covers("www.example.com"));
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        for (text, what) in [
            ("", "it is empty"),
            ("*..", "it is empty"),
            ("*", "only a whole first label"),
            ("w*.example.com", "only a whole first label"),
            ("*.*.example.com", "only a whole first label"),
            ("a..example", "no domain name"),
            ("a b.example", "no domain name"),
            ("example.com:443", "no domain name"),
            (&format!("{}.example", "a".repeat(64)), "no domain name"),
        ] {
            let error = HostPattern::parse(text).unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
