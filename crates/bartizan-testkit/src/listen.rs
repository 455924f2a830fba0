//! The accept loop that all backends share.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// What a backend has seen since it was started.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub connections: u64,
    /// Connections accepted that the backend has not closed, and whose peer's close it has not
    /// noticed.
    pub open: u64,
    /// Request heads received in full.
    pub requests: u64,
}

/// The counts as the connections of one backend share them.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    counts: Arc<watch::Sender<Counts>>,
}

impl Counter {
    pub(crate) fn new() -> Self {
        Self { counts: Arc::new(watch::Sender::new(Counts::default())) }
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    pub(crate) async fn until(&self, condition: impl FnMut(&Counts) -> bool) -> Counts {
        // `self` holds the sender, so the wait cannot end by its drop.
        *self.counts.subscribe().wait_for(condition).await.unwrap()
    }

    pub(crate) fn request(&self) {
        self.counts.send_modify(|counts| counts.requests += 1);
    }

    fn connection(&self) -> Open {
        self.counts.send_modify(|counts| {
            counts.connections += 1;
            counts.open += 1;
        });
        Open { counter: self.clone() }
    }
}

/// A connection is open for as long as this is held, whichever way its task ends.
struct Open {
    counter: Counter,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counter.counts.send_modify(|counts| counts.open -= 1);
    }
}

/// A listener with its connections, each in a task of its own.
#[derive(Debug)]
pub(crate) struct Acceptor {
    addr: SocketAddr,
    counter: Counter,
    /// Its drop ends the accept loop.
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Acceptor {
    /// Accepts from `listener` and serves each connection in its own task.
    pub(crate) fn spawn<F, Fut>(listener: TcpListener, counter: Counter, serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept(listener, counter.clone(), serve, stopped));
        Self { addr, counter, stop, task }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn counter(&self) -> &Counter {
        &self.counter
    }

    /// Closes the listener and all connections; all are closed when this returns.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        // Fails only if the runtime is gone, and the task with it.
        let _ = self.task.await;
    }
}

/// Listens on `addr`, which may have been listened on a moment ago.
///
/// # Panics
///
/// If it cannot.
pub(crate) fn bind(addr: SocketAddr) -> TcpListener {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
    // Connections of the backend that was here before are still in TIME_WAIT.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap_or_else(|e| panic!("cannot bind {addr}: {e}"));
    socket.listen(BACKLOG).unwrap()
}

async fn accept<F, Fut>(
    listener: TcpListener,
    counter: Counter,
    serve: F,
    mut stop: oneshot::Receiver<()>,
) where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Delayed small writes would blur what a test measures or provokes.
                    let _ = stream.set_nodelay(true);
                    let open = counter.connection();
                    let connection = serve(stream);
                    connections.spawn(async move {
                        connection.await;
                        drop(open);
                    });
                }
                // Out of descriptors, say: others will be closed, and then it goes on.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            // Reaps, so that a long run does not pile up the results of finished tasks.
            Some(_) = connections.join_next() => {}
            _ = &mut stop => break,
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Enough for a load generator that opens all its connections at once.
const BACKLOG: u32 = 4096;

/// Long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::{Acceptor, Counter, bind};

    fn holding() -> Acceptor {
        let listener = bind("127.0.0.1:0".parse().unwrap());
        Acceptor::spawn(listener, Counter::new(), |stream| async move {
            let _held = stream;
            pending().await
        })
    }

    #[tokio::test]
    async fn stopping_closes_the_listener_and_every_connection() {
        let acceptor = holding();
        let addr = acceptor.addr();
        let counter = acceptor.counter().clone();
        let mut client = TcpStream::connect(addr).await.unwrap();
        counter.until(|counts| counts.open == 1).await;

        acceptor.stop().await;

        assert_eq!(counter.counts().open, 0);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(TcpStream::connect(addr).await.is_err());
    }

    #[tokio::test]
    async fn dropping_closes_them_too() {
        let acceptor = holding();
        let counter = acceptor.counter().clone();
        let mut client = TcpStream::connect(acceptor.addr()).await.unwrap();
        counter.until(|counts| counts.open == 1).await;

        drop(acceptor);

        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn the_port_is_free_again_after_a_stop_with_connections() {
        let acceptor = holding();
        let addr = acceptor.addr();
        let _client = TcpStream::connect(addr).await.unwrap();
        acceptor.counter().until(|counts| counts.connections == 1).await;

        acceptor.stop().await;

        assert_eq!(bind(addr).local_addr().unwrap(), addr);
    }

    #[tokio::test]
    async fn connections_are_served_side_by_side_and_counted() {
        let acceptor = holding();
        let _one = TcpStream::connect(acceptor.addr()).await.unwrap();
        let _two = TcpStream::connect(acceptor.addr()).await.unwrap();

        let counts = acceptor.counter().until(|counts| counts.open == 2).await;

        assert_eq!((counts.connections, counts.requests), (2, 0));
    }
}
