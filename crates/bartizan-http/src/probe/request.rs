//! A request whose answer says how a backend is.

use std::convert::Infallible;
use std::ops::RangeBounds;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_balance::{Backend, Verdict};
use bartizan_net::BoxError;
use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body::Body;
use tower_service::Service;

use super::ask::{self, Connect, ask, look, settle};
use super::expect::{Expect, Expectations};
use super::{HttpOnce, HttpProbeError, Probing};
use crate::{BackendProtocol, RequestBody};

/// A probe that sends a request, and passes if the answer is as expected.
///
/// | setting | default | HAProxy | nginx `health_check` |
/// | --- | --- | --- | --- |
/// | [`method`](Self::method) | GET | `option httpchk`: OPTIONS | GET |
/// | [`path`](Self::path) | `/` | `/` | `uri`: `/` |
/// | [`host`](Self::host) | server name or address | none | the upstream's name |
/// | [`header`](Self::header) | `User-Agent: bartizan-check` | `http-check send hdr` | as the location |
/// | [`body`](Self::body) | none | `http-check send body` | none |
/// | [`expect`](Self::expect) | status 200 to 399 | the same; `http-check expect` | the same; `match` |
/// | [`max_body`](Self::max_body) | 64 KiB | `tune.bufsize`: 16 KiB | 256 KiB |
/// | [`disable_on_404`](Self::disable_on_404) | off | `http-check disable-on-404` | |
///
/// Over a dial service it makes a connection for each probe; over TLS the handshake is then part of
/// the check, and a backend that proves another identity is [`Verdict::Unfit`]. How long it may take is
/// said by the checks. Dropped, a probe under way closes its connection, or resets its
/// stream on one that is shared.
///
/// ```
/// use bartizan_balance::Checks;
/// use bartizan_http::{Expect, HttpProbe};
/// use bartizan_net::TcpDial;
///
/// # fn run() -> Result<(), bartizan_http::HttpProbeError> {
/// let checks = Checks::new(HttpProbe::new(TcpDial::new()).path("/health")?);
/// let strict = HttpProbe::new(TcpDial::new())
///     .path("/health")?
///     .expect_status(200..=200)
///     .expect(!Expect::body("degraded"));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct HttpProbe<M> {
    connect: Connect<M>,
    // Shared by all probes under way.
    asks: Arc<Asks>,
}

#[derive(Clone, Debug)]
struct Asks {
    method: Method,
    path: PathAndQuery,
    host: Option<HeaderValue>,
    headers: HeaderMap,
    body: Bytes,
    expected: Expectations,
    max_body: usize,
    stop_on_404: bool,
}

impl<D> HttpProbe<HttpOnce<D>> {
    /// Asks over a new connection each time, which `dial` dials.
    pub fn new(dial: D) -> Self {
        Self::over(HttpOnce::new(dial))
    }

    /// Speaks this. Default: HTTP/1.1.
    pub fn protocol(mut self, protocol: BackendProtocol) -> Self {
        self.connect.service = self.connect.service.protocol(protocol);
        self
    }
}

impl<M> HttpProbe<M> {
    /// Asks over the connections of `connect`, such as the [`HttpPool`](crate::HttpPool) of the
    /// traffic: HAProxy's `check-reuse-pool`.
    ///
    /// An HTTP/1.1 connection goes back there if the whole of the answer was read. A body of which
    /// nothing is expected is read as far as it has come with the head, so let the answer be a short
    /// one, or ask for the head alone with [`Method::HEAD`].
    pub fn over(connect: M) -> Self {
        let asks = Asks {
            method: Method::GET,
            path: PathAndQuery::from_static("/"),
            host: None,
            headers: HeaderMap::from_iter([(USER_AGENT, ask::USER_AGENT)]),
            body: Bytes::new(),
            expected: Expectations::default(),
            max_body: MAX_BODY,
            stop_on_404: false,
        };
        Self { connect: Connect::new(connect), asks: Arc::new(asks) }
    }

