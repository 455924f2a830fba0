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

/// `tests/loom/run` runs them.
#[cfg(all(test, loom))]
mod loom {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn two_who_want_the_last_slot_do_not_both_get_it() {
        ::loom::model(|| {
            let load = Arc::new(Load::default());
            let other = Arc::clone(&load);
            let thread = ::loom::thread::spawn(move || other.try_take(NonZeroUsize::new(1)));
            let mine = load.try_take(NonZeroUsize::new(1));
            let theirs = thread.join().unwrap();
            assert!(mine != theirs, "exactly one");
            assert_eq!(load.in_flight(), 1);
        });
    }

    #[test]
    fn a_slot_that_is_given_back_is_there_again() {
        ::loom::model(|| {
            let load = Arc::new(Load::default());
            load.take();
            let other = Arc::clone(&load);
            let thread = ::loom::thread::spawn(move || other.give_back());
            let mine = load.try_take(NonZeroUsize::new(1));
            thread.join().unwrap();
            assert_eq!(load.in_flight(), usize::from(mine), "no count is lost");
        });
    }
}
