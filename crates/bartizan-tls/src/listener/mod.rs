//! A listener of finished TLS connections, for servers that bring their own accept loop.

#[cfg(feature = "axum")]
mod for_axum;
#[cfg(feature = "tonic")]
mod for_tonic;

mod connection;
mod tie;
mod usher;

use std::fmt;
use std::future::{IntoFuture, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bartizan_net::{Drain, Listener, serve};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::{CertStore, TlsTerminateLayer};
use usher::Usher;

pub use connection::{TlsConnInfo, TlsConnection};

/// Accepts TLS connections, with their handshakes done.
///
/// ```no_run
/// # use bartizan_tls::{CertStore, TlsListener};
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let tcp = tokio::net::TcpListener::bind("[::]:443").await?;
/// let mut listener = TlsListener::new(tcp, CertStore::watch("/etc/ssl/certs/site")?);
/// while let Some(connection) = listener.accept().await {
///     println!("{:?}", connection.info().tls());
/// }
/// # Ok(()) }
/// ```
///
/// For servers that accept for themselves: with feature `axum` it is a listener for `axum::serve`,
/// with feature `tonic` its [stream](Self::into_stream) is one for `serve_with_incoming`. A
/// connection service of this project needs none of it, but a [`TlsTerminateLayer`] and [`serve`].
///
/// # Handshakes
///
/// Accepting never awaits a handshake. From the first `accept` on, a task of its own accepts
/// transports as [`serve`] does, back-off included, and each has its handshake in a further one,
/// under the deadline and the fair limit of the [`TlsTerminateLayer`]. One that fails is counted
/// and logged there, and is not seen here.
///
/// # Back-pressure
///
/// Finished connections wait in a queue to be accepted, [`backlog`](Self::backlog) of them. While
/// it is full no transport is accepted, so further clients wait in the kernel's queue. Beyond it
/// there are at most those whose handshakes were under way when it filled up, and the one transport
/// that was awaited then.
///
/// # The end of a connection
///
/// A connection stays under the rules of [`Withdrawal`](crate::Withdrawal) until it is dropped. One
/// that is withdrawn [fails](TlsConnection) when its time is up.
///
/// # Dropping
///
/// Dropping the listener closes it: nothing more is accepted, and handshakes and finished
/// connections that nobody has accepted end. Those that were accepted go on.
pub struct TlsListener<L: Listener = TcpListener> {
    local: Result<SocketAddr, io::ErrorKind>,
    state: State<L>,
}

enum State<L: Listener> {
    // `None` only while it is being started.
    New(Option<Settings<L>>),
    Accepting { queue: mpsc::Receiver<TlsConnection<L::Io>>, task: AbortHandle },
}

struct Settings<L> {
    listener: L,
    layer: TlsTerminateLayer,
    backlog: usize,
    max_connections: Option<usize>,
    drain: Drain,
}

impl<L: Listener> TlsListener<L> {
    /// Serves what is in a store to the clients of `listener`. An [`Identity`](crate::Identity)
    /// makes a store of one.
    ///
    /// The protocols that are agreed on (ALPN) are the store's, `h2` and `http/1.1` by default. A
    /// server that does not speak both needs [`alpn`](crate::CertStoreBuilder::alpn).
    pub fn new(listener: L, certs: impl Into<CertStore>) -> Self {
        Self::with_layer(listener, TlsTerminateLayer::new(certs))
    }

    /// Does handshakes as `layer` says, on which deadline and limits are set.
    pub fn with_layer(listener: L, layer: TlsTerminateLayer) -> Self {
        let local = listener.local_addr().map_err(|error| error.kind());
        let (backlog, max_connections, drain) = (BACKLOG, None, Drain::new());
        let settings = Settings { listener, layer, backlog, max_connections, drain };
        Self { local, state: State::New(Some(settings)) }
    }

    /// Lets `count` finished connections wait to be accepted (at least 1). Default: 128. It, and
    /// what else is set here, has no effect once `accept` was called.
    pub fn backlog(self, count: usize) -> Self {
        self.set(|settings| settings.backlog = count.clamp(1, Semaphore::MAX_PERMITS))
    }

    /// Holds at most `count` connections open (at least 1), those in handshakes and those that were
    /// accepted together. Default: no limit but the descriptors'.
    pub fn max_connections(self, count: usize) -> Self {
        self.set(|settings| settings.max_connections = Some(count))
    }

    /// Stops accepting transports in phase [`Stopped`](bartizan_net::Phase::Stopped), and cuts
    /// every connection that is left in phase [`Closing`](bartizan_net::Phase::Closing).
    ///
    /// The server has its own way to end connections in good order, and is to be told as well.
    pub fn with_drain(self, drain: Drain) -> Self {
        self.set(|settings| settings.drain = drain)
    }

    /// The address that it listens on.
    ///
    /// # Errors
    ///
    /// What the inner listener said when this one was made.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local.map_err(io::Error::from)
    }

    /// All connections, one after another; the stream ends where [`accept`](Self::accept) has none.
    /// No item is ever an error.
    pub fn into_stream(self) -> TlsIncoming<L> {
        TlsIncoming { listener: self }
    }

    fn set(mut self, set: impl FnOnce(&mut Settings<L>)) -> Self {
        if let State::New(Some(settings)) = &mut self.state {
            set(settings);
        }
        self
    }
}

