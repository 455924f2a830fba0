//! Header fields that end at each hop, and what an HTTP/1.1 backend expects.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{self, Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use crate::SendError;

/// Removes the fields that are meant for one hop (RFC 9110 §7.6.1): `Connection` and whatever it
/// names, `Keep-Alive`, `Proxy-Connection`, `TE`, `Transfer-Encoding` and `Upgrade`.
///
/// `Host` and `Content-Length` stay, also when `Connection` names them: without them the next hop
/// would see another message. Of `TE`, the word `trailers` stays: trailers are passed on, so the next
/// hop may be told that they are welcome, and gRPC servers insist on it.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    let trailers = takes_trailers(headers);
    // Removing from a map while reading it does not go; there is a `Connection` in few requests.
    let named: Vec<HeaderName> = (headers.get_all(CONNECTION).iter())
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Makes of a request what an HTTP/1.1 origin server expects: origin-form, `Host`, one `Cookie`.
///
/// # Errors
///
/// [`SendError::Connect`] for CONNECT.
pub(crate) fn to_origin<B>(
    request: &mut Request<B>,
    default_host: impl ToString,
) -> Result<(), SendError> {
    if request.method() == Method::CONNECT {
        return Err(SendError::Connect);
    }
    strip_hop_by_hop(request.headers_mut());
    // It would need a `Connection: TE` beside it (RFC 9110 §10.1.4), and few servers of HTTP/1.1 have
    // trailers to send.
    request.headers_mut().remove(TE);
    if request.version() != Version::HTTP_11 {
        join_cookies(request.headers_mut());
        *request.version_mut() = Version::HTTP_11;
    }
    if let Some(authority) = request.uri().authority() {
        // RFC 9112 §3.2.2: the target's authority wins over `Host`. User information is not a host.
        let text = authority.as_str();
        let host = text.rsplit_once('@').map_or(text, |(_, host)| host);
        if let Ok(host) = HeaderValue::from_str(host) {
            request.headers_mut().insert(HOST, host);
        }
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    if !request.headers().contains_key(HOST)
        && let Ok(host) = HeaderValue::try_from(default_host.to_string())
    {
        request.headers_mut().insert(HOST, host);
    }
    Ok(())
}

/// Makes of a request what an HTTP/2 origin server expects (RFC 9113 §8.3.1): an absolute target in
/// place of `Host`. `TE: trailers` stays, the one thing that `TE` may say there.
///
/// # Errors
///
/// [`SendError::Connect`] for CONNECT, [`SendError::BadHost`] if `Host` cannot be an authority.
pub(crate) fn to_h2<B>(
    request: &mut Request<B>,
    default_host: impl ToString,
    secure: bool,
) -> Result<(), SendError> {
    if request.method() == Method::CONNECT {
        return Err(SendError::Connect);
    }
    let authority = match authority(request)? {
        Some(authority) => authority,
        // The path of a Unix socket is none.
        None => Authority::try_from(default_host.to_string())
            .unwrap_or_else(|_| Authority::from_static("localhost")),
    };
    let mut parts = uri::Parts::default();
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority);
    let path = request.uri().path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| SendError::BadHost)?;
    *request.version_mut() = Version::HTTP_2;
    strip_hop_by_hop(request.headers_mut());
    request.headers_mut().remove(HOST);
    Ok(())
}

/// The one authority that a request names, without user information; `None` if it names none.
///
/// The target's wins over `Host` (RFC 9112 §3.2.2).
pub(crate) fn authority<B>(request: &Request<B>) -> Result<Option<Authority>, SendError> {
    let mut fields = request.headers().get_all(HOST).iter();
    let field = fields.next().map(HeaderValue::as_bytes).filter(|field| !field.is_empty());
    if fields.next().is_some() {
        return Err(SendError::BadHost);
    }
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let Some(named) = target.or(field) else { return Ok(None) };
    let host = named.rsplit(|b| *b == b'@').next().unwrap_or(named);
    Authority::try_from(host).map(Some).map_err(|_| SendError::BadHost)
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// RFC 9113 §8.2.3: HTTP/2 may split a cookie into several fields, HTTP/1.1 must not.
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(one) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, one);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    // By length first: most names differ in that alone, and no field of these is in most requests.
    matches!(name.as_str().len(), 2 | 7 | 10 | 16 | 17) && HOP_BY_HOP.contains(name)
}

