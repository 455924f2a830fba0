//! Sending one request over an HTTP/2 connection.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_balance::{Backend, NotSent, Unanswered};
use bartizan_net::{BoxError, DialledStream, IdleTimer, Target};
use h2::Reason;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::SendRequest;
use tower_service::Service;

use super::Slot;
use super::stream::{H2Upload, Stream};
use crate::SendError;
use crate::headers::to_h2;
use crate::pool::conn::{Home, Spares, accept, replace};
use crate::pool::{PooledBody, SendFuture};

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
    D: Service<Arc<Backend>, Response: DialledStream>,
    D: Clone + Send + 'static,
    D::Future: Send,
    D::Error: Into<BoxError>,
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
        to_h2(&mut request, home.backend.address(), slot.conn.secure)?;
        let send = slot.conn.send.clone();
        let stream = Arc::new(Stream::new(slot.room));
        let silence = IdleTimer::new(home.pool.settings.response_timeout);
        let mut answer = Box::new(SharedAnswer { stream, silence });
        let failed = match exchange(send, &mut answer, request).await {
            Ok(response) => return accept(response, |body| PooledBody::shared(body, answer)),
            Err(failed) => failed,
        };
        let (request, error) = sort(*failed, &answer)?;
        drop(answer);
        if !spares.spend_for_stale() {
            return Err(NotSent::new(request, error.into()).into());
        }
        tracing::debug!(backend = %home.backend.name(), %error, "on another connection");
        replace(request, home, dial, spares).await
    })
}

type Failed<B> = Result<TrySendError<Request<H2Upload<B>>>, SendError>;

/// Sends the request and waits for the response's head, for as long as the backend may be silent.
async fn exchange<B>(
    mut send: SendRequest<H2Upload<B>>,
    answer: &mut SharedAnswer,
    request: Request<B>,
) -> Result<Response<Incoming>, Box<Failed<B>>>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let request = request.map(|body| H2Upload::new(body, Arc::clone(&answer.stream)));
    let mut response = pin!(send.try_send_request(request));
    poll_fn(|cx| {
        if let Poll::Ready(result) = response.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(|error| Box::new(Ok(error))));
        }
        answer.poll_silence(cx).map(|error| Err(Box::new(Err(error))))
    })
    .await
}

/// The request, if nothing of it was sent; otherwise the error that says how far it got.
fn sort<B>(failed: Failed<B>, answer: &SharedAnswer) -> Result<(Request<B>, SendError), BoxError> {
    let mut broken = failed?;
    let unsent = broken.take_message();
    let error = broken.into_error();
    let unanswered = is_unanswered(&error);
    let client = answer.stream.take_client_error();
    if let Some(client) = client {
        return Err(SendError::Connection(client).into());
    }
    let error = SendError::Connection(error.into());
    match unsent {
        Some(request) => Ok((request.map(H2Upload::into_body), error)),
        None if unanswered => Err(Unanswered::new(error).into()),
        None => Err(error.into()),
    }
}

/// Whether the backend has said nothing to the request, or that it has not looked at it
/// (RFC 9113 §6.8, §8.7).
fn is_unanswered(error: &hyper::Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<h2::Error>()) else {
        return true;
    };
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    let cut_off = error.is_go_away() && error.is_remote();
    error.is_io() || error.is_remote() && (refused || cut_off)
}
