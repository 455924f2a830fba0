//! Keys of requests: for policies of hashes, and for stick tables.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use bartizan_balance::{Key, KeyOf};
use http::header::{COOKIE, HOST, HeaderName};
use http::{HeaderMap, Request};

/// The first value of a header field, as HAProxy's `hdr(…)`: of a list, what is before the first comma
/// that is not in quotes, without spaces around it. No key if that is empty.
///
/// `Host` is the authority of the target where a request has no such field, as with HTTP/2.
///
/// Who sends the request chooses the value; see to it that a layer below has set what must be relied
/// on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderKey {
    name: HeaderName,
    whole: bool,
}

impl HeaderKey {
    /// Of the field called `name`.
    pub const fn new(name: HeaderName) -> Self {
        Self { name, whole: false }
    }

    /// Takes the whole of the first line, commas and all: for fields that are no lists, such as
    /// `User-Agent` and dates.
    pub fn whole(self) -> Self {
        Self { whole: true, ..self }
    }
}

impl<B> KeyOf<Request<B>> for HeaderKey {
    fn key<'r>(&self, request: &'r Request<B>) -> Option<Key<'r>> {
        let line = match request.headers().get(&self.name) {
            Some(line) => line.as_bytes(),
            // Clients of HTTP/2 send `:authority` instead (RFC 9113, 8.3.1), which HAProxy shows as
            // `Host`.
            None if self.name == HOST => request.uri().authority()?.as_str().as_bytes(),
            None => return None,
        };
        let value = if self.whole { line } else { first_value(line) };
        some(value.trim_ascii())
    }
}

/// The value of a cookie; of several with the same name, the first: user agents send the one of the
/// longest path first. Names are case-sensitive. No key if the value is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieKey {
    name: Cow<'static, str>,
}

impl CookieKey {
    /// Of the cookie called `name`.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into() }
    }
}

impl<B> KeyOf<Request<B>> for CookieKey {
    fn key<'r>(&self, request: &'r Request<B>) -> Option<Key<'r>> {
        some(cookie(request.headers(), self.name.as_bytes())?)
    }
}

/// The path of the request, as HAProxy's `balance uri`: without the query, unless
/// [told so](Self::whole).
///
/// Scheme and host do not count, however the request came; HAProxy takes them, where a request has
/// them, unless it is told `path-only`. Nothing is decoded or normalised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UriKey {
    whole: bool,
    len: Option<NonZeroUsize>,
    depth: Option<NonZeroUsize>,
}

impl UriKey {
    /// The path.
    pub const fn new() -> Self {
        Self { whole: false, len: None, depth: None }
    }

    /// The path and the query.
    pub const fn whole(self) -> Self {
        Self { whole: true, ..self }
    }

    /// At most the first `bytes` of it, the leading slash included. 0: all.
    pub const fn len(self, bytes: usize) -> Self {
        Self { len: NonZeroUsize::new(bytes), ..self }
    }

    /// At most so many directories: what is before the slash after the last of them. 0: all.
    pub const fn depth(self, directories: usize) -> Self {
        Self { depth: NonZeroUsize::new(directories), ..self }
    }
}

impl<B> KeyOf<Request<B>> for UriKey {
    fn key<'r>(&self, request: &'r Request<B>) -> Option<Key<'r>> {
        let uri = request.uri().path_and_query()?;
        let part = if self.whole { uri.as_str() } else { uri.path() };
        let mut part = part.as_bytes();
        part = part.get(..self.len.map_or(part.len(), NonZeroUsize::get)).unwrap_or(part);
        if let Some(depth) = self.depth {
            // One slash leads each directory, so the next one ends what counts. Slashes of a query
            // count as well, as with HAProxy.
            let mut slashes = part.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            let end = slashes.nth(depth.get()).map_or(part.len(), |(at, _)| at);
            part = &part[..end];
        }
        some(part)
    }
}

/// The value of a parameter of the query, as HAProxy's `balance url_param`: of the first one called so
/// that has a `=`, up to the next `&`. Nothing is decoded, neither names nor values, and names are
/// case-sensitive. No key if the value is empty.
///
/// HAProxy's `check_post`, for parameters in bodies, does not exist here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryKey {
    name: Cow<'static, str>,
}

impl QueryKey {
    /// Of the parameter called `name`.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into() }
    }
}

impl<B> KeyOf<Request<B>> for QueryKey {
    fn key<'r>(&self, request: &'r Request<B>) -> Option<Key<'r>> {
        let mut parameters = request.uri().query()?.split('&').filter_map(|p| p.split_once('='));
        let (_, value) = parameters.find(|(name, _)| *name == self.name)?;
        some(value.as_bytes())
    }
}

fn some(bytes: &[u8]) -> Option<Key<'_>> {
    (!bytes.is_empty()).then_some(Key::Bytes(Cow::Borrowed(bytes)))
}

/// What is before the first comma outside quotes (RFC 9110, 5.6.1 and 5.6.4).
fn first_value(line: &[u8]) -> &[u8] {
    let (mut quoted, mut escaped) = (false, false);
    let ends = |byte: &u8| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            b',' => return !quoted,
            _ => {}
        }
        false
    };
    let end = line.iter().position(ends).unwrap_or(line.len());
    &line[..end]
}

