//! Telling backends who the client is.

use std::net::IpAddr;
use std::task::{Context, Poll};

use bartizan_net::HasConnInfo;
use http::header::{Entry, FORWARDED, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Request};
use tower_layer::Layer;
use tower_service::Service;

use crate::strip_hop_by_hop;

/// Adds `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` (RFC 7239) to requests.
///
/// | field | what a client sent | becomes |
/// | --- | --- | --- |
/// | `X-Forwarded-For` | kept | the client's address is appended, as the last one |
/// | `Forwarded` | kept | `for=…;host=…;proto=…` is appended, as the last element |
/// | `X-Forwarded-Proto` | replaced | `https` or `http` |
/// | `X-Forwarded-Host` | replaced | the host that the client asked for |
///
/// So a backend must take the *last* address: the ones before it are what the client claims.
/// The client is the one of the [`ConnInfo`](bartizan_net::ConnInfo) in the request's extensions,
/// where `ServeHttp` puts it; a request without passes as it is, with the client's own claims about
/// these fields removed.
///
/// Fields for one hop go first, so that no client can have these fields removed on the way by
/// naming them in `Connection`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ForwardedLayer;

impl ForwardedLayer {
    /// The layer.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for ForwardedLayer {
    type Service = Forwarded<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Forwarded { inner }
    }
}

/// Adds forwarding fields to requests. See [`ForwardedLayer`].
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for Forwarded<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        strip_hop_by_hop(request.headers_mut());
        forward(&mut request);
        self.inner.call(request)
    }
}

fn forward<B>(request: &mut Request<B>) {
    let host = match request.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => request.headers().get(HOST).cloned(),
    };
    let known = request.conn_info().map(|info| {
        let proto = if info.tls().is_some() { "https" } else { "http" };
        (info.peer().ip(), info.peer_ip_text().clone(), proto)
    });
    let headers = request.headers_mut();
    let Some((ip, ip_text, proto)) = known else {
        for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST, FORWARDED] {
            headers.remove(name);
        }
        return;
    };
    let element = element(ip, &ip_text, host.as_ref(), proto);
    append(headers, X_FORWARDED_FOR, ip_text);
    if let Some(element) = element {
        append(headers, FORWARDED, element);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(proto));
    match host {
        Some(host) => headers.insert(X_FORWARDED_HOST, host),
        None => headers.remove(X_FORWARDED_HOST),
    };
}

/// Puts `value` behind what is there, in one field: some backends read the first field only.
fn append(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let mut field = match headers.entry(name) {
        Entry::Vacant(field) => {
            field.insert(value);
            return;
        }
        Entry::Occupied(field) => field,
    };
    let all: Vec<_> = field.iter().chain([&value]).map(HeaderValue::as_bytes).collect();
    // A concatenation of valid values is valid; were it not, the client's part goes, not ours.
    let list = HeaderValue::from_bytes(&all.join(&b", "[..])).unwrap_or(value);
    field.insert(list);
}

/// One element of RFC 7239 §4. A host that could not be quoted as it is is left out.
fn element(
    ip: IpAddr,
    ip_text: &HeaderValue,
    host: Option<&HeaderValue>,
    proto: &str,
) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(96);
    text.extend_from_slice(b"for=");
    let (open, close): (&[u8], &[u8]) = if ip.is_ipv6() { (b"\"[", b"]\"") } else { (b"", b"") };
    text.extend_from_slice(open);
    text.extend_from_slice(ip_text.as_bytes());
    text.extend_from_slice(close);
    let host =
        host.map(HeaderValue::as_bytes).filter(|host| !host.iter().any(|b| b"\"\\".contains(b)));
    if let Some(host) = host {
        text.extend_from_slice(b";host=\"");
        text.extend_from_slice(host);
        text.push(b'"');
    }
    text.extend_from_slice(b";proto=");
    text.extend_from_slice(proto.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bartizan_net::{ConnInfo, TlsInfo};

    use super::*;

    fn forwarded(
        peer: Option<(&str, bool)>,
        fields: &[(&'static str, &str)],
    ) -> Vec<(String, String)> {
        let mut request = Request::new(());
        if let Some((peer, tls)) = peer {
            let mut info = ConnInfo::new(peer.parse().unwrap(), "127.0.0.1:443".parse().unwrap());
            if tls {
                info.set_tls(TlsInfo::default());
            }
            request.extensions_mut().insert(Arc::new(info));
        }
        for (name, value) in fields {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        strip_hop_by_hop(request.headers_mut());
        forward(&mut request);
        let text = |v: &HeaderValue| v.to_str().unwrap().to_owned();
        let mut fields: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        fields.sort();
        fields
    }

    fn fields(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn says_who_the_client_is_and_replaces_what_it_claims_of_itself() {
        let got = forwarded(
            Some(("192.0.2.7:5000", true)),
            &[
                ("host", "example.com:8443"),
                ("x-forwarded-for", "10.0.0.1"),
                ("x-forwarded-for", "10.0.0.2"),
                ("x-forwarded-proto", "gopher"),
                ("x-forwarded-host", "evil"),
                ("forwarded", "for=10.0.0.1"),
            ],
        );
        assert_eq!(
            got,
            fields(&[
                ("forwarded", "for=10.0.0.1, for=192.0.2.7;host=\"example.com:8443\";proto=https"),
                ("host", "example.com:8443"),
                ("x-forwarded-for", "10.0.0.1, 10.0.0.2, 192.0.2.7"),
                ("x-forwarded-host", "example.com:8443"),
                ("x-forwarded-proto", "https"),
            ])
        );
    }

    #[test]
    fn quotes_ipv6_and_leaves_out_what_cannot_be_quoted() {
        let got = forwarded(Some(("[2001:db8::1]:5000", false)), &[("host", "a\"b")]);
        assert_eq!(got[0].1, "for=\"[2001:db8::1]\";proto=http");
        assert_eq!(got[2], ("x-forwarded-for".into(), "2001:db8::1".into()));
    }

    #[test]
    fn a_client_cannot_have_the_fields_removed_by_connection() {
        let got = forwarded(Some(("192.0.2.7:5000", false)), &[("connection", "x-forwarded-for")]);
        assert!(got.contains(&("x-forwarded-for".into(), "192.0.2.7".into())), "{got:?}");
    }

    #[test]
    fn without_a_connection_nothing_claimed_is_believed() {
        assert_eq!(forwarded(None, &[("x-forwarded-for", "10.0.0.1"), ("forwarded", "for=x")]), []);
    }
}
