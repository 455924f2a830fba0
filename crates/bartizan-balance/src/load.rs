//! What a backend has to do at the moment.

use std::num::NonZeroUsize;

use crate::sync::{AtomicUsize, Ordering};

/// Counts of what is in flight at a backend, and of what waits for it.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: AtomicUsize,
    queued: AtomicUsize,
}

impl Load {
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Counts one more in flight, whatever the limit.
    pub(crate) fn take(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one more in flight, unless there are as many as `limit` already.
    pub(crate) fn try_take(&self, limit: Option<NonZeroUsize>) -> bool {
        let Some(limit) = limit else {
            self.take();
            return true;
        };
        // In one order with the count of those who wait, or a waiter and a slot that has just
        // become free might miss each other.
        let more = |n: usize| (n < limit.get()).then_some(n + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// One is done.
    pub(crate) fn give_back(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn enqueued(&self) {
        self.queued.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dequeued(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }
}
