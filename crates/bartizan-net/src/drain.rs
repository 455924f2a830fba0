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
        DrainWatch { shared: Some(Arc::clone(&self.shared)), wait: None }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

/// Observes a [`Drain`]. Each connection has one; a clone observes the same drain anew.
pub struct DrainWatch {
    shared: Option<Arc<Shared>>,
    wait: Option<Wait>,
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
        Self { shared: None, wait: None }
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.shared.as_ref().map_or(Phase::Running, |shared| shared.phase())
    }

    /// Ready once `phase` is reached. Otherwise the task is woken by then.
    ///
    /// Asking again from the same task costs one atomic load, so it can be asked at every poll of
    /// a connection: no lock is shared with other connections.
    #[allow(clippy::needless_pass_by_ref_mut, reason = "it is what every poll function takes")]
    pub fn poll_reached(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<()> {
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
        Self { shared: self.shared.clone(), wait: None }
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
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn runs_through_its_phases_in_time() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        let start = tokio::time::Instant::now();
        let observed = async {
            let mut at = Vec::new();
            for phase in [Phase::Announced, Phase::Stopped, Phase::Closing] {
                watch.reached(phase).await;
                at.push((phase, start.elapsed().as_secs()));
            }
            at
        };
        let (at, ()) =
            tokio::join!(observed, drain.run(Duration::from_secs(5), Duration::from_secs(10)));
        assert_eq!(at, [(Phase::Announced, 0), (Phase::Stopped, 5), (Phase::Closing, 15)]);
    }

    #[tokio::test]
    async fn a_phase_never_goes_back() {
        let drain = Drain::new();
        drain.advance(Phase::Closing);
        drain.advance(Phase::Announced);
        assert_eq!(drain.phase(), Phase::Closing);
        drain.watch().reached(Phase::Announced).await;
    }

    #[tokio::test]
    async fn a_watch_asked_from_two_tasks_wakes_the_later_one() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        let (first, first_wakes) = futures_waker();
        let (second, second_wakes) = futures_waker();
        assert!(watch.poll_reached(Phase::Stopped, &mut Context::from_waker(&first)).is_pending());
        assert!(watch.poll_reached(Phase::Stopped, &mut Context::from_waker(&second)).is_pending());
        drain.advance(Phase::Announced);
        assert!(watch.poll_reached(Phase::Stopped, &mut Context::from_waker(&second)).is_pending());
        let before = second_wakes.load(Ordering::SeqCst);
        drain.advance(Phase::Stopped);
        assert_eq!(second_wakes.load(Ordering::SeqCst), before + 1);
        assert_eq!(first_wakes.load(Ordering::SeqCst), 0);
        assert!(watch.poll_reached(Phase::Stopped, &mut Context::from_waker(&second)).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_at_the_end_of_its_turn_is_woken_all_the_same() {
        let drain = Drain::new();
        let mut watch = drain.watch();
        poll_fn(|cx| {
            while tokio::task::coop::has_budget_remaining() {
                assert!(std::pin::pin!(tokio::task::consume_budget()).poll(cx).is_ready());
            }
            assert!(watch.poll_reached(Phase::Stopped, cx).is_pending());
            Poll::Ready(())
        })
        .await;
        let waited = tokio::time::timeout(Duration::from_secs(2), watch.reached(Phase::Stopped));
        let stop = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drain.advance(Phase::Stopped);
        };
        assert!(tokio::join!(waited, stop).0.is_ok());
    }

    #[tokio::test]
    async fn who_asks_while_others_are_being_woken_hears_of_the_next_phase_too() {
        // Asks with each of its watches when it is woken, in the middle of the change.
        struct Ask(std::sync::Mutex<Vec<(DrainWatch, Waker, Arc<AtomicU8>)>>);
        impl Wake for Ask {
            fn wake(self: Arc<Self>) {
                for (watch, waker, _) in self.0.lock().unwrap().iter_mut() {
                    let mut cx = Context::from_waker(waker);
                    assert!(watch.poll_reached(Phase::Stopped, &mut cx).is_pending());
                }
            }
        }
        let drain = Drain::new();
        let watched = |_| {
            let (waker, wakes) = futures_waker();
            (drain.watch(), waker, wakes)
        };
        let ask = Arc::new(Ask(std::sync::Mutex::new((0..100).map(watched).collect())));
        let waker = Waker::from(Arc::clone(&ask));
        // Tokio spreads registrations at random; some of these are woken before, some after.
        let mut first = drain.watch();
        assert!(first.poll_reached(Phase::Stopped, &mut Context::from_waker(&waker)).is_pending());

        drain.advance(Phase::Announced);
        for (watch, waker, wakes) in ask.0.lock().unwrap().iter_mut() {
            if wakes.swap(0, Ordering::SeqCst) > 0 {
                let mut cx = Context::from_waker(waker);
                assert!(watch.poll_reached(Phase::Stopped, &mut cx).is_pending());
            }
        }
        drop(first);
        drain.advance(Phase::Stopped);

        let deaf =
            ask.0.lock().unwrap().iter().filter(|(.., n)| n.load(Ordering::SeqCst) == 0).count();
        assert_eq!(deaf, 0);
    }

    fn futures_waker() -> (Waker, Arc<AtomicU8>) {
        struct Count(Arc<AtomicU8>);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let count = Arc::new(AtomicU8::new(0));
        (Waker::from(Arc::new(Count(Arc::clone(&count)))), count)
    }
}