/// The value of the first cookie of this name.
///
/// Split here and not by a parser of cookies, because those of servers read attributes and decode
/// values, and a key needs one borrowed value: RFC 6265bis has pairs between semicolons, without
/// quoting, so that a `"` is a byte of the value like any other. HTTP/2 may split the field into
/// several lines (RFC 9113, 8.2.3).
fn cookie<'r>(headers: &'r HeaderMap, name: &[u8]) -> Option<&'r [u8]> {
    let lines = headers.get_all(COOKIE).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).find_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (found, value) = pair.split_at(equals);
        (found.trim_ascii() == name).then(|| value[1..].trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use http::header::{COOKIE, HOST, USER_AGENT};

    use super::*;

    fn key(key: &impl KeyOf<Request<()>>, request: &Request<()>) -> Option<String> {
        let Key::Bytes(bytes) = key.key(request)? else { panic!("an address") };
        Some(String::from_utf8(bytes.into_owned()).unwrap())
    }

    fn with(name: HeaderName, lines: &[&str]) -> Request<()> {
        let lines =
            lines.iter().fold(Request::builder(), |request, line| request.header(&name, *line));
        lines.body(()).unwrap()
    }

    fn to(uri: &str) -> Request<()> {
        Request::get(uri).body(()).unwrap()
    }

    #[test]
    fn a_header_is_known_by_its_first_value() {
        let list = HeaderName::from_static("x-list");
        for (lines, expected) in [
            (&["a"][..], Some("a")),
            (&[" a , b", "c"], Some("a")),
            (&[r#""a, b", c"#], Some(r#""a, b""#)),
            (&[r#""a\", b", c"#], Some(r#""a\", b""#)),
            (&[r#"a\, b"#], Some(r"a\")),
            (&[", b"], None),
            (&["", "b"], None),
            (&[], None),
        ] {
            let found = key(&HeaderKey::new(list.clone()), &with(list.clone(), lines));
            assert_eq!(found.as_deref(), expected, "{lines:?}");
        }
        let agent = with(USER_AGENT, &["Browser (like others, but not one)"]);
        let whole = HeaderKey::new(USER_AGENT).whole();
        assert_eq!(key(&whole, &agent).as_deref(), Some("Browser (like others, but not one)"));
        assert_eq!(key(&HeaderKey::new(HOST), &agent), None);
        let http2 = to("https://web.example:8443/a");
        assert_eq!(key(&HeaderKey::new(HOST), &http2).as_deref(), Some("web.example:8443"));
        assert_eq!(key(&HeaderKey::new(USER_AGENT), &http2), None);
    }

    #[test]
    fn a_cookie_is_found_wherever_it_is() {
        for (lines, expected) in [
            (&["id=7"][..], Some("7")),
            (&["a=1; id=7; id=8"], Some("7")),
            (&["a=1", "id=7"], Some("7")),
            (&["a=1;id = 7 ;b"], Some("7")),
            (&["id=x=y=="], Some("x=y==")),
            (&[r#"a="1; id=7""#], Some(r#"7""#)),
            (&[r#"id="7""#], Some(r#""7""#)),
            (&["xid=1; ID=2; id; idx=3"], None),
            (&["id="], None),
            (&[";;=;"], None),
            (&[], None),
        ] {
            let found = key(&CookieKey::new("id"), &with(COOKIE, lines));
            assert_eq!(found.as_deref(), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_uri_is_cut_as_haproxy_cuts_it() {
        let uri = "/a/bc/d.html?x=/y/z";
        let new = UriKey::new;
        for (cut, expected) in [
            (new(), "/a/bc/d.html"),
            (new().whole(), uri),
            (new().len(4), "/a/b"),
            (new().len(400), "/a/bc/d.html"),
            (new().whole().len(15), "/a/bc/d.html?x="),
            (new().depth(1), "/a"),
            (new().depth(2), "/a/bc"),
            (new().depth(3), "/a/bc/d.html"),
            (new().depth(9), "/a/bc/d.html"),
            (new().whole().depth(3), "/a/bc/d.html?x="),
            (new().depth(2).len(3), "/a/"),
            (new().depth(1).len(5), "/a"),
            (new().depth(0).len(0), "/a/bc/d.html"),
        ] {
            assert_eq!(key(&cut, &to(uri)).as_deref(), Some(expected), "{cut:?}");
        }
        let absolute = to("http://web.example/a?b");
        assert_eq!(key(&new(), &absolute).as_deref(), Some("/a"));
        let connect = Request::connect("web.example:443").body(()).unwrap();
        assert_eq!(key(&new(), &connect), None);
    }

    #[test]
    fn a_parameter_is_taken_as_it_is() {
        for (uri, expected) in [
            ("/?id=7", Some("7")),
            ("/?a=1&id=7&id=8", Some("7")),
            ("/?id&id=7", Some("7")),
            ("/?id=a%26b+c=d;e", Some("a%26b+c=d;e")),
            ("/?xid=1&ID=2&idx=3", None),
            ("/?id=", None),
            ("/?", None),
            ("/id=7", None),
        ] {
            assert_eq!(key(&QueryKey::new("id"), &to(uri)).as_deref(), expected, "{uri}");
        }
    }
}
