//! Threads on which handshakes may block.

mod task;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::driver::{self, Driver};
use task::Task;

/// A few threads on which handshakes with a key that lives elsewhere are polled, because they block
/// there until the signature has come.
///
/// A [`TlsTerminateLayer`](crate::TlsTerminateLayer) has one of its own unless it is given another,
/// which others may share; clones are handles of the same. Its threads start with the first such
/// handshake and end with the last handle. Handshakes with keys that are at hand never come here.
///
/// # Fairness and bounds
///
/// Handshakes whose sockets are ready wait in one queue, first come, first served, for whichever
/// thread is free, so a slow signature holds up one thread and no handshake in particular. While
/// all threads are blocked the others wait, each until its own deadline. There are never more than
/// the handshakes in progress, see [`HandshakeLimit`](crate::HandshakeLimit).
///
/// A signer that hangs blocks `threads` handshakes per [deadline](crate::RemoteSigner::timeout): by
/// default two a second. For a signer with latency, such as an HSM, have more threads: `threads`
/// divided by its latency is the most that can be signed a second.
///
/// # Cancellation
///
/// A handshake that is given up is dropped at once, with its connection. One that waits for a
/// signature is dropped when that has come or is late.
#[derive(Clone)]
pub struct HandshakeRuntime {
    owner: Arc<Owner>,
}

impl HandshakeRuntime {
    /// One with 4 threads, of which none is started yet.
    pub fn new() -> Self {
        Self::with_threads(THREADS)
    }

    /// One with `count` threads (at least 1).
    pub fn with_threads(count: usize) -> Self {
        let owner = Owner { queue: Arc::default(), count: count.max(1), started: Mutex::new(0) };
        Self { owner: Arc::new(owner) }
    }
}

impl Default for HandshakeRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HandshakeRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeRuntime").field("threads", &self.owner.count).finish()
    }
}

/// Polls `future` on a thread of `runtime`, where it may block.
///
/// The future's wakers and timers stay those of the tokio runtime that this is called on. Dropping
/// what is returned cancels it.
pub(crate) fn run_handshake<T: Send + 'static>(
    runtime: &HandshakeRuntime,
    future: impl Future<Output = T> + Send + 'static,
) -> RunHandshake<T> {
    if let Err(error) = runtime.owner.start() {
        let state = State::Failed(Some(HandshakeRuntimeError::Start(error)));
        return RunHandshake { state };
    }
    let (done, finished) = oneshot::channel();
    let future = Box::pin(async move {
        // Nobody waits any more.
        let _ = done.send(future.await);
    });
    let task = Task::new(future, Handle::try_current().ok(), Arc::clone(&runtime.owner.queue));
    Task::schedule(&task);
    RunHandshake { state: State::Running { finished, task, _runtime: runtime.clone() } }
}

/// A handshake that runs on other threads.
#[must_use = "dropping it cancels the handshake"]
pub(crate) struct RunHandshake<T> {
    state: State<T>,
}

enum State<T> {
    Failed(Option<HandshakeRuntimeError>),
    Running { finished: oneshot::Receiver<T>, task: Arc<Task>, _runtime: HandshakeRuntime },
}

impl<T> Future for RunHandshake<T> {
    type Output = Result<T, HandshakeRuntimeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Failed(error) => {
                Poll::Ready(Err(error.take().unwrap_or(HandshakeRuntimeError::Panicked)))
            }
            State::Running { finished, .. } => {
                let finished = ready!(Pin::new(finished).poll(cx));
                Poll::Ready(finished.map_err(|_| HandshakeRuntimeError::Panicked))
            }
        }
    }
}

impl<T> Drop for RunHandshake<T> {
    fn drop(&mut self) {
        if let State::Running { task, .. } = &self.state {
            task.cancel();
        }
    }
}

/// A handshake could not be run on threads of its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeRuntimeError {
    /// No thread could be started.
    #[error("no thread for handshakes can be started; see the limits on threads")]
    Start(#[source] io::Error),

    /// The handshake panicked: the transport's fault.
    #[error("the handshake panicked; the panic's message is on standard error")]
    Panicked,
}

/// Ends the threads when it is dropped.
struct Owner {
    queue: Arc<Queue>,
    count: usize,
    started: Mutex<usize>,
}

impl Owner {
    /// Starts the threads that are missing. Fails if there is none after that.
    fn start(&self) -> io::Result<()> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        while *started < self.count {
            let queue = Arc::clone(&self.queue);
            let name = format!("tls-handshake-{started}");
            match thread::Builder::new().name(name).spawn(move || queue.work()) {
                Ok(_) => *started += 1,
                // The next handshake tries again.
                Err(error) if *started == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Tasks that are to be polled.
#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    more: Condvar,
    driver: Arc<Driver>,
}

#[derive(Default)]
struct QueueState {
    ready: VecDeque<Arc<Task>>,
    closed: bool,
}

impl Queue {
    fn push(&self, task: Arc<Task>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.closed {
            state.ready.push_back(task);
            drop(state);
            self.more.notify_one();
        }
    }

    fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        let left = std::mem::take(&mut state.ready);
        drop(state);
        self.more.notify_all();
        drop(left);
    }

    fn next(&self) -> Option<Arc<Task>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(task) = state.ready.pop_front() {
                return Some(task);
            }
            if state.closed {
                return None;
            }
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        driver::set_current(Arc::clone(&self.driver));
        while let Some(task) = self.next() {
            task.run();
        }
    }
}

/// Each blocks for as long as a signature takes, so 4 make 4,000 handshakes a second with a signer
/// that needs a millisecond, which is more than a machine with so few cores can do.
const THREADS: usize = 4;

#[cfg(test)]
mod tests;
