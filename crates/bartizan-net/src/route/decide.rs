//! Routes that a service decides on.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower::util::Oneshot;
use tower_service::Service;

use crate::{BoxError, Conn, ConnInfo};

/// Asks a service, for each connection, which service it goes to.
///
/// The question is all that is known of the connection: its [`ClientHello`](crate::ClientHello) if
/// it is TLS, the client's address, a PROXY header. The answer is a connection service. A decision
/// that fails, or that is not there in time (10 s unless [set](Self::timeout)), ends the connection.
///
/// Always ready. Cancel safe: dropping the future drops the question.
#[derive(Clone, Debug)]
pub struct Decide<D> {
    decision: D,
    timeout: Duration,
}

impl<D> Decide<D> {
    /// Asks `decision`, a service from [`ConnInfo`] to connection services.
    pub fn new(decision: D) -> Self {
        Self { decision, timeout: TIMEOUT }
    }

    /// Waits for at most `limit` for a decision.
    pub fn timeout(self, limit: Duration) -> Self {
        Self { timeout: limit, ..self }
    }
}

impl<D, S, IO> Service<Conn<IO>> for Decide<D>
where
    D: Service<ConnInfo, Response = S> + Clone,
    D::Error: Into<BoxError>,
    S: Service<Conn<IO>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = DecideError;
    type Future = DecideFuture<D, S, IO>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DecideError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, conn: Conn<IO>) -> Self::Future {
        let decision = Oneshot::new(self.decision.clone(), conn.info().clone());
        let limit = self.timeout;
        let deadline = Box::pin(sleep(limit));
        DecideFuture { state: State::Decide { decision, conn: Some(conn), deadline, limit } }
    }
}

pin_project! {
    /// Resolves to the answer of the service that was decided on.
    #[must_use = "futures do nothing unless polled"]
    pub struct DecideFuture<D, S, IO>
    where
        D: Service<ConnInfo>,
        S: Service<Conn<IO>>,
    {
        #[pin]
        state: State<D, S, IO>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<D, S, IO>
    where
        D: Service<ConnInfo>,
        S: Service<Conn<IO>>,
    {
        Decide {
            #[pin]
            decision: Oneshot<D, ConnInfo>,
            conn: Option<Conn<IO>>,
            deadline: Pin<Box<Sleep>>,
            limit: Duration,
        },
        Serve { #[pin] answer: Oneshot<S, Conn<IO>> },
    }
}

impl<D, S, IO> fmt::Debug for DecideFuture<D, S, IO>
where
    D: Service<ConnInfo>,
    S: Service<Conn<IO>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecideFuture").finish_non_exhaustive()
    }
}

impl<D, S, IO> Future for DecideFuture<D, S, IO>
where
    D: Service<ConnInfo, Response = S>,
    D::Error: Into<BoxError>,
    S: Service<Conn<IO>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, DecideError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let answer = match this.state.as_mut().project() {
                StateProj::Serve { answer } => {
                    let answer = ready!(answer.poll(cx));
                    return Poll::Ready(answer.map_err(|e| DecideError::Inner(e.into())));
                }
                StateProj::Decide { decision, conn, deadline, limit } => match decision.poll(cx) {
                    Poll::Ready(Ok(service)) => {
                        Oneshot::new(service, conn.take().expect("decided once"))
                    }
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(DecideError::Failed(error.into())));
                    }
                    Poll::Pending => {
                        ready!(deadline.as_mut().poll(cx));
                        return Poll::Ready(Err(DecideError::Timeout { limit: *limit }));
                    }
                },
            };
            this.state.set(State::Serve { answer });
        }
    }
}

/// Why a connection that was to be [decided](Decide) on ended with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecideError {
    /// The deciding service failed.
    #[error("no decision where the connection goes")]
    Failed(#[source] BoxError),
    /// The deciding service took too long.
    #[error("no decision where the connection goes within {limit:?}")]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// The service that was decided on failed.
    #[error(transparent)]
    Inner(BoxError),
}

/// As long as a whole handshake may take.
const TIMEOUT: Duration = Duration::from_secs(10);
