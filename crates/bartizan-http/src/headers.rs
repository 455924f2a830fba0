//! Header fields that end at each hop, and what an HTTP/1.1 backend expects.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Uri, Version};

use crate::SendError;

/// Removes the fields that are meant for one hop (RFC 9110 §7.6.1): `Connection` and whatever it
/// names, `Keep-Alive`, `Proxy-Connection`, `TE`, `Transfer-Encoding` and `Upgrade`.
///
/// `Host` and `Content-Length` stay, also when `Connection` names them: without them the next hop
/// would see another message.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
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
