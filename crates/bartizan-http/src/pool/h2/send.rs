//! Sending one request over an HTTP/2 connection.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_balance::{BadRequest, NotSent, Unanswered};
use bartizan_net::{BoxError, IdleTimer, Target};
use h2::Reason;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::SendRequest;
use tokio::time::timeout;

use super::Slot;
use super::kept::Kept;
use super::stream::{H2Upload, Stream};
use crate::SendError;
use crate::headers::to_h2;
use crate::pool::conn::{Home, Spares, accept, replace};
use crate::pool::{Dials, Line, PooledBody, SendFuture, obtain};

/// Where the body of an answer comes from, and what it is waited for with.
pub(crate) struct SharedAnswer {
    stream: Arc<Stream>,
    silence: IdleTimer,
}

impl SharedAnswer {
    /// The time of the backend's silence begins.
    pub(crate) fn touch(&mut self) {
        self.silence.touch();
        self.stream.begin_wait();
    }

    pub(crate) fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<SendError> {
        let limit = self.silence.limit();
        self.stream.poll_silence(&mut self.silence, cx).map(|()| {
            self.stream.give_up();
            SendError::Timeout { limit }
        })
    }

    /// Whether there is still a request to send while the answer is over.
    pub(crate) fn is_uploading(&self) -> bool {
        !self.stream.is_uploaded()
    }

    /// What to call the end of the answer: the client's fault, if that broke off the stream.
    pub(crate) fn explain(&self, error: hyper::Error) -> SendError {
        let client = self.stream.take_client_error();
        SendError::Connection(client.unwrap_or_else(|| error.into()))
    }
}

impl Drop for SharedAnswer {
    fn drop(&mut self) {
        self.stream.abandon();
    }
}

impl fmt::Debug for SharedAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedAnswer").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// Sends the request in `slot`, or elsewhere should the connection not take it.
pub(crate) fn over_h2<D, B>(
    slot: Slot<B>,
    mut request: Request<B>,
    home: Home<B>,
    dial: D,
    mut spares: Spares,
) -> SendFuture<B>
where
    D: Dials,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    Box::pin(async move {
        if !slot.is_usable() {
            drop(slot);
            if !spares.spend_for_outdated() {
                return Err(NotSent::new(request, SendError::Outdated.into()).into());
            }
            return replace(request, home, dial, spares).await;
        }
        to_h2(&mut request, home.backend.address(), slot.conn.secure).map_err(BadRequest::new)?;
        let (head, body) = request.into_parts();
        repeat(slot, head, Kept::new(body), Way { home, dial, spares }).await
    })
}

/// How a request gets to another connection.
struct Way<D, B> {
    home: Home<B>,
    dial: D,
    spares: Spares,
}

/// Sends the request, and again for as long as backends say that they have not looked at it.
async fn repeat<D, B>(
    mut slot: Slot<B>,
    head: Parts,
    mut body: Kept<B>,
    mut way: Way<D, B>,
) -> Result<Response<PooledBody<B>>, BoxError>
where
    D: Dials,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    loop {
        let send = slot.conn.send.clone();
        let stream = Arc::new(Stream::new(slot.room));
        let silence = IdleTimer::new(way.home.pool.settings.response_timeout);
        let mut answer = Box::new(SharedAnswer { stream, silence });
        let (upload, returned) = H2Upload::new(body, Arc::clone(&answer.stream));
        let request = Request::from_parts(head.clone(), upload);
        let failed = match exchange(send, &mut answer, request).await {
            Ok(response) => {
                answer.stream.note_answer();
                return accept(response, |body| PooledBody::shared(body, answer));
            }
            Err(failed) => failed,
        };
        let (unsent, error) = sort(*failed, &answer)?;
        drop(answer);
        let kept = timeout(RETURN, returned).await.ok().and_then(Result::ok);
        let Some(kept) = kept.and_then(Kept::rewound) else {
            return Err(Unanswered::new(error).into());
        };
        body = match kept.untouched() {
            Ok(body) => {
                let request = Request::from_parts(head, body);
                let spare = match unsent {
                    true => way.spares.spend_for_stale(),
                    false => way.spares.spend_for_unread(),
                };
                if !spare {
                    return Err(NotSent::new(request, error.into()).into());
                }
                tracing::debug!(backend = %way.home.backend.name(), %error, "on another connection");
                return replace(request, way.home, way.dial, way.spares).await;
            }
            Err(kept) => kept,
        };
        if !way.spares.spend_for_unread() {
            return Err(Unanswered::new(error).into());
        }
        tracing::debug!(backend = %way.home.backend.name(), %error, "sent again");
        slot = match obtain(way.dial.clone(), way.home.clone()).await {
            Ok(Line::Shared(slot)) => slot,
            // What has been taken of the body can be sent again over HTTP/2 alone.
            Ok(Line::Own(entry)) => {
                drop(way.home.take_back(entry));
                return Err(Unanswered::new(error).into());
            }
            Err(error) => return Err(Unanswered::new(error).into()),
        };
    }
}

type Failed<B> = Result<TrySendError<Request<H2Upload<B>>>, SendError>;

/// Sends the request and waits for the response's head, for as long as the backend may be silent.
async fn exchange<B>(
    mut send: SendRequest<H2Upload<B>>,
    answer: &mut SharedAnswer,
    request: Request<H2Upload<B>>,
) -> Result<Response<Incoming>, Box<Failed<B>>>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let mut response = pin!(send.try_send_request(request));
    poll_fn(|cx| {
        if let Poll::Ready(result) = response.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(|error| Box::new(Ok(error))));
        }
        answer.poll_silence(cx).map(|error| Err(Box::new(Err(error))))
    })
    .await
}

/// The reason, if the backend has not looked at the request, and whether nothing of it was sent;
/// otherwise the error that says how far it got.
fn sort<B>(failed: Failed<B>, answer: &SharedAnswer) -> Result<(bool, SendError), BoxError> {
    let mut broken = failed?;
    let unsent = broken.take_message().is_some();
    let error = broken.into_error();
    let (unread, unanswered) = (is_unread(&error, &answer.stream), is_unanswered(&error));
    if let Some(client) = answer.stream.take_client_error() {
        return Err(BadRequest::new(SendError::Connection(client)).into());
    }
    let error = SendError::Connection(error.into());
    match unsent || unread {
        true => Ok((unsent, error)),
        false if unanswered => Err(Unanswered::new(error).into()),
        false => Err(error.into()),
    }
}

/// Whether the backend says that it has not looked at the request: it has refused the stream (RFC
/// 9113 §8.7), or goes away and counts only streams before it (§6.8).
///
/// When the backend ends the connection after a GOAWAY, those whose streams do count get the same
/// error. So it is certain only before that. (This side ends it when it has no streams left.)
fn is_unread(error: &hyper::Error, stream: &Stream) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    source.filter(|error| error.is_remote()).is_some_and(|error| {
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        refused || error.is_go_away() && !stream.has_lost_connection()
    })
}

/// Whether the backend has said nothing to the request.
fn is_unanswered(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else {
        return true;
    };
    error.is_io() || error.is_remote() && error.is_go_away()
}

/// hyper drops a body soon after its stream has ended.
const RETURN: Duration = Duration::from_secs(1);
