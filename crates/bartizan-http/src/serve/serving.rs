//! One client connection, from its first byte to its last.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_net::{BoxError, Conn, DrainWatch, Phase as DrainPhase};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use super::answer::{Adapter, Answer};
use super::body::{Reply, RequestBody};
use super::limits::Limits;
use super::state::{End, Phase, State};
use super::watched::Watched;
use super::{H2Executor, Settings};

pin_project! {
    /// Resolves when the connection passed to [`ServeHttp`](crate::ServeHttp) is finished.
    #[must_use = "futures do nothing unless polled"]
    pub struct Serving<IO, S, B, X>
    where
        S: Service<Request<RequestBody>, Response = Response<B>>,
        S: Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes>,
    {
        #[pin]
        proto: Proto<IO, S, B, X>,
        state: Arc<State>,
        limits: Limits,
        drain: Option<DrainWatch>,
    }
}

pin_project! {
    #[project = ProtoProj]
    enum Proto<IO, S, B, X>
    where
        S: Service<Request<RequestBody>, Response = Response<B>>,
        S: Clone,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes>,
    {
        H1 { #[pin] conn: http1::Connection<TokioIo<Watched<IO>>, Adapter<S>> },
        H2 { #[pin] conn: http2::Connection<TokioIo<Watched<IO>>, Adapter<S>, H2Executor<X>> },
    }
}

impl<IO, S, B, X> Serving<IO, S, B, X>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
    H2Executor<X>: Http2ServerConnExec<Answer<S>, Reply<B>>,
{
    pub(super) fn new(
        conn: Conn<IO>,
        service: S,
        settings: Settings,
        spawn: H2Executor<X>,
    ) -> Self {
        let (io, info, drain) = conn.into_parts();
        let h2 = info.tls().is_some_and(|tls| tls.is_h2());
        let state = Arc::new(State::new(Arc::new(info), h2));
        let io = TokioIo::new(Watched { io, state: Arc::clone(&state) });
        let client_timeout = settings.client;
        let adapter = Adapter { service, state: Arc::clone(&state), client_timeout };
        let proto = if h2 {
            let mut builder = http2::Builder::new(spawn);
            builder.timer(TokioTimer::new());
            Proto::H2 { conn: builder.serve_connection(io, adapter) }
        } else {
            let mut builder = http1::Builder::new();
            // Our own limits, because hyper's counts an idle connection as one that sends a head.
            builder.header_read_timeout(None).half_close(false);
            Proto::H1 { conn: builder.serve_connection(io, adapter) }
        };
        Self { proto, state, limits: Limits::new(settings), drain: Some(drain) }
    }
}

impl<IO, S, B, X> Future for Serving<IO, S, B, X>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
    H2Executor<X>: Http2ServerConnExec<Answer<S>, Reply<B>>,
{
    type Output = Result<(), ServeHttpError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(drain) = this.drain
            && drain.poll_reached(DrainPhase::Announced, cx).is_ready()
        {
            *this.drain = None;
            this.state.drain();
            this.limits.drain();
            this.proto.as_mut().go_away();
        }
        loop {
            let served = match this.proto.as_mut().project() {
                ProtoProj::H1 { conn } => conn.poll(cx),
                ProtoProj::H2 { conn } => conn.poll(cx),
            };
            if let Poll::Ready(result) = served {
                // An end that was ours is no error of the connection's.
                let ours = this.state.end() != End::No;
                return Poll::Ready(result.or_else(|e| if ours { Ok(()) } else { Err(e.into()) }));
            }
            let Poll::Ready(phase) = this.limits.poll_exceeded(this.state, cx) else {
                return Poll::Pending;
            };
            let end = match phase {
                Phase::Head(_) => End::HeadTimeout,
                Phase::Idle(_) => End::Quiet,
                Phase::Lingering => return Poll::Ready(Ok(())),
                Phase::Stalled(_) | Phase::Busy => {
                    return Poll::Ready(Err(ServeHttpError::Stalled));
                }
            };
            // The second time round, not even the end of the stream has ended it.
            if this.state.end() != End::No {
                return Poll::Ready(Ok(()));
            }
            this.proto.as_mut().go_away();
            this.state.set_end(end);
        }
    }
}

impl<IO, S, B, X> Proto<IO, S, B, X>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
    H2Executor<X>: Http2ServerConnExec<Answer<S>, Reply<B>>,
{
    /// HTTP/2 says GOAWAY. HTTP/1.1 says `connection: close` with its next answer, which hyper
    /// would not wait for: it closes an idle connection while a request may be on its way.
    fn go_away(self: Pin<&mut Self>) {
        if let ProtoProj::H2 { conn } = self.project() {
            conn.graceful_shutdown();
        }
    }
}

impl<IO, S, B, X> fmt::Debug for Serving<IO, S, B, X>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("state", &self.state).finish_non_exhaustive()
    }
}

/// Why a connection given to [`ServeHttp`](crate::ServeHttp) failed. The client's or the network's
/// fault.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ServeHttpError {
    /// The connection broke, or what came over it is not HTTP.
    #[error("serving HTTP failed")]
    Http(#[source] BoxError),

    /// The client did not read what was written to it.
    #[error("the client stopped reading")]
    Stalled,
}

impl From<hyper::Error> for ServeHttpError {
    fn from(error: hyper::Error) -> Self {
        Self::Http(error.into())
    }
}
