//! Cookies of responses, byte for byte.

use std::ops::Range;

use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue, SET_COOKIE};

use super::request;

/// Whether a cookie of this name is set.
pub(super) fn is_set(headers: &HeaderMap, name: &str) -> bool {
    headers.get_all(SET_COOKIE).iter().any(|field| value(field, name).is_some())
}

/// Removes all that sets a cookie of this name.
pub(super) fn remove(headers: &mut HeaderMap, name: &str) {
    edit(headers, name, |_, _| None);
}

/// Gives all cookies of this name that are set this value. Their attributes stay.
pub(super) fn replace(headers: &mut HeaderMap, name: &str, new: &[u8]) {
    edit(headers, name, |field, value| spliced(field, value, new));
}

/// Puts this in front of the values of all cookies of this name that are set.
pub(super) fn prefix(headers: &mut HeaderMap, name: &str, prefix: &[u8]) {
    edit(headers, name, |field, value| spliced(field, value.start..value.start, prefix));
}

/// Sets a further cookie.
pub(super) fn set(headers: &mut HeaderMap, cookie: Vec<u8>) -> bool {
    match HeaderValue::from_maybe_shared(bytes::Bytes::from(cookie)) {
        // It may not if there are tens of thousands of fields already.
        Ok(cookie) => headers.try_append(SET_COOKIE, cookie).is_ok(),
        Err(_) => false,
    }
}

/// Has shared caches not keep the response, unless they must not anyway.
pub(super) fn make_private(headers: &mut HeaderMap) {
    let mut directives = (headers.get_all(CACHE_CONTROL).iter())
        .flat_map(|field| field.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    let enough: [&[u8]; 3] = [b"private", b"no-store", b"no-cache"];
    if directives.any(|directive| enough.iter().any(|one| directive.eq_ignore_ascii_case(one))) {
        return;
    }
    // Of directives that contradict each other, the most restrictive one holds (RFC 9111 §4.2.1).
    let _ = headers.try_append(CACHE_CONTROL, HeaderValue::from_static("private"));
}

fn edit(
    headers: &mut HeaderMap,
    name: &str,
    change: impl Fn(&HeaderValue, Range<usize>) -> Option<HeaderValue>,
) {
    if !is_set(headers, name) {
        return;
    }
    let fields: Vec<_> = (headers.get_all(SET_COOKIE).iter())
        .filter_map(|field| match value(field, name) {
            Some(value) => change(field, value),
            None => Some(field.clone()),
        })
        .collect();
    headers.remove(SET_COOKIE);
    for field in fields {
        headers.append(SET_COOKIE, field);
    }
}

/// Where the value is (RFC 6265 §5.2), if a cookie of this name is set.
fn value(field: &HeaderValue, name: &str) -> Option<Range<usize>> {
    let pair = field.as_bytes().split(|byte| *byte == b';').next()?;
    request::value(pair, name)
}

fn spliced(field: &HeaderValue, range: Range<usize>, new: &[u8]) -> Option<HeaderValue> {
    let old = field.as_bytes();
    let bytes = [&old[..range.start], new, &old[range.end..]].concat();
    let mut value = HeaderValue::from_maybe_shared(bytes::Bytes::from(bytes)).ok()?;
    value.set_sensitive(field.is_sensitive());
    Some(value)
}
