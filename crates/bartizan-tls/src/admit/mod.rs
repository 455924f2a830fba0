//! A cap on the handshakes in progress that a flood from few addresses cannot take from the rest.

use std::future::Future;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::{fmt, mem};

use fair::{Action, Fair, Id, Source};

mod fair;

/// A cap on the handshakes in progress, shared fairly among the sources they come from.
///
/// A source is an IPv4 address or an IPv6 /64; an IPv4-mapped address counts as IPv4. Its share is
/// `slots / sources`, at least 1, where sources are those that hold a slot or wait for one. While
/// slots are free, whoever comes gets one, so a single source may hold all of them. When none is
/// free:
///
/// - a source with less than its share takes over the slot of the oldest handshake of the source
///   that holds most, if that is more than its share. That handshake is *displaced*: it has lost
///   its slot at once, learns of it from [`HandshakeSlot::poll_displaced`], and has to end. Honest
///   handshakes take milliseconds, so the oldest one is stalled, or its source is a flood;
/// - any other waits. A slot that becomes free goes to the waiting source that holds fewest, to who
///   has waited longest of several, and within a source in the order of arrival.
///
/// This protects from few sources, not from more of them than there are slots: who can come from
/// many addresses gets as many shares. Clones are handles on the same slots, for all workers.
///
/// ```
/// # use bartizan_tls::HandshakeLimit;
/// # use std::future::poll_fn;
/// # async fn run(limit: HandshakeLimit, peer: std::net::SocketAddr) {
/// let mut slot = limit.enter(peer.ip()).await;
/// tokio::select! {
///     () = async { /* the handshake */ } => {}
///     () = poll_fn(|cx| slot.poll_displaced(cx)) => { /* give up on it */ }
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct HandshakeLimit {
    shared: Arc<Shared>,
}

impl HandshakeLimit {
    /// Allows as many handshakes at a time as there are `slots`. Default: 4096.
    pub fn new(slots: NonZeroUsize) -> Self {
        Self { shared: Arc::new(Shared { slots, fair: Mutex::new(Fair::new(slots.get())) }) }
    }

    /// Waits for a slot for a handshake with `peer`. Ready at the first poll while one is free.
    ///
    /// The place in the queue is that of the first poll. Cancel safe: dropping the future gives up
    /// the place, or the slot if it has come meanwhile.
    pub fn enter(&self, peer: IpAddr) -> Entering {
        Entering { shared: Arc::clone(&self.shared), source: peer.into(), entry: None }
    }

    /// How many slots are held. A handshake that was displaced holds none.
    pub fn in_progress(&self) -> usize {
        lock(&self.shared.fair).held()
    }

    /// How many wait for a slot.
    pub fn waiting(&self) -> usize {
        lock(&self.shared.fair).waiting()
    }
}

impl Default for HandshakeLimit {
    fn default() -> Self {
        Self::new(SLOTS)
    }
}

impl fmt::Debug for HandshakeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeLimit")
            .field("slots", &self.shared.slots)
            .field("in_progress", &self.in_progress())
            .field("waiting", &self.waiting())
            .finish()
    }
}

/// A slot of a [`HandshakeLimit`], held until it is dropped or displaced.
#[must_use = "the slot is free again as soon as it is dropped"]
pub struct HandshakeSlot {
    entry: Entry,
}

impl HandshakeSlot {
    /// Ready when the slot was taken away for another source. The handshake has to end then.
    ///
    /// The slot is somebody else's already; dropping this one changes nothing more. Until it is
    /// ready, the waker of the latest call is woken.
    #[allow(
        clippy::needless_pass_by_ref_mut,
        reason = "one waker is kept, so two tasks must not poll; and polls have a `&mut Context`"
    )]
    pub fn poll_displaced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.entry.seat.poll_past(Phase::Holding, cx)
    }
}

impl fmt::Debug for HandshakeSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let displaced = lock(&self.entry.seat.state).phase == Phase::Displaced;
        f.debug_struct("HandshakeSlot").field("displaced", &displaced).finish_non_exhaustive()
    }
}

