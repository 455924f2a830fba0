//! Telling backends which certificate the client has shown.

use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_net::{ClientIdentity, HasConnInfo};
use http::header::HeaderName;
use http::{HeaderMap, Request};
use tower_layer::Layer;
use tower_service::Service;

use crate::strip_hop_by_hop;

/// Passes the client's verified certificate on to backends, in the fields of RFC 9440.
///
/// | field | what a client sent | becomes |
/// | --- | --- | --- |
/// | `Client-Cert` | removed | the certificate, `:base64 of DER:` |
/// | `Client-Cert-Chain` | removed | the rest of what the client sent with it; only with [`chain`](Self::chain) |
/// | the one of [`common_name`](Self::common_name) | removed | the certificate's common name, as UTF-8 |
///
/// A field that there is nothing for is absent, so a backend may believe that a request with it
/// comes from a client that has proven to hold the certificate's key, as far as the policy that it
/// was verified by goes. It may believe so only of requests that come from this proxy: it must not
/// be reachable past it. The chain is what the client sent, not the path that it was verified by.
/// A common name is as good as the authorities that may issue it: two of them can give the same name
/// to different clients. One that could be read as another name (empty, with control characters, or
/// with white space around it) is not passed on.
///
/// What a client sent is removed from every request: without TLS or without a certificate, too, and
/// under names that differ only in what is neither a letter nor a digit. `Client_Cert` is the same
/// variable, `HTTP_CLIENT_CERT`, to CGI and its descendants. Fields for one hop go first, so that no
/// client can have these fields removed on the way by naming them in `Connection`.
///
/// Trailer fields are not looked at. A backend must not take them for header fields
/// (RFC 9110 §6.5.1).
///
/// Put it behind everything that adds fields by these names, and in front of what reads them.
#[derive(Clone, Debug)]
pub struct ClientCertLayer {
    cert: bool,
    chain: bool,
    common_name: Option<HeaderName>,
}

impl ClientCertLayer {
    /// Passes the certificate on in `Client-Cert`, and nothing else.
    pub fn new() -> Self {
        Self { cert: true, chain: false, common_name: None }
    }

    /// Passes the common name on in `field`, and no certificate. Removes what clients send in the
    /// fields of RFC 9440 all the same.
    pub fn only_common_name(field: HeaderName) -> Self {
        Self { cert: false, chain: false, common_name: Some(field) }
    }

    /// Passes nothing on: removes what clients send in the fields of RFC 9440, so that no backend
    /// takes it for the word of this proxy.
    pub fn strip_only() -> Self {
        Self { cert: false, chain: false, common_name: None }
    }

    /// Whether to pass on the rest of the chain in `Client-Cert-Chain`, behind a certificate. Default: no, because a
    /// chain may be larger than all that a backend takes of header fields, and the backend mostly
    /// has the authorities itself.
    pub fn chain(self, chain: bool) -> Self {
        Self { chain, ..self }
    }

    /// Passes the common name on in `field`, e.g. `x-client-cn`, as well.
    ///
    /// The field is this layer's alone then: one that requests need for something else, such as
    /// `Host`, is removed from them like any other.
    pub fn common_name(self, field: HeaderName) -> Self {
        Self { common_name: Some(field), ..self }
    }

    fn set(&self, headers: &mut HeaderMap, identity: &ClientIdentity) {
        if self.cert {
            headers.insert(CLIENT_CERT, identity.client_cert_field().clone());
        }
        // RFC 9440 §2.3: not without the certificate.
        if self.cert
            && self.chain
            && let Some(chain) = identity.client_cert_chain_field()
        {
            headers.insert(CLIENT_CERT_CHAIN, chain.clone());
        }
        if let Some(field) = &self.common_name
            && let Some(name) = identity.common_name_field()
        {
            headers.insert(field, name.clone());
        }
    }

    fn strip(&self, headers: &mut HeaderMap) {
        let is_ours = |name: &HeaderName| {
            is_alias(name, &CLIENT_CERT)
                || is_alias(name, &CLIENT_CERT_CHAIN)
                || self.common_name.as_ref().is_some_and(|ours| is_alias(name, ours))
        };
        if !headers.keys().any(is_ours) {
            return;
        }
        // Removing from a map while reading it does not go.
        let claimed: Vec<HeaderName> =
            headers.keys().filter(|name| is_ours(name)).cloned().collect();
        for name in claimed {
            headers.remove(name);
        }
    }

    fn apply<B>(&self, request: &mut Request<B>) {
        strip_hop_by_hop(request.headers_mut());
        self.strip(request.headers_mut());
        let identity = request
            .conn_info()
            .and_then(|info| info.tls())
            .and_then(|tls| tls.client.as_ref())
            .map(Arc::clone);
        if let Some(identity) = identity {
            self.set(request.headers_mut(), &identity);
        }
    }
}

impl Default for ClientCertLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ClientCertLayer {
    type Service = ClientCert<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ClientCert { inner, layer: self.clone() }
    }
}

/// Passes the client's certificate on to backends. See [`ClientCertLayer`].
#[derive(Clone, Debug)]
pub struct ClientCert<S> {
    inner: S,
    layer: ClientCertLayer,
}

impl<S, B> Service<Request<B>> for ClientCert<S>
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
        self.layer.apply(&mut request);
        self.inner.call(request)
    }
}

