//! Sending one request over a pooled connection.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_balance::{Backend, NotSent, Unanswered};
use bartizan_net::{BoxError, DialledStream, Target};
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tower_service::Service;

use super::link::Upload;
use super::upstream::Entry;
use super::{PooledBody, Shared, connect};
use crate::SendError;
use crate::headers::{strip_hop_by_hop, to_origin};

/// A connection to a backend, for one request.
///
/// Its call makes of the request what an HTTP/1.1 origin server expects, removes fields for one hop
/// both ways, and answers when the response's head is there. A connection out of the pool that was
/// closed before it took anything is replaced by a new one, once.
///
/// # Errors
///
/// A `BoxError` that is [`NotSent`] if the backend got no byte, with the request in it; that is
/// [`Unanswered`] if no byte came back; or else a [`SendError`].
pub struct PooledConn<D, B> {
    entry: Option<Box<Entry<B>>>,
    home: Home<B>,
    // How to replace it, unless it is new.
    redial: Option<D>,
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
        self.pool.idle.put(self.backend.id(), entry);
        None
    }
}

impl<D, B> PooledConn<D, B> {
    pub(super) fn new(entry: Box<Entry<B>>, home: Home<B>, redial: Option<D>) -> Self {
        Self { entry: Some(entry), home, redial }
    }
}

impl<D, B> fmt::Debug for PooledConn<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledConn")
            .field("backend", &self.home.backend.name())
            .field("fresh", &self.redial.is_none())
            .finish_non_exhaustive()
    }
}

/// A connection that was taken and not used goes back.
impl<D, B> Drop for PooledConn<D, B> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
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
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut entry = self.entry.take().expect("a pooled connection takes one request");
        let home =
            Home { backend: Arc::clone(&self.home.backend), pool: Arc::clone(&self.home.pool) };
        if let Err(error) = to_origin(&mut request, home.backend.address()) {
            drop(home.take_back(entry));
            return Box::pin(std::future::ready(Err(error.into())));
        }
        let mut redial = self.redial.take();
        // One block, not a function: an async function keeps its arguments twice.
        Box::pin(async move {
            loop {
                let answered = entry.link.bytes_read();
                let failed = match exchange(&mut entry, request).await {
                    Ok(response) => return accept(response, entry, home),
                    Err(failed) => failed,
                };
                let (unsent, error) = sort(failed, &entry, answered)?;
                request = unsent;
                let Some(dial) = redial.take() else {
                    return Err(NotSent::new(request, error.into()).into());
                };
                tracing::debug!(backend = %home.backend.name(), %error, "dialling anew");
                let backend = Arc::clone(&home.backend);
                entry = match connect(dial, backend, home.pool.settings).await {
                    Ok(entry) => entry,
                    Err(error) => return Err(NotSent::new(request, error).into()),
                };
            }
        })
    }
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
        None if entry.link.bytes_read() == answered => Err(Unanswered::new(error).into()),
        None => Err(error.into()),
    }
}

fn accept<B>(
    response: Response<Incoming>,
    entry: Box<Entry<B>>,
    home: Home<B>,
) -> Result<Response<PooledBody<B>>, BoxError> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(SendError::UnaskedUpgrade.into());
    }
    let mut response = response.map(|body| PooledBody::new(body, entry, home));
    *response.version_mut() = Version::HTTP_11;
    strip_hop_by_hop(response.headers_mut());
    Ok(response)
}