/// Resolves to a [`HandshakeSlot`]. Made by [`HandshakeLimit::enter`].
#[must_use = "futures do nothing unless polled"]
pub struct Entering {
    shared: Arc<Shared>,
    source: Source,
    entry: Option<Entry>,
}

impl Future for Entering {
    type Output = HandshakeSlot;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<HandshakeSlot> {
        let this = self.get_mut();
        let entry = match this.entry.take() {
            Some(entry) => entry,
            None => Entry::new(Arc::clone(&this.shared), this.source),
        };
        // Put back first: were it dropped with the poll pending, it would lose its place.
        let entry = this.entry.insert(entry);
        ready!(entry.seat.poll_past(Phase::Waiting, cx));
        this.entry.take().map_or(Poll::Pending, |entry| Poll::Ready(HandshakeSlot { entry }))
    }
}

impl fmt::Debug for Entering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entering").field("queued", &self.entry.is_some()).finish_non_exhaustive()
    }
}

struct Shared {
    slots: NonZeroUsize,
    fair: Mutex<Fair<Arc<Seat>>>,
}

impl Shared {
    /// Takes a step under the lock, and wakes whom it concerns outside of it: a waker may run
    /// anything, such as the end of another handshake, which takes the lock again.
    fn step<R>(
        &self,
        step: impl FnOnce(&mut Fair<Arc<Seat>>, &mut dyn FnMut(Action<Arc<Seat>>)) -> R,
    ) -> R {
        let mut wakers = Vec::new();
        let result = step(&mut lock(&self.fair), &mut |action| {
            wakers.extend(match action {
                Action::Grant(seat) => seat.turn(Phase::Holding),
                Action::Displace(seat) => seat.turn(Phase::Displaced),
            });
        });
        wakers.into_iter().for_each(Waker::wake);
        result
    }
}

/// A handshake's place in the queue, then its slot. Leaves when dropped.
struct Entry {
    shared: Arc<Shared>,
    id: Id,
    // Never the last reference while the core holds another, so no waker is dropped under its lock.
    seat: Arc<Seat>,
}

impl Entry {
    fn new(shared: Arc<Shared>, source: Source) -> Self {
        let state = SeatState { phase: Phase::Waiting, waker: None };
        let seat = Arc::new(Seat { state: Mutex::new(state) });
        let id = shared.step(|fair, act| fair.arrive(source, Arc::clone(&seat), act));
        Self { shared, id, seat }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.step(|fair, act| fair.leave(self.id, act));
    }
}

/// What a handshake's task is told, apart from the queue's lock: polls are more than steps.
struct Seat {
    state: Mutex<SeatState>,
}

struct SeatState {
    phase: Phase,
    waker: Option<Waker>,
}

/// `Waiting ─▶ Holding ─▶ Displaced`, never back.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Holding,
    Displaced,
}

impl Seat {
    /// Ready once the phase is another than `phase`.
    fn poll_past(&self, phase: Phase, cx: &Context<'_>) -> Poll<()> {
        let mut state = lock(&self.state);
        if state.phase != phase {
            return Poll::Ready(());
        }
        let old = match &state.waker {
            Some(waker) if waker.will_wake(cx.waker()) => None,
            _ => state.waker.replace(cx.waker().clone()),
        };
        // In this order: the end of a waker may be the end of a task, which may come back here.
        drop(state);
        drop(old);
        Poll::Pending
    }

    /// Changes the phase, and returns whom to wake for it.
    fn turn(&self, phase: Phase) -> Option<Waker> {
        let mut state = lock(&self.state);
        state.phase = phase;
        mem::take(&mut state.waker)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics, and a poisoned lock must not end the acceptance of connections.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A core completes some thousand handshakes a second, most within a few round trips, so an honest
/// crowd needs fewer; and as many stalled ones still fit into memory.
const SLOTS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

#[cfg(test)]
mod tests;
