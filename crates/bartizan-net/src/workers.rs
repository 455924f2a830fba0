//! One runtime, listener and stack per core.

use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;
use tower_service::Service;

use crate::{BindError, BoxError, Conn, Drain, ServeError, listen, serve};

/// Runs a connection stack on several threads that share nothing but what you hand them.
///
/// Each worker has a current-thread runtime, its own listening sockets (SO_REUSEPORT) and its own
/// stack, made on its thread. So a stack need not be `Send`, its pools and counters need no locks
/// across cores, and a connection stays where it was accepted.
///
/// ```no_run
/// # use bartizan_net::{Conn, Drain, Workers};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let workers = Workers::bind(["127.0.0.1:7000".parse()?], 0)?;
/// println!("listening on {:?}", workers.local_addrs());
/// workers.run(|_worker| {
///     tower::service_fn(|conn: Conn<tokio::net::TcpStream>| async move {
///         conn.io().try_write(b"hello\n").map(drop)
///     })
/// })?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Workers {
    // One row per worker, one column per address.
    listeners: Vec<Vec<TcpListener>>,
    addrs: Vec<SocketAddr>,
    drain: Drain,
    max_connections: Option<usize>,
}

/// What a stack's factory is told of the worker that it makes a stack for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Worker {
    /// From 0, counting the workers.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Workers {
    /// Binds all `addrs` for `count` workers; 0 means one per core that this process may use.
    ///
    /// # Errors
    ///
    /// [`BindError`] for the first address that cannot be listened on.
    pub fn bind(
        addrs: impl IntoIterator<Item = SocketAddr>,
        count: usize,
    ) -> Result<Self, BindError> {
        let count = match count {
            0 => thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let mut listeners: Vec<Vec<TcpListener>> = (0..count).map(|_| Vec::new()).collect();
        let mut bound = Vec::new();
        for addr in addrs {
            for (worker, socket) in listen(addr, count)?.into_iter().enumerate() {
                if worker == 0 {
                    bound.push(socket.local_addr().unwrap_or(addr));
                }
                listeners[worker].push(socket);
            }
        }
        Ok(Self { listeners, addrs: bound, drain: Drain::new(), max_connections: None })
    }

    /// The addresses listened on, with the ports that the system gave for port 0.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.listeners.len()
    }

    /// Obeys `drain`, as [`Serve::with_drain`](crate::Serve::with_drain) says.
    pub fn with_drain(self, drain: Drain) -> Self {
        Self { drain, ..self }
    }

    /// Holds at most `count` connections open in all. Default: no limit but the descriptors'.
    ///
    /// Each worker and address gets an equal part, rounded up: a limit shared by all would let a
    /// full worker's queue starve while another has room.
    pub fn max_connections(self, count: usize) -> Self {
        Self { max_connections: Some(count), ..self }
    }

    /// Runs the workers, and returns when all of them are done: after a drain, or with the first
    /// error.
    ///
    /// `stack` is called once on each worker's thread, inside its runtime.
    ///
    /// # Errors
    ///
    /// [`WorkersError`]. An error of one worker drains the others without grace.
    pub fn run<F, S>(self, stack: F) -> Result<(), WorkersError>
    where
        F: Fn(Worker) -> S + Send + Sync,
        S: Service<Conn<tokio::net::TcpStream>> + Clone + 'static,
        S::Error: Into<BoxError>,
    {
        let count = self.count();
        let share = self.max_connections.map(|n| n.div_ceil(count * self.addrs.len().max(1)));
        let (drain, stack) = (&self.drain, &stack);
        // At once, by whoever finds out: the threads are joined in order, and the first may be well.
        let failed = move |_: &WorkersError| drain.advance(crate::Phase::Closing);
        thread::scope(|scope| {
            let workers: Vec<_> = (self.listeners.into_iter().enumerate())
                .map(|(index, sockets)| {
                    let stack = move || stack(Worker { index, count });
                    let work = move || {
                        let caught =
                            catch_unwind(AssertUnwindSafe(|| work(sockets, drain, share, stack)));
                        caught.unwrap_or(Err(WorkersError::Panicked)).inspect_err(failed)
                    };
                    let thread = thread::Builder::new().name(format!("bartizan-{index}"));
                    let started = thread.spawn_scoped(scope, work);
                    started.map_err(WorkersError::Start).inspect_err(failed)
                })
                .collect();
            let mut first = Ok(());
            for worker in workers {
                let done = worker.and_then(|w| w.join().unwrap_or(Err(WorkersError::Panicked)));
                first = first.and(done);
            }
            first
        })
    }
}

fn work<S>(
    sockets: Vec<TcpListener>,
    drain: &Drain,
    share: Option<usize>,
    stack: impl FnOnce() -> S,
) -> Result<(), WorkersError>
where
    S: Service<Conn<tokio::net::TcpStream>> + Clone + 'static,
    S::Error: Into<BoxError>,
{
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .map_err(WorkersError::Start)?;
    runtime.block_on(async {
        let stack = stack();
        let mut loops = JoinSet::new();
        for socket in sockets {
            let listener =
                tokio::net::TcpListener::from_std(socket).map_err(WorkersError::Start)?;
            let mut serve = serve(listener, stack.clone()).with_drain(drain.clone()).local();
            if let Some(share) = share {
                serve = serve.max_connections(share);
            }
            loops.spawn_local(serve.into_future());
        }
        drop(stack);
        while let Some(done) = loops.join_next().await {
            done.map_err(|_| WorkersError::Panicked)?.map_err(WorkersError::Serve)?;
        }
        Ok(())
    })
}

/// Why [`Workers::run`] ended before its drain did.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// The system gave no thread, no event queue, or no place in it for a listener.
    #[error("cannot start a worker")]
    Start(#[source] std::io::Error),

    /// An accept loop ended.
    #[error(transparent)]
    Serve(ServeError),

    /// A worker's thread or accept loop panicked: a defect.
    #[error("a worker panicked")]
    Panicked,
}

#[cfg(test)]
mod tests;
