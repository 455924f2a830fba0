//! Keeping requests to the hosts that their connection may ask for.

use std::future::Future;
use std::net::Ipv6Addr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bartizan_net::{ConnInfo, HasConnInfo, HostScope, fold_host};
use http::header::{HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::text_or::TextOr;

/// Answers `421 Misdirected Request` (RFC 9110 §15.5.20) to requests for hosts that may not be asked
/// for over their connection.
///
/// Otherwise a client could shake hands as `open.x`, which demands no certificate of it, and ask for
/// `Host: guarded.x`, which does. Who may ask for what is for the connection's
/// [`HostScope`] to say, which is in the [`ConnInfo`] of the request's extensions, where `ServeHttp`
/// puts it. A request without, as over plain TCP, passes.
///
/// | the request names | answer |
/// | --- | --- |
/// | the server name of the handshake | passes; the scope is not asked |
/// | another host | passes if the scope permits it, else 421 |
/// | no host, or the empty one | as if it were for the server name of the handshake, which its `Host` becomes; without such a name the scope is asked for the host `""` |
/// | a target in absolute form, in HTTP/1.1 | as if its host were in `Host`, which it becomes (RFC 9112 §3.2.2) |
/// | several `Host` fields; in HTTP/2, one that differs from `:authority` | 400 |
/// | a host with user information, or what is neither a name nor an IP address | 400 |
///
/// Hosts are compared without their ports and one dot at the end, in lower case; an IPv6 address is
/// without its brackets. A request that names no host (HTTP/1.0) is not let through as it is,
/// because the backend would take it for its default host, which may be a guarded one. One that
/// names two is refused even if both are permitted (RFC 9112 §3.2, RFC 9113 §8.3.1): who comes later
/// may read another one than this layer did.
///
/// A client that gets 421 asks again over a connection of its own for the host; the one that it has
/// stays open. Each refusal is a tracing event (target `bartizan_http`).
///
/// Fields that only some backends read a host from, such as `X-Forwarded-Host`, are not looked at:
/// [`ForwardedLayer`](crate::ForwardedLayer) replaces that one.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct HostGuardLayer;

impl HostGuardLayer {
    /// The layer.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for HostGuardLayer {
    type Service = HostGuard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HostGuard { inner }
    }
}

/// Answers requests for hosts that may not be asked for. See [`HostGuardLayer`].
#[derive(Clone, Copy, Debug)]
pub struct HostGuard<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for HostGuard<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<TextOr<R>>;
    type Error = S::Error;
    type Future = GuardFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let state = match judge(&request) {
            Ok(pass) => {
                if let Pass::As(host) = pass {
                    request.headers_mut().insert(HOST, host);
                }
                State::Call { response: self.inner.call(request) }
            }
            Err(status) => State::Refused { status, head: request.method() == Method::HEAD },
        };
        GuardFuture { state }
    }
}

pin_project! {
    /// Resolves to the answer of the inner service, or to a refusal.
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct GuardFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Call { #[pin] response: F },
        Refused { status: StatusCode, head: bool },
    }
}

impl<F, R, E> Future for GuardFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<TextOr<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            StateProj::Call { response } => {
                ready!(response.poll(cx)).map(|response| response.map(TextOr::service))
            }
            StateProj::Refused { status, head } => Ok(TextOr::answer(*status, *head)),
        })
    }
}

/// How a request goes on.
#[derive(Debug, PartialEq, Eq)]
enum Pass {
    /// As it is.
    Unchanged,
    /// With this `Host`, because it has named none.
    As(HeaderValue),
}

fn judge<B>(request: &Request<B>) -> Result<Pass, StatusCode> {
    let Some(info) = request.conn_info() else { return Ok(Pass::Unchanged) };
    let Some(scope) = info.host_scope() else { return Ok(Pass::Unchanged) };
    let sni = server_name(info);
    match host(request) {
        Ok(Some(host)) if sni.is_some_and(|sni| host.eq_ignore_ascii_case(sni)) => {
            Ok(Pass::as_target(request))
        }
        Ok(Some(host)) => ask(scope, info, host).map(|()| Pass::as_target(request)),
        Ok(None) => match sni.and_then(|sni| HeaderValue::from_str(sni).ok()) {
            Some(host) => Ok(Pass::As(host)),
            None => ask(scope, info, "").map(|()| Pass::Unchanged),
        },
        Err(reason) => {
            tracing::info!(peer = %info.peer(), sni, %reason, "request with a bad host refused");
            Err(StatusCode::BAD_REQUEST)
        }
    }
}

impl Pass {
    /// With the host of a target in absolute form, if there is one and `Host` says another.
    fn as_target<B>(request: &Request<B>) -> Self {
        let (Some(target), Some(field)) = (request.uri().authority(), request.headers().get(HOST))
        else {
            return Self::Unchanged;
        };
        let host = |text: &[u8]| bare(text).map(str::to_ascii_lowercase);
        if host(target.as_str().as_bytes()) == host(field.as_bytes()) {
            return Self::Unchanged;
        }
        HeaderValue::from_str(target.as_str()).map_or(Self::Unchanged, Self::As)
    }
}

fn ask(scope: &dyn HostScope, info: &ConnInfo, host: &str) -> Result<(), StatusCode> {
    let host = fold_host(host);
    scope.permits(&host).map_err(|reason| {
        let sni = server_name(info);
        tracing::info!(peer = %info.peer(), sni, host = &*host, %reason, "misdirected request");
        StatusCode::MISDIRECTED_REQUEST
    })
}

fn server_name(info: &ConnInfo) -> Option<&str> {
    info.tls().and_then(|tls| tls.sni.as_deref())
}

/// The one host that the request names, bare; `None` if it names none.
fn host<B>(request: &Request<B>) -> Result<Option<&str>, BadHost> {
    let mut fields = request.headers().get_all(HOST).iter();
    let field = fields.next().map(HeaderValue::as_bytes);
    if fields.next().is_some() {
        return Err(BadHost::Several);
    }
    let field = field.filter(|field| !field.is_empty());
    let named = field.map(|field| bare(field).ok_or(BadHost::Malformed)).transpose()?;
    let Some(authority) = request.uri().authority() else { return Ok(named) };
    let target = bare(authority.as_str().as_bytes()).ok_or(BadHost::Malformed)?;
    match named {
        // RFC 9112 §3.2.2: in HTTP/1.1 the target in absolute form counts, and `Host` is replaced.
        Some(_) if request.version() <= Version::HTTP_11 => Ok(Some(target)),
        Some(named) if !named.eq_ignore_ascii_case(target) => Err(BadHost::Several),
        _ => Ok(Some(target)),
    }
}

/// The host of `host [":" port]`, without brackets and without a dot at its end.
///
/// Takes names and IP addresses only. In what else RFC 3986 allows (commas, percent signs, `@`),
/// this and that backend sees another host than the whole.
pub(crate) fn bare(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']')?;
        address.parse::<Ipv6Addr>().ok()?;
        let ends_well = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        return ends_well.then_some(address);
    }
    let (name, port) = text.split_once(':').unwrap_or((text, ""));
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    (is_port(port) && name.split('.').all(is_label)).then_some(name)
}

/// Why it cannot be told which host a request is for. The client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum BadHost {
    #[error("it names more than one")]
    Several,
    #[error("neither a name nor an IP address, with or without a port")]
    Malformed,
}

#[cfg(test)]
mod tests;
