//! One connection, from its first byte to the end of what serves it.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use super::ClientHelloLayer;
use super::error::{ClientHelloError, HelloError};
use super::hello::ClientHello;
use super::reader::{HelloProgress, HelloReader};
use crate::idle::far;
use crate::{BoxError, Conn, Replay, TlsAlert, TlsRefusal};

pin_project! {
    /// Resolves when the connection passed to [`ReadClientHello`](crate::ReadClientHello) is
    /// finished.
    ///
    /// ```text
    /// Read ─ hello, or not TLS ─▶ Serve
    ///   └ malformed ─▶ Refuse
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct ClientHelloFuture<IO, S>
    where
        S: Service<Conn<Replay<IO>>>,
    {
        #[pin]
        state: State<IO, S::Future>,
        inner: S,
        peer: SocketAddr,
        timeout: Duration,
        // Set when first polled, for that is when the time begins.
        since: Option<Instant>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwned]
    enum State<IO, F> {
        Read { conn: Conn<IO>, reader: HelloReader, #[pin] deadline: Option<Sleep> },
        Refuse { refusal: TlsRefusal<IO>, error: HelloError, #[pin] deadline: Sleep },
        Serve { #[pin] response: F },
        Done,
    }
}

impl<IO, S: Service<Conn<Replay<IO>>>> ClientHelloFuture<IO, S> {
    pub(super) fn new(layer: ClientHelloLayer, inner: S, conn: Conn<IO>) -> Self {
        let peer = conn.info().peer();
        let reader = HelloReader::new(layer.limit);
        let state = State::Read { conn, reader, deadline: None };
        Self { state, inner, peer, timeout: layer.timeout, since: None }
    }
}

impl<IO, S: Service<Conn<Replay<IO>>>> fmt::Debug for ClientHelloFuture<IO, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHelloFuture").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<IO, S> Future for ClientHelloFuture<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service<Conn<Replay<IO>>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, ClientHelloError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let this = self.as_mut().project();
            let since = *this.since.get_or_insert_with(Instant::now);
            let due = far(since, *this.timeout);
            let error = match this.state.project() {
                StateProj::Serve { response } => {
                    let result = ready!(response.poll(cx));
                    return Poll::Ready(result.map_err(|e| ClientHelloError::Handler(e.into())));
                }
                StateProj::Done => return Poll::Pending,
                StateProj::Refuse { refusal, error, deadline } => {
                    if Pin::new(refusal).poll(cx).is_pending() {
                        ready!(deadline.poll(cx));
                    }
                    ClientHelloError::Malformed(error.clone())
                }
                StateProj::Read { conn, reader, mut deadline } => {
                    match poll_hello(conn.io_mut(), reader, cx) {
                        Poll::Ready(Ok(hello)) => {
                            self.as_mut().serve(hello);
                            continue;
                        }
                        Poll::Ready(Err(ClientHelloError::Malformed(error))) => {
                            self.as_mut().refuse(error, due);
                            continue;
                        }
                        Poll::Ready(Err(error)) => error,
                        Poll::Pending => {
                            // Most hellos are there already, and need no timer.
                            if deadline.is_none() {
                                deadline.set(Some(sleep_until(due)));
                            }
                            if let Some(deadline) = deadline.as_pin_mut() {
                                ready!(deadline.poll(cx));
                            }
                            ClientHelloError::Timeout { limit: *this.timeout }
                        }
                    }
                }
            };
            return Poll::Ready(Err(self.fail(error, since)));
        }
    }
}

impl<IO, S: Service<Conn<Replay<IO>>>> ClientHelloFuture<IO, S> {
    /// Passes the connection on, with all that was read of it.
    fn serve(self: Pin<&mut Self>, hello: Option<ClientHello>) {
        let mut this = self.project();
        let StateOwned::Read { mut conn, reader, .. } =
            this.state.as_mut().project_replace(State::Done)
        else {
            return;
        };
        if let Some(hello) = hello {
            conn.info_mut().set_client_hello(Arc::new(hello));
        }
        let conn = conn.map_io(|io| Replay::new(reader.into_bytes(), io));
        this.state.set(State::Serve { response: this.inner.call(conn) });
    }

    fn refuse(self: Pin<&mut Self>, error: HelloError, due: Instant) {
        let mut this = self.project();
        if let StateOwned::Read { conn, .. } = this.state.as_mut().project_replace(State::Done) {
            let refusal = TlsRefusal::new(conn.into_io(), TlsAlert::new(error.alert()));
            this.state.set(State::Refuse { refusal, error, deadline: sleep_until(due) });
        }
    }

    fn fail(self: Pin<&mut Self>, error: ClientHelloError, since: Instant) -> ClientHelloError {
        let peer = tracing::field::display(self.peer);
        let ms = since.elapsed().as_millis() as u64;
        let reason: &dyn fmt::Display = match &error {
            ClientHelloError::Malformed(error) => error,
            ClientHelloError::Transport(error) => error,
            error => error,
        };
        if error.is_noise() {
            // Port scans, probes and closed laptops: a line for each would fill the log.
            tracing::debug!(peer, ms, %reason, "no ClientHello");
        } else {
            tracing::info!(peer, ms, %reason, "no ClientHello");
        }
        error
    }
}

/// Reads until it is known what the client says; `None` if that is not TLS.
fn poll_hello<IO: AsyncRead + Unpin>(
    io: &mut IO,
    reader: &mut HelloReader,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<ClientHello>, ClientHelloError>> {
    // On the stack: a client that has sent nothing then has no buffer, and the others have one that
    // is as long as what they sent.
    let mut bytes = [0; READ];
    loop {
        let room = reader.remaining().min(READ);
        let mut buffer = ReadBuf::new(&mut bytes[..room]);
        ready!(Pin::new(&mut *io).poll_read(cx, &mut buffer))
            .map_err(ClientHelloError::Transport)?;
        if buffer.filled().is_empty() {
            let read = reader.bytes().len();
            return Poll::Ready(Err(ClientHelloError::HungUp { read }));
        }
        match reader.push(buffer.filled()) {
            Ok(HelloProgress::More) => {}
            Ok(HelloProgress::Hello(hello)) => return Poll::Ready(Ok(Some(hello))),
            Ok(HelloProgress::NotTls) => return Poll::Ready(Ok(None)),
            Err(error) => return Poll::Ready(Err(ClientHelloError::Malformed(error))),
        }
    }
}

/// More than a usual hello, which is then read at once.
const READ: usize = 4 * 1024;
