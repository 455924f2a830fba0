use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::thread;

use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready};

use super::*;

fn limit(slots: usize) -> HandshakeLimit {
    HandshakeLimit::new(NonZeroUsize::new(slots).unwrap())
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// A slot that is there at the first poll.
fn take(limit: &HandshakeLimit, peer: &str) -> HandshakeSlot {
    assert_ready!(spawn(limit.enter(ip(peer))).poll())
}

/// A place in the queue.
fn wait(limit: &HandshakeLimit, peer: &str) -> Spawn<Entering> {
    let mut entering = spawn(limit.enter(ip(peer)));
    assert_pending!(entering.poll());
    entering
}

fn is_displaced(slot: &mut HandshakeSlot) -> bool {
    slot.poll_displaced(&mut Context::from_waker(Waker::noop())).is_ready()
}

const FLOOD: &str = "203.0.113.1";
const HONEST: &str = "192.0.2.1";

#[test]
fn one_honest_client_gets_the_oldest_slot_of_a_flood_at_once() {
    let limit = limit(3);
    let mut flood: Vec<_> = (0..3).map(|_| take(&limit, FLOOD)).collect();
    let _more = wait(&limit, FLOOD);

    let mut honest = take(&limit, HONEST);

    assert!(!is_displaced(&mut honest));
    let displaced: Vec<_> = flood.iter_mut().map(is_displaced).collect();
    assert_eq!(displaced, [true, false, false]);
    assert_eq!((limit.in_progress(), limit.waiting()), (3, 1));
}

#[test]
fn a_handshake_is_not_woken_for_a_source_that_has_to_wait() {
    let limit = limit(1);
    let mut slot = take(&limit, FLOOD);
    let mut watch = spawn(());
    watch.enter(|cx, _| assert_pending!(slot.poll_displaced(cx)));
    let _waits = wait(&limit, HONEST);
    assert!(!watch.is_woken());
}

#[test]
fn a_displaced_handshake_is_woken_and_its_end_frees_nothing() {
    let mut watch = spawn(());
    let limit = limit(2);
    let mut oldest = take(&limit, FLOOD);
    let _other = take(&limit, FLOOD);
    watch.enter(|cx, _| assert_pending!(oldest.poll_displaced(cx)));
    let _honest = take(&limit, HONEST);
    assert!(watch.is_woken());
    watch.enter(|cx, _| assert_ready!(oldest.poll_displaced(cx)));
    drop(oldest);
    assert_eq!(limit.in_progress(), 2);
}

#[test]
fn the_latest_waker_is_woken_and_no_earlier_one() {
    let limit = limit(2);
    let mut oldest = take(&limit, FLOOD);
    let _other = take(&limit, FLOOD);
    let (mut before, mut after) = (spawn(()), spawn(()));
    before.enter(|cx, _| assert_pending!(oldest.poll_displaced(cx)));
    after.enter(|cx, _| assert_pending!(oldest.poll_displaced(cx)));
    let _honest = take(&limit, HONEST);
    assert_eq!((before.is_woken(), after.is_woken()), (false, true));

    let mut entering = limit.enter(ip(FLOOD));
    before.enter(|cx, _| assert_pending!(Pin::new(&mut entering).poll(cx)));
    after.enter(|cx, _| assert_pending!(Pin::new(&mut entering).poll(cx)));
    drop(_other);
    assert_eq!((before.is_woken(), after.is_woken()), (false, true));
}

#[test]
fn two_sources_that_want_everything_get_half_each() {
    let limit = limit(4);
    let mut first: Vec<_> = (0..4).map(|_| take(&limit, FLOOD)).collect();
    let second: Vec<_> = (0..2).map(|_| take(&limit, HONEST)).collect();
    let _waits = wait(&limit, HONEST);
    assert_eq!(first.iter_mut().map(is_displaced).filter(|displaced| *displaced).count(), 2);
    drop(second);
}

#[test]
fn a_source_is_served_in_the_order_of_its_first_polls() {
    let limit = limit(1);
    let slot = take(&limit, HONEST);
    let mut unpolled = spawn(limit.enter(ip(HONEST)));
    let (mut first, mut second) = (wait(&limit, HONEST), wait(&limit, HONEST));
    assert_pending!(unpolled.poll());
    drop(slot);
    assert!(first.is_woken() && !second.is_woken());
    assert_pending!(second.poll());
    let slot = assert_ready!(first.poll());
    drop(slot);
    drop(assert_ready!(second.poll()));
    drop(assert_ready!(unpolled.poll()));
    assert_eq!(limit.in_progress(), 0);
}

#[test]
fn a_dropped_future_leaves_no_trace_whether_it_waits_or_was_granted() {
    let limit = limit(1);
    drop(limit.enter(ip(HONEST)));
    let slot = take(&limit, HONEST);
    drop(wait(&limit, HONEST));
    assert_eq!((limit.in_progress(), limit.waiting()), (1, 0));

    let granted = wait(&limit, HONEST);
    let mut next = wait(&limit, HONEST);
    drop(slot);
    assert!(granted.is_woken());
    assert_eq!((limit.in_progress(), limit.waiting()), (1, 1));
    drop(granted);
    drop(assert_ready!(next.poll()));
    assert_eq!((limit.in_progress(), limit.waiting()), (0, 0));
}

#[test]
fn a_slot_that_was_granted_and_taken_before_it_was_seen_is_a_displaced_one() {
    let limit = limit(2);
    let slot = take(&limit, FLOOD);
    let other = take(&limit, FLOOD);
    let mut late = wait(&limit, FLOOD);
    drop(slot);
    drop(other);
    let _newer = take(&limit, FLOOD);
    let _honest = take(&limit, HONEST);
    assert!(is_displaced(&mut assert_ready!(late.poll())));
    assert_eq!(limit.in_progress(), 2);
}

#[test]
fn addresses_of_one_ipv6_network_share_as_one_source() {
    let limit = limit(2);
    let mut slots = [take(&limit, "2001:db8::1"), take(&limit, "2001:db8::2")];
    let _same = wait(&limit, "2001:db8::3");
    assert!(!slots.iter_mut().any(is_displaced));
    let _other = take(&limit, "2001:db8:0:1::1");
    assert_eq!(slots.each_mut().map(is_displaced), [true, false]);
}

#[test]
fn who_wakes_may_end_handshakes_of_the_same_limit() {
    struct Ends(Mutex<Option<HandshakeSlot>>);
    impl Wake for Ends {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().take();
        }
    }
    let limit = limit(2);
    let mut oldest = take(&limit, FLOOD);
    let ends = Arc::new(Ends(Mutex::new(Some(take(&limit, FLOOD)))));
    let waker = Waker::from(Arc::clone(&ends));
    assert_pending!(oldest.poll_displaced(&mut Context::from_waker(&waker)));
    let _honest = take(&limit, HONEST);
    assert_eq!(limit.in_progress(), 1);
}