    /// Asks with this method. Default: GET.
    pub fn method(mut self, method: Method) -> Self {
        self.asks().method = method;
        self
    }

    /// Asks for this path, with a query if there is one. Default: `/`.
    ///
    /// # Errors
    ///
    /// [`HttpProbeError::Path`].
    pub fn path(mut self, path: &str) -> Result<Self, HttpProbeError> {
        let wrong = || HttpProbeError::Path { path: path.to_owned() };
        // What is parsed would do without the fragment, and let other characters through as they are.
        if !path.starts_with('/') || path.contains('#') || !path.is_ascii() {
            return Err(wrong());
        }
        self.asks().path = PathAndQuery::try_from(path).map_err(|_| wrong())?;
        Ok(self)
    }

    /// Asks for this host, as `Host` or `:authority`. Default: the name that a backend was given for
    /// TLS, or else its address with the port.
    ///
    /// # Errors
    ///
    /// [`HttpProbeError::Host`].
    pub fn host(mut self, host: &str) -> Result<Self, HttpProbeError> {
        self.asks().host = Some(ask::host(host)?);
        Ok(self)
    }

    /// Sends this header field, in place of one of that name. Fields for one hop are not sent.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.asks().headers.insert(name, value);
        self
    }

    /// Sends this body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.asks().body = body.into();
        self
    }

    /// Expects this too. All has to be as expected; of statuses that are expected, one.
    ///
    /// The default for the status stands until something is said about the status; HAProxy gives it up
    /// when anything at all is expected.
    pub fn expect(mut self, expect: Expect) -> Self {
        self.asks().expected.add(expect);
        self
    }

    /// Expects a status within `range`, or within another one that is expected: short for
    /// [`Expect::status`]. Default: 200 to 399.
    pub fn expect_status(self, range: impl RangeBounds<u16>) -> Self {
        self.expect(Expect::status(range))
    }

    /// Looks at no more than so many bytes of a body. Default: 64 KiB.
    ///
    /// What is expected to be in a body has to be there; what must not be is not looked for beyond.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.asks().max_body = bytes;
        self
    }

    /// Lets a backend that answers 404 have no new clients, instead of taking it out: it is about to
    /// stop, and says so ([`Verdict::Stop`]). Whatever else is expected is then not looked at.
    pub fn disable_on_404(mut self) -> Self {
        self.asks().stop_on_404 = true;
        self
    }

    fn asks(&mut self) -> &mut Asks {
        Arc::make_mut(&mut self.asks)
    }
}

impl<M, R> Service<Arc<Backend>> for HttpProbe<M>
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
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from(self.path.clone());
        *request.headers_mut() = self.headers.clone();
        ask::set_host(request.headers_mut(), self.host.as_ref(), backend);
        request
    }

    /// Passes, or says what there is instead.
    async fn judge<R>(&self, response: Response<R>) -> Result<(), Verdict>
    where
        R: Body<Error: Into<BoxError>>,
    {
        let head = self.look_at_head(&response);
        let mut body = pin!(response.into_body());
        if head.is_ok() && self.expected.want_body() {
            return self.look_at_body(body).await;
        }
        settle(body.as_mut());
        head
    }

    fn look_at_head<R>(&self, response: &Response<R>) -> Result<(), Verdict> {
        if self.stop_on_404 && response.status() == StatusCode::NOT_FOUND {
            return Err(Verdict::stop("it answered 404 Not Found, and wants no new clients"));
        }
        self.expected.look_at_head(response).map_err(Verdict::fail)
    }

    async fn look_at_body<R>(&self, body: Pin<&mut R>) -> Result<(), Verdict>
    where
        R: Body<Error: Into<BoxError>>,
    {
        let looked = look(body, self.max_body).await?;
        self.expected.look_at_body(&looked.bytes, looked.whole).map_err(Verdict::fail)
    }
}

/// Four times HAProxy's: pages about health list what they depend on.
const MAX_BODY: usize = 64 * 1024;
