//! The slot of the one request at a time that tries a backend whose ejection is over.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A trial of one backend.
#[derive(Debug, Default)]
pub(crate) struct Trial {
    busy: AtomicBool,
    // Requests that went well in this trial.
    passed: AtomicU32,
}

impl Trial {
    /// Takes the slot, if it is free.
    pub(crate) fn take(&self) -> bool {
        // To look first costs nothing where many come by while one is on its way.
        !self.busy.load(Ordering::Relaxed) && !self.busy.swap(true, Ordering::Acquire)
    }

    /// Whether somebody has the slot.
    pub(crate) fn is_taken(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Gives the slot back.
    pub(crate) fn give_back(&self) {
        self.busy.store(false, Ordering::Release);
    }

    /// One more request has gone well. Returns how many that makes.
    pub(super) fn passed(&self) -> u32 {
        self.passed.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// The next trial begins with nothing.
    pub(super) fn reset(&self) {
        self.passed.store(0, Ordering::Relaxed);
    }
}
