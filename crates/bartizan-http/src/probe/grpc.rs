//! gRPC's own way of asking how a server is.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_balance::{Backend, Verdict};
use bartizan_net::BoxError;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{Method, Request, Response, Uri};
use http_body::Body;
use tower_service::Service;

use super::ask::{self, Connect, ask, look, settle};
use super::{HttpOnce, HttpProbeError, Probing, health_v1};
use crate::{BackendProtocol, RequestBody};

/// A probe that calls `grpc.health.v1.Health/Check`, and passes if the answer is `SERVING`.
///
/// | the answer | verdict |
/// | --- | --- |
/// | `SERVING` | pass |
/// | `NOT_SERVING`, `UNKNOWN`, `SERVICE_UNKNOWN` | failure, with that word |
/// | gRPC status `NOT_FOUND` | failure: the server does not know the service |
/// | gRPC status `UNIMPLEMENTED` | failure: the server has no health service |
/// | any other gRPC status | failure, with its name and message |
/// | what is not gRPC | failure, with what it is |
///
/// Over a dial service it makes a connection for each probe and speaks HTTP/2 over it, in the clear
/// without asking first or, if that is what the dial service does, over TLS. Time and cancelling are as
/// with [`HttpProbe`](crate::HttpProbe). The protocol is that of gRPC's `doc/health-checking.md`.
///
/// ```
/// use bartizan_balance::Checks;
/// use bartizan_http::GrpcProbe;
/// use bartizan_net::TcpDial;
///
/// let server = Checks::new(GrpcProbe::new(TcpDial::new()));
/// let service = Checks::new(GrpcProbe::new(TcpDial::new()).service("shop.Orders"));
/// ```
#[derive(Clone, Debug)]
pub struct GrpcProbe<M> {
    connect: Connect<M>,
    // Shared by all probes under way.
    asks: Arc<Asks>,
}

#[derive(Clone, Debug)]
struct Asks {
    service: String,
    body: Bytes,
    host: Option<HeaderValue>,
}

impl<D> GrpcProbe<HttpOnce<D>> {
    /// Asks over a new HTTP/2 connection each time, which `dial` dials.
    pub fn new(dial: D) -> Self {
        Self::over(HttpOnce::new(dial).protocol(BackendProtocol::Http2))
    }
}

impl<M> GrpcProbe<M> {
    /// Asks over the connections of `connect`, such as the [`HttpPool`](crate::HttpPool) of the
    /// traffic. They have to be HTTP/2.
    pub fn over(connect: M) -> Self {
        let asks = Asks { service: String::new(), body: health_v1::request(""), host: None };
        Self { connect: Connect::new(connect), asks: Arc::new(asks) }
    }

    /// Asks for this service, by its full name. Default: none, which is the server as a whole.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        let asks = Arc::make_mut(&mut self.asks);
        asks.service = name.into();
        asks.body = health_v1::request(&asks.service);
        self
    }

    /// Asks for this host, as `:authority`. Default: the name that a backend was given for TLS, or
    /// else its address with the port.
    ///
    /// # Errors
    ///
    /// [`HttpProbeError::Host`].
    pub fn host(mut self, host: &str) -> Result<Self, HttpProbeError> {
        Arc::make_mut(&mut self.asks).host = Some(ask::host(host)?);
        Ok(self)
    }
}

impl<M, R> Service<Arc<Backend>> for GrpcProbe<M>
where
    M: Service<Arc<Backend>, Error: Into<BoxError>, Future: Send + 'static>,
    M::Response: Service<Request<RequestBody>, Response = Response<R>> + Send,
    <M::Response as Service<Request<RequestBody>>>::Error: Into<BoxError>,
    <M::Response as Service<Request<RequestBody>>>::Future: Send,
    R: Body<Error: Into<BoxError>> + Send,
{
    type Response = Verdict;
    type Error = Infallible;
    type Future = Probing;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.connect.poll_ready(cx)
    }

    fn call(&mut self, backend: Arc<Backend>) -> Probing {
        let asks = Arc::clone(&self.asks);
        let request = asks.request(&backend);
        let connecting = self.connect.call(backend);
        Box::pin(async move {
            let judged = async { asks.judge(ask(connecting, request).await?).await };
            Ok(judged.await.err().unwrap_or(Verdict::Pass))
        })
    }
}

impl Asks {
    fn request(&self, backend: &Backend) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::from(self.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(health_v1::PATH);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(USER_AGENT, ask::USER_AGENT);
        ask::set_host(headers, self.host.as_ref(), backend);
        request
    }

    /// Passes, or says what there is instead.
    async fn judge<R>(&self, response: Response<R>) -> Result<(), Verdict>
    where
        R: Body<Error: Into<BoxError>>,
    {
        let (head, body) = response.into_parts();
        let mut body = pin!(body);
        if let Err(verdict) = health_v1::look_at_head(head.status, &head.headers) {
            settle(body.as_mut());
            return Err(verdict);
        }
        let looked = look(body, health_v1::MAX_ANSWER).await?;
        health_v1::look_at_answer(&self.service, &head.headers, &looked)
    }
}
