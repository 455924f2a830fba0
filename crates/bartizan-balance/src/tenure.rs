//! What ends when a backend is marked down.
//!
//! The sessions of a backend belong to its tenure, which lasts from one mark to the next. When it
//! ends, the next one has begun already: a session either sees the end of its tenure, or began after
//! it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bartizan_net::Superseded;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// What becomes of what is in flight at a backend that is marked down.
///
/// It is marked down when it becomes [`Down`](crate::Condition::Down),
/// [`Unfit`](crate::Condition::Unfit) or [`Maintenance`](crate::Condition::Maintenance) and was
/// better before: by checks, by what requests met where checks are told of that, by the backend that
/// it tracks, or by the operator. An ejection and a drain are no mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMarkedDown {
    /// It goes on.
    #[default]
    KeepSessions,
    /// It ends at once, with [`SessionEnded::MarkedDown`].
    ///
    /// What was not sent yet goes to another backend, and is no retry. So does what was sent and is
    /// safe to repeat ([`Resend`](crate::Resend)), as long as there is no answer. An answer that has
    /// begun fails in the middle of its body, when its reader asks for more of it, and a tunnel is
    /// closed.
    ShutdownSessions,
}

/// What becomes of what is in flight at backups when an active backend is up again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnMarkedUp {
    /// It goes on.
    #[default]
    KeepSessions,
    /// It ends at once, with [`SessionEnded::ActiveIsBack`], as for
    /// [`OnMarkedDown::ShutdownSessions`]. Connections that are idle stay.
    ShutdownBackupSessions,
}

/// Why this side has ended what was in flight at a backend. Nobody's fault, and no failure of the
/// request: it may be sent again where that is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionEnded {
    /// The backend was marked down ([`OnMarkedDown::ShutdownSessions`]).
    #[error("the backend was marked down, which ends its sessions")]
    MarkedDown,

    /// The backend is a backup, and an active backend is up again
    /// ([`OnMarkedUp::ShutdownBackupSessions`]).
    #[error("the backend is a backup, and its sessions end as an active backend is up again")]
    ActiveIsBack,
}

/// The present tenure of a backend; or of all backups of a cluster, from one relief to the next.
#[derive(Debug, Default)]
pub(crate) struct Tenures(ArcSwap<Tenure>);

#[derive(Debug, Default)]
struct Tenure {
    over: Superseded,
    wake: Arc<Notify>,
}

impl Tenures {
    /// Ends the present one. The tables that lead here no more must be published already.
    pub(crate) fn end(&self) {
        let ended = self.0.swap(Arc::default());
        ended.over.set();
        ended.wake.notify_waiters();
    }

    /// What is set when the present one is over.
    pub(crate) fn over(&self) -> Superseded {
        self.0.load().over.clone()
    }

    /// Looks out for the end of the present one, which is for that reason.
    pub(crate) fn watch(&self, why: SessionEnded) -> Watch {
        Watch { tenure: self.0.load_full(), why, woken: None, other: None }
    }
}

/// Looks out for the end of a tenure.
#[derive(Debug)]
pub(crate) struct Watch {
    tenure: Arc<Tenure>,
    why: SessionEnded,
    // Made when somebody has to wait: an answer may be there at once.
    woken: Option<Pin<Box<OwnedNotified>>>,
    // Of a backup, that of its relief.
    other: Option<Box<Self>>,
}

impl Watch {
    /// For what has been chosen too late.
    pub(crate) fn over(why: SessionEnded) -> Self {
        let tenure = Tenure::default();
        tenure.over.set();
        Self { tenure: Arc::new(tenure), why, woken: None, other: None }
    }

    /// Looks out for another end as well.
    pub(crate) fn or(self, other: Self) -> Self {
        Self { other: Some(Box::new(other)), ..self }
    }

    /// Whether it has ended, and why.
    pub(crate) fn ended(&self) -> Option<SessionEnded> {
        match &self.other {
            _ if self.tenure.over.is_set() => Some(self.why),
            Some(other) => other.ended(),
            None => None,
        }
    }

    /// Ready when it has ended.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnded> {
        let Self { tenure, woken, other, .. } = self;
        let wake = || Box::pin(Arc::clone(&tenure.wake).notified_owned());
        let polled = woken.get_or_insert_with(wake).as_mut().poll(cx).map(|()| self.why);
        // It may have ended before there was anything to wake.
        if polled.is_ready() || tenure.over.is_set() {
            return Poll::Ready(self.why);
        }
        other.as_mut().map_or(Poll::Pending, |other| other.poll_ended(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;

    const WHY: SessionEnded = SessionEnded::MarkedDown;

    fn polled(watch: &mut Watch) -> Option<SessionEnded> {
        poll_fn(|cx| watch.poll_ended(cx)).now_or_never()
    }

    #[tokio::test]
    async fn an_end_is_seen_whenever_it_comes() {
        let tenures = Tenures::default();
        let (mut waits, mut waited, mut late) =
            (tenures.watch(WHY), tenures.watch(WHY), tenures.watch(WHY));
        assert_eq!((late.ended(), polled(&mut waited)), (None, None));
        let waits = tokio::spawn(async move { poll_fn(|cx| waits.poll_ended(cx)).await });
        tokio::task::yield_now().await;
        tenures.end();
        assert_eq!(waits.await.unwrap(), WHY, "it was woken");
        for watch in [&mut waited, &mut late] {
            assert_eq!(
                (watch.ended(), polled(watch), polled(watch)),
                (Some(WHY), Some(WHY), Some(WHY))
            );
        }
        assert_eq!(polled(&mut tenures.watch(WHY)), None, "the next one has begun");
    }

    #[tokio::test]
    async fn either_of_two_ends_will_do() {
        let relief = SessionEnded::ActiveIsBack;
        for ends in [0, 1] {
            let tenures = [Tenures::default(), Tenures::default()];
            let both = || tenures[0].watch(WHY).or(tenures[1].watch(relief));
            let (mut waits, watch) = (both(), both());
            let waits = tokio::spawn(async move { poll_fn(|cx| waits.poll_ended(cx)).await });
            tokio::task::yield_now().await;
            tenures[ends].end();
            let why = [WHY, relief][ends];
            assert_eq!((waits.await.unwrap(), watch.ended()), (why, Some(why)));
        }
    }
}
