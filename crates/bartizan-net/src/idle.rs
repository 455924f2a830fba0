//! An idle limit that is cheap to push back.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};

/// Expires when nothing happened for a time.
///
/// Pushing it back ([`touch`](Self::touch)) reads the clock and stores a number. The timer itself
/// stays where it was; when it fires too early, it is moved to where it belongs. So an idle limit
/// on a busy stream costs a timer operation per limit, not per read.
#[derive(Debug)]
pub struct IdleTimer {
    limit: Duration,
    due: Instant,
    // Made when first waited on: a stream that never waits never pays for a timer.
    sleep: Option<Pin<Box<Sleep>>>,
    // Whom the timer wakes. While that is who asks, the timer need not be told again.
    waker: Option<Waker>,
}

impl IdleTimer {
    /// Expires `limit` from now, unless touched.
    pub fn new(limit: Duration) -> Self {
        Self { limit, due: far(Instant::now(), limit), sleep: None, waker: None }
    }

    /// The limit that it was made with.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Something happened: the limit counts from now.
    pub fn touch(&mut self) {
        self.expire_at(far(Instant::now(), self.limit));
    }

    /// Expires at `due` instead, sooner or later than before.
    pub fn expire_at(&mut self, due: Instant) {
        if let Some(sleep) = &mut self.sleep {
            // Later: let it fire early and be moved then. Sooner: it must be moved at once.
            if due < sleep.deadline() {
                sleep.as_mut().reset(due);
                self.waker = None;
            }
        }
        self.due = due;
    }

    /// Ready once the limit has passed. Otherwise the task is woken by then.
    pub fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.due;
        let known = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if known && self.sleep.as_ref().is_some_and(|sleep| !sleep.is_elapsed()) {
            return Poll::Pending;
        }
        self.waker = None;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        loop {
            // Constrained, it would be pending without a registration when the task's turn is over.
            if Pin::new(&mut unconstrained(sleep.as_mut())).poll(cx).is_pending() {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}

/// `now + limit`, where a limit that the clock cannot express means "not in this life".
pub(crate) fn far(now: Instant, limit: Duration) -> Instant {
    now.checked_add(limit).unwrap_or_else(|| now + FOREVER)
}

const FOREVER: Duration = Duration::from_secs(30 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn expires_a_limit_after_the_last_touch() {
        let start = Instant::now();
        let mut timer = IdleTimer::new(Duration::from_secs(10));
        tokio::time::advance(Duration::from_secs(7)).await;
        timer.touch();
        poll_fn(|cx| timer.poll_expired(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 17);
    }

    #[tokio::test(start_paused = true)]
    async fn a_touch_while_waiting_moves_the_end() {
        let start = Instant::now();
        let mut timer = IdleTimer::new(Duration::from_secs(10));
        let waited =
            tokio::time::timeout(Duration::from_secs(9), poll_fn(|cx| timer.poll_expired(cx)));
        assert!(waited.await.is_err());
        timer.touch();
        poll_fn(|cx| timer.poll_expired(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 19);
    }

    #[tokio::test(start_paused = true)]
    async fn can_be_brought_forward() {
        let start = Instant::now();
        let mut timer = IdleTimer::new(Duration::from_secs(60));
        let _ = tokio::time::timeout(Duration::from_secs(1), poll_fn(|cx| timer.poll_expired(cx)))
            .await;
        timer.expire_at(start + Duration::from_secs(5));
        poll_fn(|cx| timer.poll_expired(cx)).await;
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_at_the_end_of_its_turn_is_woken_all_the_same() {
        let mut timer = IdleTimer::new(Duration::from_secs(10));
        poll_fn(|cx| {
            while tokio::task::coop::has_budget_remaining() {
                assert!(std::pin::pin!(tokio::task::consume_budget()).poll(cx).is_ready());
            }
            assert!(timer.poll_expired(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let expired = poll_fn(|cx| timer.poll_expired(cx));
        assert!(tokio::time::timeout(Duration::from_secs(11), expired).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_limit_is_no_panic() {
        let mut timer = IdleTimer::new(Duration::MAX);
        timer.touch();
        let waited =
            tokio::time::timeout(Duration::from_secs(3600), poll_fn(|cx| timer.poll_expired(cx)));
        assert!(waited.await.is_err());
    }
}
