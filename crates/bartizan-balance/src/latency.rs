//! How long a backend takes to answer, by recent experience.

/// Kept by the backend itself, so that it survives rebuilds of the table and is shared by all
/// policies that look at it.
#[derive(Debug, Default)]
pub(crate) struct Latency {}
