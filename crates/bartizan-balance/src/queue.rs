//! Requests that wait for a free slot.

use std::sync::Arc;

use crate::cluster::ClusterLoad;

/// Who waits for the backends of a cluster.
#[derive(Debug)]
pub(crate) struct Queue {
    length: usize,
    load: Arc<ClusterLoad>,
}

impl Queue {
    pub(crate) fn new(length: usize, load: Arc<ClusterLoad>) -> Self {
        Self { length, load }
    }
}
