//! Waiting with a deadline.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// The output of `future`, which is there by `limit`.
///
/// # Panics
///
/// If it is not; the message says `what` was awaited.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    match timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {limit:?}"),
    }
}

/// Asks `condition` again and again until it is true.
///
/// # Panics
///
/// If it is not within `PATIENCE`; the message says `what` was awaited.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        sleep(POLL).await;
    }
}

/// Far more than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at a condition that nobody announces.
pub(crate) const POLL: Duration = Duration::from_millis(10);
