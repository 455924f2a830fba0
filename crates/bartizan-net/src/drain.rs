//! Phased shutdown.
//!
//! ```text
//! Running ─ announce ─▶ Announced ─ stop ─▶ Stopped ─ close ─▶ Closing
//! ```
//!
//! In `Announced`, connections are asked to finish what they do (`connection: close`, GOAWAY) while
//! new ones are still accepted, so that a balancer in front has time to notice. In `Stopped`,
//! nothing more is accepted. In `Closing`, what is left is closed. Phases never go back.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::sync::watch;

/// Starts the phases of a shutdown. Clones are handles on the same one.
#[derive(Clone, Debug)]
pub struct Drain {
    shared: Arc<Shared>,
}

/// How far a shutdown has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
#[repr(u8)]
pub enum Phase {
    /// Business as usual.
    Running = 0,
    /// Connections finish what they do; new ones are still accepted.
    Announced = 1,
    /// Nothing more is accepted.
    Stopped = 2,
    /// What is left is closed.
    Closing = 3,
}

impl Drain {
    /// A drain in phase [`Running`](Phase::Running).
    pub fn new() -> Self {
        let (changed, _) = watch::channel(Phase::Running);
        Self { shared: Arc::new(Shared { phase: AtomicU8::new(Phase::Running as u8), changed }) }
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.shared.phase()
    }

    /// Goes on to `phase`. Going back is not possible and does nothing.
    pub fn advance(&self, phase: Phase) {
        // Under the channel's lock, so that two callers cannot publish phases in the wrong order.
        self.shared.changed.send_if_modified(|now| {
            if *now >= phase {
                return false;
            }
            *now = phase;
            self.shared.phase.store(phase as u8, Ordering::Release);
            true
        });
    }

    /// Goes through all phases: announces, stops accepting after `notice`, and closes what is left
    /// after another `grace`.
    ///
    /// Returns when [`Closing`](Phase::Closing) is reached, so race it against the server: that one
    /// ends earlier if all connections do. Cancel safe; phases that were reached stay reached.
    pub async fn run(&self, notice: Duration, grace: Duration) {
        self.advance(Phase::Announced);
        tokio::time::sleep(notice).await;
        self.advance(Phase::Stopped);
        tokio::time::sleep(grace).await;
        self.advance(Phase::Closing);
    }

    /// A watch for one observer.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { shared: Some(Arc::clone(&self.shared)), wait: None, or: None }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

/// Observes a [`Drain`], or [several](Self::or). Each connection has one; a clone observes the same
/// drains anew.
pub struct DrainWatch {
    // There is nothing in `wait` and `or` without it.
    shared: Option<Arc<Shared>>,
    wait: Option<Wait>,
    // Most watches observe one drain alone, and there is one for each connection.
    or: Option<Box<Self>>,
}

struct Wait {
    phase: Phase,
    bell: Arc<Bell>,
    // Never polled again, only held: its registration is what rings the bell.
    _reached: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

/// Wakes the task, and remembers that it has: the registration is used up then.
///
/// Nothing else tells. The phase does not: a change publishes it first and wakes later, and who
/// registers in between is woken for a phase that it has seen. A task whose turn is over (tokio's
/// cooperative budget) is woken without having been registered at all.
struct Bell {
    rung: AtomicBool,
    waker: Waker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.waker.wake_by_ref();
    }
}

impl DrainWatch {
    /// A watch on nothing: always [`Running`](Phase::Running).
    pub fn never() -> Self {
        Self { shared: None, wait: None, or: None }
    }

    /// A watch on the drains of both, which reaches a phase as soon as one of them does.
    ///
    /// So that a connection can end with the server, or alone. A layer that adds a drain to a
    /// connection's also closes it in [`Closing`](Phase::Closing): what is outside of the layer,
    /// [`serve`](crate::serve) among it, knows only of the drain that it has given.
    ///
    /// ```
    /// # use bartizan_net::{Drain, Phase};
    /// let (server, revoked) = (Drain::new(), Drain::new());
    /// let watch = server.watch().or(revoked.watch());
    /// revoked.advance(Phase::Announced);
    /// assert_eq!(watch.phase(), Phase::Announced);
    /// assert_eq!(server.phase(), Phase::Running);
    /// ```
    pub fn or(mut self, other: Self) -> Self {
        if self.shared.is_none() {
            return other;
        }
        if other.shared.is_some() {
            self.or = Some(Box::new(match self.or.take() {
                Some(or) => or.or(other),
                None => other,
            }));
        }
        self
    }

    /// The phase now; of several drains, the latest.
    pub fn phase(&self) -> Phase {
        let own = self.shared.as_ref().map_or(Phase::Running, |shared| shared.phase());
        self.or.as_ref().map_or(own, |or| own.max(or.phase()))
    }

    /// Ready once `phase` is reached. Otherwise the task is woken by then.
    ///
    /// Asking again from the same task costs one atomic load per drain, so it can be asked at every
    /// poll of a connection: no lock is shared with other connections.
    pub fn poll_reached(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<()> {
        let own = self.poll_own(phase, cx);
        match &mut self.or {
            // Asked also where the first is not ready: each has to wake the task.
            Some(or) if own.is_pending() => or.poll_reached(phase, cx),
            _ => own,
        }
    }

    #[allow(clippy::needless_pass_by_ref_mut, reason = "it is what every poll function takes")]
    fn poll_own(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<()> {
        let Some(shared) = &self.shared else { return Poll::Pending };
        if shared.phase() >= phase {
            self.wait = None;
            return Poll::Ready(());
        }
        if let Some(wait) = &self.wait
            && wait.phase == phase
            && wait.bell.waker.will_wake(cx.waker())
            && !wait.bell.rung.load(Ordering::Acquire)
        {
            return Poll::Pending;
        }
        let bell = Arc::new(Bell { rung: AtomicBool::new(false), waker: cx.waker().clone() });
        let mut reached = Box::pin(reached(shared.changed.subscribe(), phase));
        let poll = reached.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&bell))));
        self.wait = poll.is_pending().then_some(Wait { phase, bell, _reached: reached });
        poll
    }

    /// Resolves once `phase` is reached. Cancel safe.
    pub async fn reached(&mut self, phase: Phase) {
        poll_fn(|cx| self.poll_reached(phase, cx)).await;
    }
}

impl Clone for DrainWatch {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), wait: None, or: self.or.clone() }
    }
}

impl fmt::Debug for DrainWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainWatch").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Shared {
    // What `changed` holds, readable without its lock.
    phase: AtomicU8,
    changed: watch::Sender<Phase>,
}

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Announced,
            2 => Phase::Stopped,
            _ => Phase::Closing,
        }
    }
}

async fn reached(mut changed: watch::Receiver<Phase>, phase: Phase) {
    // The sender is kept alive by the watch that this future sits in, so this cannot fail. If it
    // did, the drain could never advance again.
    if changed.wait_for(|now| *now >= phase).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
