//! The accept loop.

use std::future::{Future, IntoFuture, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{io, mem};

use pin_project_lite::pin_project;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    BoxError, Conn, ConnInfo, Drain, DrainWatch, ErrorChain, Listener, LocalSpawn, Phase, Spawn,
    TokioSpawn,
};

/// Calls `service` with each connection that `listener` accepts.
///
/// Await what it returns. It ends when its [`Drain`] has stopped it and all connections are done;
/// without a drain, never. Each connection runs in a task of its own. Its error, if it has one, is
/// a tracing event at debug level: layers report what an operator should know of themselves.
///
/// The service's readiness is asked before accepting, so a limit on the service lets further
/// connections wait in the kernel's queue. A want of descriptors or memory (`EMFILE`, `ENFILE`,
/// `ENOBUFS`, `ENOMEM`) pauses accepting for 5 ms, doubling up to 100 ms, with a log line at most
/// every 10 s.
///
/// Dropping the future stops accepting; connections in flight go on.
pub fn serve<L, S>(listener: L, service: S) -> Serve<L, S> {
    Serve { listener, service, drain: Drain::new(), max_connections: None, spawn: TokioSpawn }
}

/// An accept loop to be awaited. See [`serve`].
#[derive(Debug)]
#[must_use = "nothing is accepted until this is awaited"]
pub struct Serve<L, S, X = TokioSpawn> {
    listener: L,
    service: S,
    drain: Drain,
    max_connections: Option<usize>,
    spawn: X,
}

impl<L, S, X> Serve<L, S, X> {
    /// Obeys `drain`: connections can observe it, accepting ends with phase
    /// [`Stopped`](Phase::Stopped) once the kernel's queue is empty, and what is left in phase
    /// [`Closing`](Phase::Closing) is dropped.
    pub fn with_drain(self, drain: Drain) -> Self {
        Self { drain, ..self }
    }

    /// Holds at most `count` connections open (at least 1); accepting pauses meanwhile, and further
    /// ones wait in the kernel's queue. Default: no limit but the descriptors'.
    pub fn max_connections(self, count: usize) -> Self {
        Self { max_connections: Some(count.clamp(1, Semaphore::MAX_PERMITS)), ..self }
    }

    /// Runs connections on this thread, so that the service need not be `Send`. For runtimes that
    /// stay on one thread.
    pub fn local(self) -> Serve<L, S, LocalSpawn> {
        let Self { listener, service, drain, max_connections, .. } = self;
        Serve { listener, service, drain, max_connections, spawn: LocalSpawn }
    }

    async fn run<IO>(mut self) -> Result<(), ServeError>
    where
        L: Listener<Io = IO>,
        S: Service<Conn<IO>> + Clone,
        S::Error: Into<BoxError>,
        X: Spawn<Connection<IO, S, Held>>,
    {
        let mut door = Door::new(self.max_connections, self.drain.watch());
        let mut closing = self.drain.watch();
        // Each connection holds a sender; when all are gone, so is the last connection.
        let (open, mut all_closed) = mpsc::channel::<()>(1);
        loop {
            let next = async {
                let permit = door.permit().await;
                poll_fn(|cx| self.service.poll_ready(cx)).await.map_err(|e| e.into())?;
                Ok(door.accept(&mut self.listener).await.map(|accepted| (accepted, permit)))
            };
            let next = tokio::select! {
                biased;
                () = closing.reached(Phase::Closing) => None,
                next = next => next.map_err(ServeError::Service)?,
            };
            let Some(((io, info), permit)) = next else { break };
            // Only this instance has been polled ready; its clone has not.
            let clone = self.service.clone();
            let service = mem::replace(&mut self.service, clone);
            let conn = Conn::new(io, info).with_drain(self.drain.watch());
            self.spawn.spawn(Connection::new(service, conn, (permit, open.clone())));
        }
        drop((self.listener, self.service, open));
        all_closed.recv().await;
        Ok(())
    }
}

impl<L, IO, S> IntoFuture for Serve<L, S, TokioSpawn>
where
    L: Listener<Io = IO> + Send + 'static,
    IO: Send + 'static,
    S: Service<Conn<IO>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    type Output = Result<(), ServeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<L, IO, S> IntoFuture for Serve<L, S, LocalSpawn>
