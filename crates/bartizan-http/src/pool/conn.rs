//! Sending one request over a pooled connection.

use std::fmt;
use std::future::{Future, poll_fn, ready};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_balance::{Backend, BadRequest, NotSent, Unanswered};
use bartizan_net::{BoxError, DialledStream, Target};
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tower_service::Service;

use super::h2::over_h2;
use super::link::Upload;
use super::upstream::Entry;
use super::{Dials, Line, PooledBody, Shared, obtain};
use crate::SendError;
use crate::headers::{strip_hop_by_hop, to_origin};

/// A connection to a backend, for one request; over HTTP/2, room for a stream on one.
///
/// Its call makes of the request what an origin server expects of it in the backend's version of
/// HTTP, removes fields for one hop both ways, and answers when the response's head is there. A
/// connection out of the pool that was closed before it took anything is replaced by another one,
/// once. So is one that has become invalid since it was taken out
/// ([`Validity`](bartizan_net::Validity)).
///
/// # Errors
///
/// A `BoxError` that is [`NotSent`] if the backend got no byte, with the request in it; that is
/// [`Unanswered`] if no byte came back, or if the backend of an HTTP/2 connection says that it did
/// not look at the request; that is [`BadRequest`] if the client is at fault; or else a
/// [`SendError`].
pub struct PooledConn<D, B> {
    line: Option<Line<B>>,
    home: Home<B>,
    // How to replace it.
    dial: Option<D>,
    spares: Spares,
}

/// Where a connection belongs.
pub(super) struct Home<B> {
    pub(super) backend: Arc<Backend>,
    pub(super) pool: Arc<Shared<B>>,
}

impl<B> Home<B> {
    /// Takes a connection back that no request uses any more. One that cannot take another request
    /// is returned.
    pub(super) fn take_back(&self, mut entry: Box<Entry<B>>) -> Option<Box<Entry<B>>> {
        if !entry.is_done() {
            return Some(entry);
        }
        let unwanted = if entry.validity.is_over() {
            Some(entry)
        } else {
            self.pool.idle.put(self.backend.id(), entry)
        };
        if let Some(entry) = unwanted {
            entry.close();
        }
        None
    }
}

impl<B> Clone for Home<B> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), pool: Arc::clone(&self.pool) }
    }
}

/// How often a request may still be moved to another connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spares {
    // What closes although it is new would close again.
    stale: bool,
    outdated: u8,
    unread: u8,
}

impl Spares {
    fn new(fresh: bool) -> Self {
        Self { stale: !fresh, outdated: OUTDATED, unread: UNREAD }
    }

    /// Whether it may, because the connection was closed before it took anything.
    pub(super) fn spend_for_stale(&mut self) -> bool {
        mem::replace(&mut self.stale, false)
    }

    /// Whether it may, because the backend says that it has not looked at it.
    pub(super) fn spend_for_unread(&mut self) -> bool {
        let left = self.unread.checked_sub(1);
        self.unread = left.unwrap_or(0);
        left.is_some()
    }

    /// Whether it may, because the connection may be given no more requests.
    pub(super) fn spend_for_outdated(&mut self) -> bool {
        let left = self.outdated.checked_sub(1);
        self.outdated = left.unwrap_or(0);
        left.is_some()
    }
}

impl<D, B> PooledConn<D, B> {
    pub(super) fn new(line: Line<B>, home: Home<B>, dial: D, fresh: bool) -> Self {
        Self { line: Some(line), home, dial: Some(dial), spares: Spares::new(fresh) }
    }
}

impl<D, B> fmt::Debug for PooledConn<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledConn")
            .field("backend", &self.home.backend.name())
            .field("spares", &self.spares)
            .finish_non_exhaustive()
    }
}

/// A connection that was taken and not used goes back.
impl<D, B> Drop for PooledConn<D, B> {
    fn drop(&mut self) {
        if let Some(Line::Own(entry)) = self.line.take() {
            drop(self.home.take_back(entry));
        }
    }
}

/// A request under way. Boxed, because hyper's own future has no name.
pub type SendFuture<B> =
    Pin<Box<dyn Future<Output = Result<Response<PooledBody<B>>, BoxError>> + Send>>;

impl<D, B> Service<Request<B>> for PooledConn<D, B>
where
    D: Service<Arc<Backend>, Response: DialledStream>,
    D: Clone + Send + 'static,
    D::Future: Send,
    D::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    type Response = Response<PooledBody<B>>;
    type Error = BoxError;
    type Future = SendFuture<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    /// # Panics
    ///
    /// When called a second time: the connection is for one request.
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let taken = self.line.take().zip(self.dial.take());
        let (line, dial) = taken.expect("a pooled connection takes one request");
        let (home, spares) = (self.home.clone(), self.spares);
        match line {
            Line::Own(entry) => over_h1(entry, request, home, dial, spares),
            Line::Shared(slot) => over_h2(slot, request, home, dial, spares),
        }
    }
}

