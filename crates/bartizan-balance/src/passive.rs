//! What requests show of backends.

use std::sync::Arc;
use std::time::Instant;

use crate::{Backend, Cluster, Outcome};

/// Judges backends by what becomes of picks.
#[derive(Debug)]
pub(crate) struct Passive {}

impl Passive {
    /// Takes an outcome in, on the thread of the request. Must be quick.
    pub(crate) fn note(
        &self,
        cluster: &Cluster,
        backend: &Arc<Backend>,
        outcome: Outcome,
        now: Instant,
    ) {
        let _ = (cluster, backend, outcome, now);
    }
}
