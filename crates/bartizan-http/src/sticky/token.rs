//! What stands in a cookie.
//!
//! ```text
//! TOKEN                        a backend, not dated
//! TOKEN.LAST.FIRST.SEAL        a backend, dated; LAST or FIRST may be empty
//! ```
//!
//! Tokens and seals are HMAC-SHA-256 (RFC 2104), cut to 128 bits, in base64url without padding. A
//! backend has one token for cookies without dates and another one for cookies with, so that nobody
//! can make a cookie undated, and thereby everlasting, by cutting its dates off.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::dates::Dates;
use super::keys::StickyKey;

/// What stands for a backend.
pub(super) type Token = [u8; 16];

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Dated,
}

/// What a cookie says, none of it verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) token: Token,
    pub(super) dated: Option<(Dates, Token)>,
}

/// The token of the backend called `backend` in the cluster called `cluster`: the same as long as
/// the key is, at each instance.
pub(super) fn token(key: &StickyKey, form: Form, cluster: &str, backend: &str) -> Token {
    let label = match form {
        Form::Plain => PLAIN,
        Form::Dated => DATED,
    };
    // With the length, so that no two pairs of names are the same bytes.
    let length = (cluster.len() as u64).to_be_bytes();
    cut(mac(key, &[label, &length, cluster.as_bytes(), backend.as_bytes()]))
}

/// The value of a cookie.
pub(super) fn write(out: &mut Vec<u8>, key: &StickyKey, token: &Token, dates: Dates) {
    out.extend_from_slice(&text(token));
    if dates.is_none() {
        return;
    }
    for date in [dates.last, dates.first] {
        out.push(b'.');
        if date > 0 {
            out.extend_from_slice(date.to_string().as_bytes());
        }
    }
    out.push(b'.');
    out.extend_from_slice(&text(&cut(seal(key, token, dates))));
}

/// Whether `dates` were sealed with `key`, together with `token`. Takes the same time whatever the
/// seal is.
pub(super) fn is_sealed(key: &StickyKey, token: &Token, dates: Dates, by: &Token) -> bool {
    seal(key, token, dates).verify_truncated_left(by).is_ok()
}

/// Reads a cookie's value; `None` if it is none of ours.
pub(super) fn read(value: &[u8]) -> Option<Said> {
    let (start, rest) = value.split_at_checked(TOKEN_TEXT)?;
    let token = from_text(start)?;
    let Some(rest) = rest.strip_prefix(b".") else {
        return rest.is_empty().then_some(Said { token, dated: None });
    };
    let mut parts = rest.splitn(3, |byte| *byte == b'.');
    let (last, first, by) = (parts.next()?, parts.next()?, parts.next()?);
    let dates = Dates { last: date(last)?, first: date(first)? };
    Some(Said { token, dated: Some((dates, from_text(by)?)) })
}

/// The token in front of the value of an application's cookie, and how long it is in the text with
/// its delimiter.
pub(super) fn read_prefix(value: &[u8]) -> Option<(Token, usize)> {
    let (start, rest) = value.split_at_checked(TOKEN_TEXT)?;
    let token = from_text(start).filter(|_| rest.first() == Some(&DELIMITER))?;
    Some((token, TOKEN_TEXT + 1))
}

/// A token as it stands in a cookie.
pub(super) fn text(token: &Token) -> [u8; TOKEN_TEXT] {
    let mut text = [0; TOKEN_TEXT];
    // It fits, by the definition of the length.
    let _ = URL_SAFE_NO_PAD.encode_slice(token, &mut text);
    text
}

fn from_text(text: &[u8]) -> Option<Token> {
    // The decoder wants room for what a text of this length could be at most.
    let mut bytes = [0; 18];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    bytes[..length].try_into().ok()
}

fn date(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.len() <= MAX_DIGITS && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

fn seal(key: &StickyKey, token: &Token, dates: Dates) -> Hmac<Sha256> {
    mac(key, &[SEAL, token, &dates.last.to_be_bytes(), &dates.first.to_be_bytes()])
}

fn mac(key: &StickyKey, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mac = <Hmac<Sha256> as hmac::digest::KeyInit>::new(key.block().into());
    parts.iter().fold(mac, |mac, part| mac.chain_update(part))
}

fn cut(mac: Hmac<Sha256>) -> Token {
    let mut token = Token::default();
    token.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    token
}

/// HAProxy's, between what the proxy and what the application says.
pub(super) const DELIMITER: u8 = b'~';

/// 16 bytes in base64 without padding.
const TOKEN_TEXT: usize = 22;

/// Enough for the year 300 million, and too few for an overflow.
const MAX_DIGITS: usize = 16;

// Different for each use of a key, so that what is made for one never passes for another.
const PLAIN: &[u8] = b"bartizan sticky 1 plain\0";
const DATED: &[u8] = b"bartizan sticky 1 dated\0";
const SEAL: &[u8] = b"bartizan sticky 1 seal\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_hmacs_that_another_implementation_computes_as_well() {
        let of = |key: &[u8], form| {
            let key = StickyKey::new(key).unwrap();
            String::from_utf8(text(&token(&key, form, "web", "web1")).to_vec()).unwrap()
        };
        let key = b"0123456789abcdef0123456789abcdef";
        assert_eq!(of(key, Form::Plain), "ftJXncgn057fC2qRZ2JkxA");
        assert_eq!(of(key, Form::Dated), "5GwYVsauoKPuUHs0PWxJRA");
        // Longer than a block.
        assert_eq!(of(&[7; 100], Form::Plain), "wZzD7VhVMugSJ2PMl8-_9A");
    }

    #[test]
    fn names_that_run_together_are_told_apart() {
        let key = StickyKey::new(&[7; 32]).unwrap();
        let token = |cluster, backend| token(&key, Form::Plain, cluster, backend);
        assert_ne!(token("web", "1a"), token("web1", "a"));
    }

    #[test]
    fn what_is_written_is_read() {
        let key = StickyKey::new(&[7; 32]).unwrap();
        let token = token(&key, Form::Dated, "web", "web1");
        for dates in [(0, 0), (5, 0), (0, 7), (5, 7), (9_999_999_999_999_999, 1)] {
            let dates = Dates { last: dates.0, first: dates.1 };
            let mut value = Vec::new();
            write(&mut value, &key, &token, dates);
            let said = read(&value).unwrap();
            assert_eq!(said.token, token);
            match said.dated {
                Some((said, seal)) => {
                    assert_eq!(said, dates);
                    assert!(is_sealed(&key, &token, dates, &seal));
                    let other = Dates { first: dates.first + 1, ..dates };
                    assert!(!is_sealed(&key, &token, other, &seal));
                }
                None => assert!(dates.is_none()),
            }
        }
    }
}