/// Sends the request over `entry`, or elsewhere should that not take it.
fn over_h1<D, B>(
    mut entry: Box<Entry<B>>,
    mut request: Request<B>,
    home: Home<B>,
    dial: D,
    mut spares: Spares,
) -> SendFuture<B>
where
    D: Dials,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    if entry.validity.is_over() {
        entry.close();
        if !spares.spend_for_outdated() {
            let error = NotSent::new(request, SendError::Outdated.into());
            return Box::pin(ready(Err(error.into())));
        }
        return replace(request, home, dial, spares);
    }
    if let Err(error) = to_origin(&mut request, home.backend.address()) {
        drop(home.take_back(entry));
        return Box::pin(ready(Err(BadRequest::new(error).into())));
    }
    // One block, not a function: an async function keeps its arguments twice.
    Box::pin(async move {
        let answered = entry.link.bytes_read();
        let failed = match exchange(&mut entry, request).await {
            Ok(response) => return accept(response, |body| PooledBody::own(body, entry, home)),
            Err(failed) => failed,
        };
        let (request, error) = sort(failed, &entry, answered)?;
        drop(entry);
        if !spares.spend_for_stale() {
            return Err(NotSent::new(request, error.into()).into());
        }
        tracing::debug!(backend = %home.backend.name(), %error, "dialling anew");
        replace(request, home, dial, spares).await
    })
}

/// Sends the request over another connection.
pub(super) fn replace<D, B>(
    request: Request<B>,
    home: Home<B>,
    dial: D,
    spares: Spares,
) -> SendFuture<B>
where
    D: Dials,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    Box::pin(async move {
        match obtain(dial.clone(), home.clone()).await {
            Ok(Line::Own(entry)) => over_h1(entry, request, home, dial, spares).await,
            Ok(Line::Shared(slot)) => over_h2(slot, request, home, dial, spares).await,
            Err(error) => Err(NotSent::new(request, error).into()),
        }
    })
}

enum Failed<B> {
    Silent,
    Broken(Box<TrySendError<Request<Upload<B>>>>),
}

/// Sends the request and waits for the response's head, for as long as the backend may be silent.
async fn exchange<B>(
    entry: &mut Entry<B>,
    request: Request<B>,
) -> Result<Response<Incoming>, Failed<B>>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let link = Arc::clone(&entry.link);
    let request = request.map(|body| Upload::new(body, link));
    let mut response = pin!(entry.send.try_send_request(request));
    entry.sent();
    entry.silence.touch();
    poll_fn(|cx| {
        if let Poll::Ready(result) = entry.poll_with(cx, |cx| response.as_mut().poll(cx)) {
            return Poll::Ready(result.map_err(|error| Failed::Broken(Box::new(error))));
        }
        entry.poll_silence(cx).map(|()| Err(Failed::Silent))
    })
    .await
}

/// The request, if nothing of it was sent; otherwise the error that says how far it got.
fn sort<B>(
    failed: Failed<B>,
    entry: &Entry<B>,
    answered: u64,
) -> Result<(Request<B>, SendError), BoxError> {
    let mut broken = match failed {
        Failed::Silent => return Err(SendError::Timeout { limit: entry.silence.limit() }.into()),
        Failed::Broken(broken) => broken,
    };
    let unsent = broken.take_message();
    let error = SendError::Connection(broken.into_error().into());
    match unsent {
        Some(request) => Ok((request.map(Upload::into_body), error)),
        None if entry.link.client_failed() => Err(BadRequest::new(error).into()),
        None if entry.link.bytes_read() == answered => Err(Unanswered::new(error).into()),
        None => Err(error.into()),
    }
}

pub(super) fn accept<B>(
    response: Response<Incoming>,
    body: impl FnOnce(Incoming) -> PooledBody<B>,
) -> Result<Response<PooledBody<B>>, BoxError> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(SendError::UnaskedUpgrade.into());
    }
    let mut response = response.map(body);
    *response.version_mut() = Version::HTTP_11;
    strip_hop_by_hop(response.headers_mut());
    Ok(response)
}

/// Enough for identities that are replaced while a connection is made; as often in a row, something
/// replaces them all the time.
const OUTDATED: u8 = 3;

/// A backend that ends connections after so many requests says so to all that came too late; those
/// may be too late on the next connection again.
const UNREAD: u8 = 5;