/// Whether a backend might take the field `name` for `ours`: CGI makes upper case of letters and,
/// mostly, underscores of all that is neither a letter nor a digit.
fn is_alias(name: &HeaderName, ours: &HeaderName) -> bool {
    let (name, ours) = (name.as_str().as_bytes(), ours.as_str().as_bytes());
    // By length first: it alone tells most names apart.
    name.len() == ours.len()
        && name
            .iter()
            .zip(ours)
            .all(|(a, b)| a == b || !a.is_ascii_alphanumeric() && !b.is_ascii_alphanumeric())
}

const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

#[cfg(test)]
mod tests {
    use bartizan_net::{ConnInfo, TlsInfo};

    use super::*;

    const CN: HeaderName = HeaderName::from_static("x-client-cn");

    /// The fields that a request with `sent` goes on with; `chain` is the client's.
    fn passed_on(
        layer: &ClientCertLayer,
        chain: Option<&[&[u8]]>,
        sent: &[(&str, &str)],
    ) -> Vec<(String, String)> {
        let mut identity =
            chain.map(|chain| ClientIdentity::new(chain.iter().map(|der| der.to_vec()).collect()));
        if let Some(identity) = &mut identity {
            identity.common_name = Some("Jörg".into());
        }
        let mut tls = TlsInfo::default();
        tls.client = identity.map(Arc::new);
        let addr = "192.0.2.7:5000".parse().unwrap();
        let mut info = ConnInfo::new(addr, addr);
        info.set_tls(tls);
        let mut request = Request::new(());
        request.extensions_mut().insert(Arc::new(info));
        after(layer, request, sent)
    }

    fn after(
        layer: &ClientCertLayer,
        mut request: Request<()>,
        sent: &[(&str, &str)],
    ) -> Vec<(String, String)> {
        for (name, value) in sent {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        let mut service = layer.layer(tower::service_fn(async |request: Request<()>| {
            Ok::<_, std::convert::Infallible>(request.headers().clone())
        }));
        let headers = tokio_test::block_on(service.call(request)).unwrap();
        let mut fields: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.to_string(), String::from_utf8(v.as_bytes().into()).unwrap()))
            .collect();
        fields.sort();
        fields
    }

    fn fields(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    const CLAIMS: [(&str, &str); 9] = [
        ("accept", "*/*"),
        ("Client-Cert", ":QQ==:"),
        ("client-cert", ":Qg==:"),
        ("CLIENT-CERT-CHAIN", ":Qw==:"),
        ("client_cert", ":RA==:"),
        ("Client_Cert-Chain", ":RQ==:"),
        ("client.cert", ":Rg==:"),
        ("X-Client-CN", "root"),
        ("x_client_cn", "root"),
    ];

    #[test]
    fn passes_the_certificate_on_and_nothing_that_was_not_asked_for() {
        let chain: &[&[u8]] = &[&[1, 2, 3], &[4]];
        let got = passed_on(&ClientCertLayer::new(), Some(chain), &CLAIMS[..7]);
        assert_eq!(got, fields(&[("accept", "*/*"), ("client-cert", ":AQID:")]));

        let layer = ClientCertLayer::new().chain(true).common_name(CN);
        assert_eq!(
            passed_on(&layer, Some(chain), &CLAIMS),
            fields(&[
                ("accept", "*/*"),
                ("client-cert", ":AQID:"),
                ("client-cert-chain", ":BA==:"),
                ("x-client-cn", "Jörg"),
            ])
        );
        let got = passed_on(&layer, Some(&[&[1]]), &CLAIMS);
        assert_eq!(got.len(), 3, "no chain: {got:?}");

        for layer in [
            ClientCertLayer::only_common_name(CN),
            ClientCertLayer::only_common_name(CN).chain(true),
        ] {
            assert_eq!(
                passed_on(&layer, Some(chain), &CLAIMS),
                fields(&[("accept", "*/*"), ("x-client-cn", "Jörg")])
            );
        }
    }

    #[test]
    fn what_a_client_claims_is_removed_whether_or_not_it_shows_a_certificate() {
        for layer in [
            ClientCertLayer::new().chain(true).common_name(CN),
            ClientCertLayer::new().common_name(CN),
            ClientCertLayer::only_common_name(CN),
        ] {
            let accept = fields(&[("accept", "*/*")]);
            assert_eq!(passed_on(&layer, None, &CLAIMS), accept, "{layer:?}");
            assert_eq!(after(&layer, Request::new(()), &CLAIMS), accept, "{layer:?}");
        }
    }

    #[test]
    fn a_client_cannot_have_the_fields_removed_by_connection() {
        let layer = ClientCertLayer::new().chain(true).common_name(CN);
        let chain: &[&[u8]] = &[&[1], &[2]];
        let sent = [("connection", "client-cert, client-cert-chain, x-client-cn")];
        let got = passed_on(&layer, Some(chain), &sent);
        assert_eq!(got, passed_on(&layer, Some(chain), &[]));
        assert_eq!(got.len(), 3, "{got:?}");
    }

    #[test]
    fn fields_that_only_resemble_it_stay() {
        let resembling = [
            ("client-ce-t", "1"),
            ("client-cert-chains", "1"),
            ("client-certs", "2"),
            ("clientcert", "3"),
            ("x-client-cert", "4"),
            ("x-client-id", "5"),
            ("x1client-cn", "6"),
        ];
        let layer = ClientCertLayer::new().common_name(CN);
        assert_eq!(passed_on(&layer, None, &resembling), fields(&resembling));
    }
}
