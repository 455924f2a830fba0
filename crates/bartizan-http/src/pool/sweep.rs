//! Closing connections that nobody has used for long.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http_body::Body;
use tokio::time::{Instant, sleep};

use super::Shared;
use super::upstream::Entry;

impl<B: Body<Data: Send> + Send + 'static> Shared<B> {
    /// Starts, once, the task that looks after idle connections for as long as the pool lives.
    pub(super) fn start_sweeping(self: &Arc<Self>) {
        if !self.swept.swap(true, Ordering::Relaxed) {
            let period = (self.settings.idle_timeout / 4).clamp(SHORTEST, LONGEST);
            drop(tokio::spawn(sweep(Arc::downgrade(self), period)));
        }
    }
}

async fn sweep<B: Body<Data: Send> + Send + 'static>(pool: Weak<Shared<B>>, period: Duration) {
    loop {
        sleep(period).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = Instant::now();
        let limit = pool.settings.idle_timeout;
        let used_lately =
            |entry: &Entry<B>| now.saturating_duration_since(entry.link.last_io()) < limit;
        // A connection that the backend has closed shows when it is driven, and goes as well.
        let over = pool
            .idle
            .extract(|entry| used_lately(entry) && entry.is_ready() && !entry.validity.is_over());
        over.into_iter().for_each(|entry| entry.close());
        pool.lines.sweep(now, limit);
    }
}

const SHORTEST: Duration = Duration::from_millis(10);

/// A backend that closes first sees its close answered within this time.
const LONGEST: Duration = Duration::from_secs(1);
