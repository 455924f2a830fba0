//! The time, for the shells around what takes it as an argument.

use std::time::{Duration, Instant};

/// The time, which paused time governs.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What a clock can be moved by without a panic.
pub(crate) const A_YEAR: Duration = Duration::from_secs(365 * 86_400);