impl<L> TlsListener<L>
where
    L: Listener + Send + 'static,
    L::Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// The next connection. `None` once a drain has stopped accepting and all connections are done;
    /// without a drain, never.
    ///
    /// Cancel safe.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub async fn accept(&mut self) -> Option<TlsConnection<L::Io>> {
        poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`accept`](Self::accept) to be polled.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<TlsConnection<L::Io>>> {
        loop {
            match &mut self.state {
                State::Accepting { queue, .. } => return queue.poll_recv(cx),
                State::New(settings) => match settings.take() {
                    Some(settings) => self.state = settings.start(),
                    // A start has panicked for want of a runtime.
                    None => return Poll::Ready(None),
                },
            }
        }
    }
}

impl<L> Settings<L>
where
    L: Listener + Send + 'static,
    L::Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn start(self) -> State<L> {
        let (finished, queue) = mpsc::channel(self.backlog);
        let mut serve = serve(self.listener, Usher::new(self.layer, finished));
        serve = serve.with_drain(self.drain);
        if let Some(count) = self.max_connections {
            serve = serve.max_connections(count);
        }
        let task = tokio::spawn(serve.into_future()).abort_handle();
        State::Accepting { queue, task }
    }
}

impl<L: Listener> Drop for TlsListener<L> {
    fn drop(&mut self) {
        if let State::Accepting { task, .. } = &self.state {
            // Handshakes hear of it by the queue, which is gone, too.
            task.abort();
        }
    }
}

impl<L: Listener> fmt::Debug for TlsListener<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsListener").field("local_addr", &self.local).finish_non_exhaustive()
    }
}

/// The connections of a [`TlsListener`], as a stream.
#[must_use = "streams do nothing unless polled"]
pub struct TlsIncoming<L: Listener = TcpListener> {
    listener: TlsListener<L>,
}

impl<L: Listener> TlsIncoming<L> {
    /// The address that is listened on.
    ///
    /// # Errors
    ///
    /// As of [`TlsListener::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

// Nothing in it is ever pinned.
impl<L: Listener> Unpin for TlsIncoming<L> {}

impl<L> Stream for TlsIncoming<L>
where
    L: Listener + Send + 'static,
    L::Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Item = io::Result<TlsConnection<L::Io>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let connection = ready!(self.listener.poll_accept(cx));
        Poll::Ready(connection.map(Ok))
    }
}

impl<L: Listener> fmt::Debug for TlsIncoming<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listener.fmt(f)
    }
}

/// A server accepts again within microseconds, unless it is held up; and each one that waits has
/// its transport and its TLS buffers.
const BACKLOG: usize = 128;

#[cfg(test)]
mod tests;