where
    L: Listener<Io = IO> + 'static,
    IO: 'static,
    S: Service<Conn<IO>> + Clone + 'static,
    S::Error: Into<BoxError>,
{
    type Output = Result<(), ServeError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

pin_project! {
    /// One connection's task: calls the service, and ends early when the drain closes.
    struct Connection<IO, S, H>
    where
        S: Service<Conn<IO>>,
    {
        #[pin]
        state: State<S, Conn<IO>, S::Future>,
        peer: SocketAddr,
        closing: DrainWatch,
        // Given back when the connection is done, however it ends.
        held: H,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwned]
    enum State<S, C, F> {
        New { service: S, conn: C },
        Called { #[pin] future: F },
        Gone,
    }
}

impl<IO, S: Service<Conn<IO>>, H> Connection<IO, S, H> {
    fn new(service: S, conn: Conn<IO>, held: H) -> Self {
        let (peer, closing) = (conn.info().peer(), conn.drain());
        Self { state: State::New { service, conn }, peer, closing, held }
    }
}

impl<IO, S, H> Future for Connection<IO, S, H>
where
    S: Service<Conn<IO>>,
    S::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        if let StateProj::New { .. } = this.state.as_mut().project()
            && let StateOwned::New { mut service, conn } =
                this.state.as_mut().project_replace(State::Gone)
        {
            let future = service.call(conn);
            this.state.set(State::Called { future });
        }
        let StateProj::Called { future } = this.state.as_mut().project() else {
            return Poll::Ready(());
        };
        match future.poll(cx) {
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => {
                let error: BoxError = error.into();
                tracing::debug!(peer = %this.peer, error = %ErrorChain(&*error), "connection ended with an error");
            }
            Poll::Pending => {
                ready!(this.closing.poll_reached(Phase::Closing, cx));
                tracing::debug!(peer = %this.peer, "connection closed at the end of the drain");
            }
        }
        this.state.set(State::Gone);
        Poll::Ready(())
    }
}

/// A connection's place under the cap, and its part in keeping `serve` waiting.
type Held = (Option<OwnedSemaphorePermit>, mpsc::Sender<()>);

/// The accept side: the connection cap, the back-off, the end.
#[derive(Debug)]
struct Door {
    slots: Option<Arc<Semaphore>>,
    drain: DrainWatch,
    pause: Duration,
    last_log: Option<Instant>,
}

impl Door {
    fn new(max_connections: Option<usize>, drain: DrainWatch) -> Self {
        let slots = max_connections.map(|n| Arc::new(Semaphore::new(n)));
        Self { slots, drain, pause: FIRST_PAUSE, last_log: None }
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed, so `None` only stands for "no cap".
        Arc::clone(self.slots.as_ref()?).acquire_owned().await.ok()
    }

    /// The next connection; `None` once the drain has stopped accepting and nothing is queued.
    async fn accept<L: Listener>(&mut self, listener: &mut L) -> Option<(L::Io, ConnInfo)> {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.reached(Phase::Stopped) => {
                    // Nothing else here waits, and clients may go on to fill the queue.
                    tokio::task::consume_budget().await;
                    match listener.accept_queued() {
                        Ok(queued) => return queued,
                        Err(error) => Err(error),
                    }
                }
                accepted = poll_fn(|cx| listener.poll_accept(cx)) => accepted,
            };
            match accepted {
                Ok(accepted) => {
                    self.pause = FIRST_PAUSE;
                    return Some(accepted);
                }
                Err(error) if is_of_the_peer(&error) => {}
                Err(error) => self.back_off(&error).await,
            }
        }
    }

    async fn back_off(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.last_log.is_none_or(|last| now - last >= LOG_EVERY) {
            self.last_log = Some(now);
            tracing::warn!(%error, "cannot accept connections, trying again");
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether the error is about the one connection that was to be accepted, which is gone.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Why [`serve`] ended before its drain did.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The service's `poll_ready` failed, so it can never be called again.
    #[error("the connection service failed for good")]
    Service(#[source] BoxError),
}

/// Long enough not to spin, short enough to go unnoticed when one descriptor came free.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// The kernel's queue of 4,096 overflows in no less at 40,000 connections a second.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Exhaustion comes and goes with every closed connection; the log must not fill up with it.
const LOG_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
