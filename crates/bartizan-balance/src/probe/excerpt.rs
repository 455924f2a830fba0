//! Bytes of others, as they may be shown to people.

use std::fmt;

/// The beginning of some bytes, printable: what is not is escaped as in a string of Rust. No bytes
/// are shown as the word "nothing".
#[derive(Clone, Copy, Debug)]
pub(super) struct Excerpt<'a>(pub(super) &'a [u8]);

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        let shown = self.0.get(..MOST).unwrap_or(self.0);
        write!(f, "\"{}\"", shown.escape_ascii())?;
        match self.0.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more bytes"),
        }
    }
}

/// A line of a log or of a status page; escaped, it is at most four times as long.
const MOST: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_printable_and_short() {
        assert_eq!(Excerpt(b"").to_string(), "nothing");
        assert_eq!(Excerpt(b"-ERR \"no\"\r\n\xff\x1b").to_string(), r#""-ERR \"no\"\r\n\xff\x1b""#);
        let long = Excerpt(&[b'a'; 100]).to_string();
        assert_eq!(long, format!("\"{}\" and 20 more bytes", "a".repeat(80)));
        assert_eq!(Excerpt(&[b'a'; 80]).to_string(), format!("\"{}\"", "a".repeat(80)));
    }
}
