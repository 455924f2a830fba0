//! The proof that a pick is in flight.

use std::sync::Arc;

use crate::Backend;

/// Counts as in flight at its backend for as long as it lives.
///
/// It holds the backend itself, so the count is right across every rebuild of the table. For a
/// request it lives until the end of the response's body, for a connection until that is closed.
#[derive(Debug)]
#[must_use = "dropped, it counts as done"]
pub struct Lease {
    backend: Arc<Backend>,
}

impl Lease {
    /// Counts one more in flight at `backend`.
    pub fn new(backend: Arc<Backend>) -> Self {
        backend.load.take();
        Self { backend }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.load.give_back();
    }
}
