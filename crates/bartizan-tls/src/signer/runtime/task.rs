//! One handshake on its way through the queue.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle;

use super::Queue;

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A future, in the queue at most once and polled by at most one thread.
///
/// ```text
/// Idle ─ woken ─▶ Queued ─▶ Running ─ polled ─▶ Idle
///                   ▲          └ woken ─▶ Woken ─ polled ┐
///                   └────────────────────────────────────┘
/// ```
pub(super) struct Task {
    /// Locked while it is polled. `None` once it is done or cancelled.
    future: Mutex<Option<BoxFuture>>,
    stage: AtomicU8,
    cancelled: AtomicBool,
    /// Where its timers belong: a transport may start some.
    origin: Option<Handle>,
    queue: Arc<Queue>,
}

impl Task {
    pub(super) fn new(future: BoxFuture, origin: Option<Handle>, queue: Arc<Queue>) -> Arc<Self> {
        Arc::new(Self {
            future: Mutex::new(Some(future)),
            stage: AtomicU8::new(IDLE),
            cancelled: AtomicBool::new(false),
            origin,
            queue,
        })
    }

    pub(super) fn schedule(self: &Arc<Self>) {
        // A task that is being polled is not queued: a second thread would wait for the first, so a
        // client could block two by sending while its signature is made.
        let next = |stage| match stage {
            IDLE => Some(QUEUED),
            RUNNING => Some(WOKEN),
            _ => None,
        };
        let was = self.stage.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        if was == Ok(IDLE) {
            self.queue.push(Arc::clone(self));
        }
    }

    /// Polls once. A panic ends the task, not the thread.
    pub(super) fn run(self: &Arc<Self>) {
        self.stage.store(RUNNING, Ordering::SeqCst);
        let polled = catch_unwind(AssertUnwindSafe(|| self.poll()));
        // It may have been cancelled while it was locked here.
        if polled.is_err() || self.cancelled.load(Ordering::SeqCst) {
            // Whoever waits hears of a panic, because its sender goes with the future.
            let _ = catch_unwind(AssertUnwindSafe(|| self.take()));
        }
        let idle =
            self.stage.compare_exchange(RUNNING, IDLE, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !idle {
            self.stage.store(QUEUED, Ordering::SeqCst);
            self.queue.push(Arc::clone(self));
        }
    }

    /// Drops the future: here, or as soon as it is not polled any more.
    pub(super) fn cancel(&self) {
        // The flag first: whoever polls looks at it once the lock is free.
        self.cancelled.store(true, Ordering::SeqCst);
        self.take();
    }

    fn poll(self: &Arc<Self>) {
        let mut slot = self.future.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(future) = &mut *slot else { return };
        let _entered = self.origin.as_ref().map(Handle::enter);
        let waker = Waker::from(Arc::clone(self));
        if future.as_mut().poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
            *slot = None;
        }
    }

    fn take(&self) {
        let future = match self.future.try_lock() {
            Ok(mut future) => future.take(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        // Once the lock is free: the end of a transport may do anything.
        drop(future);
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.schedule();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.schedule();
    }
}

const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const WOKEN: u8 = 3;
