//! Cookies of requests, byte for byte.
//!
//! The `cookie` crate is not used: it hands out decoded pairs and prints them anew, and what is not
//! ours has to go on as it came.

use std::ops::Range;

use http::header::{COOKIE, HeaderMap, HeaderValue};

use super::token;

/// The values of all cookies of this name, in order (RFC 6265 §4.2.1; in HTTP/2 there may be several
/// fields, RFC 9113 §8.2.3).
pub(super) fn values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    (headers.get_all(COOKIE).iter())
        .flat_map(|field| field.as_bytes().split(|byte| *byte == b';'))
        .filter_map(move |piece| Some(&piece[value(piece, name)?]))
}

/// Removes all cookies of this name.
pub(super) fn remove(headers: &mut HeaderMap, name: &str) {
    edit(headers, |piece| match value(piece, name) {
        Some(_) => Change::Drop,
        None => Change::Keep,
    });
}

/// Removes the tokens in front of the values of all cookies of this name. A value with what cannot
/// be a token before the first delimiter is the application's own.
pub(super) fn remove_prefixes(headers: &mut HeaderMap, name: &str) {
    edit(headers, |piece| {
        let Some(value) = value(piece, name) else { return Change::Keep };
        match token::read_prefix(&piece[value.clone()]) {
            Some((_, length)) => Change::Cut(value.start..value.start + length),
            None => Change::Keep,
        }
    });
}

/// What becomes of what stands between two semicolons.
enum Change {
    Keep,
    Drop,
    Cut(Range<usize>),
}

fn edit(headers: &mut HeaderMap, change: impl Fn(&[u8]) -> Change) {
    let fields: Vec<_> =
        headers.get_all(COOKIE).iter().filter_map(|field| edited(field, &change)).collect();
    headers.remove(COOKIE);
    for field in fields {
        headers.append(COOKIE, field);
    }
}

/// The field, changed; `None` if nothing is left of it.
fn edited(field: &HeaderValue, change: &impl Fn(&[u8]) -> Change) -> Option<HeaderValue> {
    let (mut out, mut changed, mut empty) = (Vec::new(), false, true);
    for piece in field.as_bytes().split(|byte| *byte == b';') {
        let (mut piece, cut) = match change(piece) {
            Change::Keep => (piece, 0..0),
            Change::Drop => {
                changed = true;
                continue;
            }
            Change::Cut(range) => (piece, range),
        };
        if !empty {
            out.push(b';');
        } else if changed && cut.is_empty() {
            // What becomes the first needs no space before it.
            piece = piece.trim_ascii_start();
        }
        changed |= !cut.is_empty();
        empty = false;
        out.extend_from_slice(&piece[..cut.start]);
        out.extend_from_slice(&piece[cut.end..]);
    }
    if !changed {
        return Some(field.clone());
    }
    if out.iter().all(|byte| byte.is_ascii_whitespace() || *byte == b';') {
        return None;
    }
    let mut new = HeaderValue::from_maybe_shared(bytes::Bytes::from(out)).ok()?;
    new.set_sensitive(field.is_sensitive());
    Some(new)
}

/// Where in `name=value` the value is, without the spaces around it, if that is the name.
pub(super) fn value(piece: &[u8], name: &str) -> Option<Range<usize>> {
    let equals = piece.iter().position(|byte| *byte == b'=')?;
    if piece[..equals].trim_ascii() != name.as_bytes() {
        return None;
    }
    let value = piece[equals + 1..].trim_ascii_end();
    let start = equals + 1 + (value.len() - value.trim_ascii_start().len());
    Some(start..equals + 1 + value.len())
}