#[test]
fn the_default_is_4096_slots() {
    assert!(format!("{:?}", HandshakeLimit::default()).contains("slots: 4096"));
}

#[test]
fn futures_and_slots_may_move_between_threads() {
    fn check<T: Send + Sync + Unpin + fmt::Debug>(_: &T) {}
    let limit = limit(1);
    check(&limit);
    check(&limit.enter(ip(HONEST)));
    check(&take(&limit, HONEST));
}

#[test]
fn threads_that_hammer_it_end_with_nothing_in_progress() {
    const THREADS: usize = 4;
    const SLOTS: usize = 3;
    let limit = limit(SLOTS);
    let inside = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (limit, inside) = (limit.clone(), &inside);
            scope.spawn(move || {
                for round in 0..2000_usize {
                    let peer = IpAddr::from([192, 0, 2, ((thread + round) % 3) as u8]);
                    if round % 7 == 0 {
                        // Queues, or holds, and is gone.
                        drop(spawn(limit.enter(peer)).poll());
                    }
                    let mut slot = block_on(limit.enter(peer));
                    if !is_displaced(&mut slot) {
                        inside.fetch_add(1, Ordering::Relaxed);
                    }
                    assert!(limit.in_progress() <= SLOTS);
                    drop(slot);
                }
            });
        }
    });
    assert!(inside.into_inner() > 0);
    assert_eq!((limit.in_progress(), limit.waiting()), (0, 0));
}

/// Polls only when woken, so that a lost wake-up hangs.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
