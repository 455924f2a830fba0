//! Sending one request over a pooled connection.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_balance::{Backend, NotSent, Unanswered};
use bartizan_net::{BoxError, IdleTimer, Target};
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tower_service::Service;

use super::link::{Link, Upload};
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
    entry: Option<Entry<B>>,
    fresh: bool,
    backend: Arc<Backend>,
    dial: D,
    shared: Arc<Shared<B>>,
}

impl<D, B> PooledConn<D, B> {
    pub(super) fn new(
        entry: Entry<B>,
        fresh: bool,
        backend: Arc<Backend>,
        dial: D,
        shared: Arc<Shared<B>>,
    ) -> Self {
        Self { entry: Some(entry), fresh, backend, dial, shared }
    }
}

impl<D, B> fmt::Debug for PooledConn<D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledConn")
            .field("backend", &self.backend.name())
            .field("fresh", &self.fresh)
            .finish_non_exhaustive()
    }
}

/// A connection that was taken and not used goes back.
impl<D, B> Drop for PooledConn<D, B> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.give_back(&self.backend, entry);
        }
    }
}

/// A request under way. Boxed, because hyper's own future has no name.
pub type SendFuture<B> =
    Pin<Box<dyn Future<Output = Result<Response<PooledBody<B>>, BoxError>> + Send>>;

impl<D, B> Service<Request<B>> for PooledConn<D, B>
where
    D: Service<Arc<Backend>, Response: AsyncRead + AsyncWrite + Unpin + Send + 'static>,
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
        let entry = self.entry.take().expect("a pooled connection takes one request");
        let backend = Arc::clone(&self.backend);
        let shared = Arc::clone(&self.shared);
        let redial = (!self.fresh).then(|| self.dial.clone());
        Box::pin(send(entry, request, backend, shared, redial))
    }
}

async fn send<D, B>(
    mut entry: Entry<B>,
    mut request: Request<B>,
    backend: Arc<Backend>,
    shared: Arc<Shared<B>>,
    mut redial: Option<D>,
) -> Result<Response<PooledBody<B>>, BoxError>
where
    D: Service<Arc<Backend>, Response: AsyncRead + AsyncWrite + Unpin + Send + 'static>,
    D: Clone + Send + 'static,
    D::Future: Send,
    D::Error: Into<BoxError>,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let has_host = request.headers().contains_key(http::header::HOST);
    let host = if has_host { String::new() } else { backend.address().to_string() };
    if let Err(error) = to_origin(&mut request, &host) {
        shared.give_back(&backend, entry);
        return Err(error.into());
    }
    loop {
        let answered = entry.link.bytes_read();
        match exchange(&mut entry, request).await {
            Ok(response) => return accept(response, entry, backend, shared),
            Err(Failure::Silent(limit)) => return Err(SendError::Timeout { limit }.into()),
            Err(Failure::Broken(mut broken)) => {
                let Some(unsent) = broken.take_message() else {
                    let error = SendError::Connection(broken.into_error().into());
                    // Whether it began to answer tells what may be repeated.
                    let silent = entry.link.bytes_read() == answered;
                    return Err(if silent { Unanswered::new(error).into() } else { error.into() });
                };
                request = unsent.map(Upload::into_body);
                let Some(dial) = redial.take() else {
                    let error = SendError::Connection(broken.into_error().into());
                    return Err(NotSent::new(request, error.into()).into());
                };
                tracing::debug!(backend = %backend.name(), "a kept connection was closed, dialling anew");
                entry = match connect(dial, Arc::clone(&backend), shared.settings).await {
                    Ok(entry) => entry,
                    Err(error) => return Err(NotSent::new(request, error).into()),
                };
            }
        }
    }
}

enum Failure<B> {
    Silent(Duration),
    Broken(TrySendError<Request<Upload<B>>>),
}

/// Sends the request and waits for the response's head, for as long as the backend may be silent.
async fn exchange<B>(entry: &mut Entry<B>, request: Request<B>) -> Result<Response<Incoming>, Failure<B>>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let Entry { send, link, silence } = entry;
    let request = request.map(|body| Upload::new(body, Arc::clone(link)));
    let mut response = pin!(send.try_send_request(request));
    silence.touch();
    poll_fn(|cx| {
        if let Poll::Ready(result) = response.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(Failure::Broken));
        }
        poll_silence(silence, link, cx).map(|()| Err(Failure::Silent(silence.limit())))
    })
    .await
}

/// Ready when the backend was silent for too long, not counting waits for the client.
pub(super) fn poll_silence(silence: &mut IdleTimer, link: &Link, cx: &mut Context<'_>) -> Poll<()> {
    while silence.poll_expired(cx).is_ready() {
        let now = Instant::now();
        let since = if link.is_waiting_for_client() { now } else { link.last_io() };
        let due = since + silence.limit();
        if due <= now {
            return Poll::Ready(());
        }
        silence.expire_at(due);
    }
    Poll::Pending
}

fn accept<B>(
    response: Response<Incoming>,
    entry: Entry<B>,
    backend: Arc<Backend>,
    shared: Arc<Shared<B>>,
) -> Result<Response<PooledBody<B>>, BoxError> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(SendError::UnaskedUpgrade.into());
    }
    let mut response = response.map(|body| PooledBody::new(body, entry, backend, shared));
    *response.version_mut() = Version::HTTP_11;
    strip_hop_by_hop(response.headers_mut());
    Ok(response)
}

impl<B> Shared<B> {
    /// Takes a connection back that no request uses any more.
    pub(super) fn give_back(&self, backend: &Backend, entry: Entry<B>) {
        if entry.is_alive() {
            entry.link.release();
            self.idle.put(backend.id(), entry, Entry::is_alive);
        }
    }
}
