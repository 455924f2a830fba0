//! A waker that notes that it was called, and passes it on only while somebody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

/// The waker that a backend connection is polled with.
///
/// Whoever uses the connection polls it, so most wake-ups come from that very poll: hyper wakes the
/// connection when a body's frame is taken from it. Passed on, they would run the task once more
/// for nothing. Here they ring, the ring is looked at before waiting, and only who waits is woken.
/// A bell that was not rung also says that a connection in the pool is still as it was left.
#[derive(Debug)]
pub(crate) struct Bell {
    shared: Arc<Shared>,
    waker: Waker,
}

#[derive(Debug)]
struct Shared {
    rung: AtomicBool,
    waiting: AtomicWaker,
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.waiting.wake();
    }
}

impl Bell {
    /// A bell that has been rung: what it is for has never been polled.
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared { rung: AtomicBool::new(true), waiting: AtomicWaker::new() });
        Self { waker: Waker::from(Arc::clone(&shared)), shared }
    }

    /// Nobody waits: rings wake no one from here on.
    pub(crate) fn mute(&self) {
        drop(self.shared.waiting.take());
    }

    /// Rings it without waking anybody: there is something to do.
    pub(crate) fn ring(&self) {
        self.shared.rung.store(true, Ordering::Release);
    }

    /// Whether it has been rung since this was last asked.
    pub(crate) fn was_rung(&self) -> bool {
        self.shared.rung.swap(false, Ordering::AcqRel)
    }

    /// Lets the next ring wake the task. Returns `false` if there was one already: look again.
    pub(crate) fn wait(&self, cx: &Context<'_>) -> bool {
        self.shared.waiting.register(cx.waker());
        if self.shared.rung.load(Ordering::Acquire) {
            self.mute();
            return false;
        }
        true
    }

    /// What to poll with.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::task;

    use super::*;

    #[test]
    fn wakes_only_who_waits() {
        let bell = Bell::new();
        assert!(bell.was_rung() && !bell.was_rung());
        let mut waiter = task::spawn(());
        bell.waker().wake_by_ref();
        assert!(!waiter.is_woken() && bell.was_rung());

        waiter.enter(|cx, _| assert!(bell.wait(cx)));
        bell.waker().wake_by_ref();
        assert!(waiter.is_woken());

        waiter.enter(|cx, _| assert!(!bell.wait(cx), "it was rung"));
        assert!(bell.was_rung());
        waiter.enter(|cx, _| assert!(bell.wait(cx)));
        bell.mute();
        bell.waker().wake_by_ref();
        assert!(!waiter.is_woken());
    }
}