const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn what_http2_expects_is_an_absolute_target_and_no_field_for_one_hop() {
        let plain = |uri: &str, host: Option<&str>| {
            let mut request = Request::builder().uri(uri);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let mut request = request.header("connection", "close").body(()).unwrap();
            let made = to_h2(&mut request, "10.0.0.1:80", false);
            made.map(|()| (request.uri().to_string(), request.headers().clone()))
        };
        for (uri, host, expected) in [
            ("/a?b", Some("example.com:8080"), "http://example.com:8080/a?b"),
            ("/", None, "http://10.0.0.1:80/"),
            ("/", Some(""), "http://10.0.0.1:80/"),
            ("https://x@example.com/a", Some("other"), "http://example.com/a"),
            ("http://example.com", None, "http://example.com/"),
        ] {
            let (uri, headers) = plain(uri, host).unwrap();
            assert_eq!((uri.as_str(), headers.len()), (expected, 0));
        }
        assert!(matches!(plain("/", Some("a b")), Err(SendError::BadHost)));
        let mut two = Request::get("/").header("host", "a").header("host", "b").body(()).unwrap();
        assert!(matches!(to_h2(&mut two, "c", false), Err(SendError::BadHost)));
    }

    #[test]
    fn te_says_trailers_or_nothing_over_http2() {
        for (te, kept) in [("trailers", true), ("gzip, Trailers", true), ("gzip;q=1", false)] {
            let mut request = Request::get("/").header("te", te).body(()).unwrap();
            to_h2(&mut request, "/run/socket", true).unwrap();
            assert_eq!(request.headers().get(TE).is_some_and(|te| te == "trailers"), kept, "{te}");
            assert_eq!(*request.uri(), "https://localhost/");
        }
    }

    #[test]
    fn removes_what_is_for_one_hop_and_what_connection_names() {
        for name in
            ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"]
        {
            let mut headers = map(&[(name, "x"), ("accept", "*/*")]);
            strip_hop_by_hop(&mut headers);
            assert_eq!(headers, map(&[("accept", "*/*")]), "{name}");
        }
        let mut headers = map(&[
            ("connection", "close, X-Secret"),
            ("connection", "x-other,, host, content-length"),
            ("x-secret", "1"),
            ("x-other", "2"),
            ("host", "a"),
            ("content-length", "5"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "a"), ("content-length", "5")]));
    }

    #[test]
    fn an_http2_request_becomes_an_http11_one() {
        let mut request = Request::builder()
            .version(Version::HTTP_2)
            .uri("https://user@example.com:8443/a?b=c")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(())
            .unwrap();
        to_origin(&mut request, "backend").unwrap();
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.version(), Version::HTTP_11);
        assert_eq!(
            request.headers(),
            &map(&[("host", "example.com:8443"), ("cookie", "a=1; b=2")])
        );
    }

    #[test]
    fn an_absolute_target_wins_over_host_and_a_missing_host_is_filled_in() {
        let mut request =
            Request::builder().uri("http://right").header("host", "wrong").body(()).unwrap();
        to_origin(&mut request, "backend").unwrap();
        assert_eq!(
            (request.uri().path(), &request.headers()["host"]),
            ("/", &HeaderValue::from_static("right"))
        );
        let mut request = Request::builder().version(Version::HTTP_10).uri("/").body(()).unwrap();
        to_origin(&mut request, "10.0.0.1:80").unwrap();
        assert_eq!(request.headers()["host"], "10.0.0.1:80");
    }

    #[test]
    fn the_asterisk_form_stays_and_connect_is_refused() {
        let mut request = Request::builder().method("OPTIONS").uri("*").body(()).unwrap();
        to_origin(&mut request, "backend").unwrap();
        assert_eq!(request.uri().path(), "*");
        let mut request = Request::builder().method("CONNECT").uri("a:443").body(()).unwrap();
        assert!(matches!(to_origin(&mut request, "backend"), Err(SendError::Connect)));
    }
}
