//! The thread that signing services run on.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// A thread with a small runtime: started at the first use, ended when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Driver {
    started: Mutex<Option<Started>>,
}

#[derive(Debug)]
struct Started {
    handle: Handle,
    // Dropped, it ends the thread.
    _running: oneshot::Sender<()>,
}

impl Driver {
    pub(super) fn spawn(
        &self,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<AbortHandle> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let running = match &mut *started {
            Some(running) => running,
            // An error is not kept: threads and descriptors may be had later.
            none => none.insert(start()?),
        };
        Ok(running.handle.spawn(future).abort_handle())
    }
}

fn start() -> io::Result<Started> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (running, end) = oneshot::channel::<()>();
    // An end by the drop of the sender is an end.
    let run = move || drop(runtime.block_on(end));
    thread::Builder::new().name("tls-signer".to_owned()).spawn(run)?;
    Ok(Started { handle, _running: running })
}

thread_local! {
    /// The driver of the runtime that a handshake thread belongs to.
    static CURRENT: RefCell<Option<Arc<Driver>>> = const { RefCell::new(None) };
}

/// Makes `driver` the one of this thread, for as long as it runs.
pub(super) fn set_current(driver: Arc<Driver>) {
    CURRENT.set(Some(driver));
}

/// The driver of this thread, if it is a handshake thread.
pub(super) fn current() -> Option<Arc<Driver>> {
    CURRENT.with_borrow(Clone::clone)
}
