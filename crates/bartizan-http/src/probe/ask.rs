//! One request to a backend, and a bounded look at its answer.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bartizan_balance::{Backend, Verdict};
use bartizan_net::{BoxError, Target};
use bytes::Buf;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Request, Response};
use http_body::Body;
use hyper::ext::on_informational;
use tower_service::Service;

use super::HttpProbeError;
use crate::RequestBody;

/// A service of HTTP connections, and why its `poll_ready` failed: it must not be called then.
#[derive(Clone, Debug)]
pub(super) struct Connect<M> {
    pub(super) service: M,
    broken: Option<Verdict>,
}

impl<M> Connect<M> {
    pub(super) fn new(service: M) -> Self {
        Self { service, broken: None }
    }

    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>>
    where
        M: Service<Arc<Backend>, Error: Into<BoxError>>,
    {
        self.broken = ready!(self.service.poll_ready(cx)).err().map(verdict_of);
        Poll::Ready(Ok(()))
    }

    pub(super) fn call(&mut self, backend: Arc<Backend>) -> Result<M::Future, Verdict>
    where
        M: Service<Arc<Backend>>,
    {
        match self.broken.take() {
            Some(verdict) => Err(verdict),
            None => Ok(self.service.call(backend)),
        }
    }
}

/// Sends `request` over the connection that `connecting` makes. Resolves to the head of the answer.
pub(super) async fn ask<F, C, R, E>(
    connecting: Result<F, Verdict>,
    mut request: Request<RequestBody>,
) -> Result<Response<R>, Verdict>
where
    F: Future<Output = Result<C, E>>,
    C: Service<Request<RequestBody>, Response = Response<R>, Error: Into<BoxError>>,
    E: Into<BoxError>,
{
    let mut conn = connecting?.await.map_err(verdict_of)?;
    poll_fn(|cx| conn.poll_ready(cx)).await.map_err(verdict_of)?;
    // hyper passes over any number of them, while a final answer is waited for.
    let interim = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&interim);
    on_informational(&mut request, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let mut answer = pin!(conn.call(request));
    let answer = poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Pending if interim.load(Ordering::Relaxed) > MAX_INTERIM => {
            Poll::Ready(Err(Verdict::fail(TOO_MANY)))
        }
        answer => answer.map_err(verdict_of),
    });
    answer.await
}

/// What was looked at of an answer's body.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) bytes: Vec<u8>,
    /// Whether this is all of it.
    pub(super) whole: bool,
    pub(super) trailers: Option<HeaderMap>,
}

/// Reads the body to its end, but keeps and waits for no more than `cap` bytes.
pub(super) async fn look<R>(mut body: Pin<&mut R>, cap: usize) -> Result<Looked, Verdict>
where
    R: Body<Error: Into<BoxError>>,
{
    let mut looked = Looked::default();
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|error| verdict_of(BrokenOff(error.into())))?;
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                looked.trailers = frame.into_trailers().ok();
                continue;
            }
        };
        while data.has_remaining() {
            let room = cap - looked.bytes.len();
            let chunk = data.chunk();
            let taken = chunk.len().min(room);
            if taken == 0 {
                return Ok(looked);
            }
            looked.bytes.extend_from_slice(&chunk[..taken]);
            data.advance(taken);
        }
    }
    looked.whole = true;
    Ok(looked)
}

/// Takes what has come of a body that nobody wants to see, without waiting for more: the connection
/// of a short answer is then free for another request, or for a goodbye.
pub(super) fn settle<R: Body>(mut body: Pin<&mut R>) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut left = SETTLED;
    while left > 0
        && let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx)
    {
        let length = frame.data_ref().map_or(0, Buf::remaining);
        left = left.saturating_sub(length.max(1));
    }
}

/// The `Host` to ask for: the one that was set, as such or as a field, or else a server name that is
/// not the address's own. Without one, the connection puts the address there.
pub(super) fn set_host(headers: &mut HeaderMap, host: Option<&HeaderValue>, backend: &Backend) {
    let named = || {
        let name = backend.server_name();
        let name = name.filter(|_| name != backend.address().server_name())?;
        HeaderValue::from_str(name).ok()
    };
    let host = host.cloned();
    if let Some(host) = if headers.contains_key(HOST) { host } else { host.or_else(named) } {
        headers.insert(HOST, host);
    }
}

/// A host as it was configured.
pub(super) fn host(host: &str) -> Result<HeaderValue, HttpProbeError> {
    let wrong = || HttpProbeError::Host { host: host.to_owned() };
    let authority: http::uri::Authority = host.parse().map_err(|_| wrong())?;
    if authority.host().is_empty() || host.contains('@') {
        return Err(wrong());
    }
    HeaderValue::from_str(host).map_err(|_| wrong())
}

pub(super) fn verdict_of(error: impl Into<BoxError>) -> Verdict {
    Verdict::of_error(&*error.into())
}

/// The answer began, and did not end.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off within its body")]
struct BrokenOff(#[source] BoxError);

/// What says which probe asks.
pub(super) const USER_AGENT: HeaderValue = HeaderValue::from_static("bartizan-check");

/// A server sends one or two, such as 103 Early Hints.
const MAX_INTERIM: usize = 100;

const TOO_MANY: &str = "it sent more than 100 interim answers (1xx), and no final one";

/// What a connection has at hand is about as much; a longer body is cheaper to leave.
const SETTLED: usize = 64 * 1024;
