use std::future::{pending, poll_fn};
use std::sync::mpsc;
use std::time::Duration;

use super::*;

/// Far more than anything here takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says that it was dropped.
struct Held(mpsc::Sender<()>);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

/// A future that blocks its thread when it is polled, who tells of that, and who lets it go on.
fn blocking() -> (impl Future<Output = ()> + Send, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (begun, has_begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let future = async move {
        begun.send(()).unwrap();
        let _ = released.recv();
    };
    (future, has_begun, release)
}

#[tokio::test]
async fn runs_on_another_thread_and_hands_back_what_it_made() {
    let runtime = HandshakeRuntime::new();
    let name = run_handshake(&runtime, async { thread::current().name().map(str::to_owned) });
    let name = name.await.unwrap().unwrap();
    assert!(name.starts_with("tls-handshake-"), "{name}");
}

#[tokio::test]
async fn no_thread_is_started_before_the_first_handshake() {
    let runtime = HandshakeRuntime::with_threads(3);
    assert_eq!(*runtime.owner.started.lock().unwrap(), 0);
    run_handshake(&runtime, async {}).await.unwrap();
    assert_eq!(*runtime.owner.started.lock().unwrap(), 3);
}

#[tokio::test]
async fn one_that_blocks_holds_up_one_thread() {
    let runtime = HandshakeRuntime::with_threads(2);
    let (future, has_begun, release) = blocking();
    let blocked = run_handshake(&runtime, future);
    has_begun.recv_timeout(PATIENCE).unwrap();
    for _ in 0..10 {
        run_handshake(&runtime, tokio::task::yield_now()).await.unwrap();
    }
    release.send(()).unwrap();
    blocked.await.unwrap();
}

#[tokio::test]
async fn one_that_is_woken_while_it_blocks_does_not_take_a_second_thread() {
    let runtime = HandshakeRuntime::with_threads(2);
    let (begun, has_begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let mut polls = 0;
    let blocked = run_handshake(
        &runtime,
        poll_fn(move |cx| {
            polls += 1;
            if polls == 2 {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            begun.send(()).unwrap();
            let _ = released.recv();
            // Nobody wakes it but the wake above, which must not be lost.
            Poll::Pending
        }),
    );
    has_begun.recv_timeout(PATIENCE).unwrap();
    run_handshake(&runtime, tokio::task::yield_now()).await.unwrap();
    release.send(()).unwrap();
    blocked.await.unwrap();
}

#[tokio::test]
async fn those_beyond_the_threads_wait_in_the_order_in_which_they_came() {
    let runtime = HandshakeRuntime::with_threads(1);
    let (future, has_begun, release) = blocking();
    let blocked = run_handshake(&runtime, future);
    has_begun.recv_timeout(PATIENCE).unwrap();
    let (order, came) = mpsc::channel();
    let waiting: Vec<_> = (0..5)
        .map(|i| {
            let order = order.clone();
            run_handshake(&runtime, async move { order.send(i).unwrap() })
        })
        .collect();
    assert!(came.try_recv().is_err());
    release.send(()).unwrap();
    blocked.await.unwrap();
    for handshake in waiting {
        handshake.await.unwrap();
    }
    assert_eq!(came.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn one_that_is_given_up_is_dropped_at_once() {
    let runtime = HandshakeRuntime::with_threads(1);
    let (dropped, is_dropped) = mpsc::channel();
    let (begun, has_begun) = oneshot::channel();
    let held = Held(dropped);
    let given_up = run_handshake(&runtime, async move {
        let _held = held;
        begun.send(()).unwrap();
        pending::<()>().await;
    });
    has_begun.await.unwrap();
    // Behind it on the same thread, so that it is not polled any more.
    run_handshake(&runtime, async {}).await.unwrap();
    drop(given_up);
    is_dropped.try_recv().unwrap();
}

#[tokio::test]
async fn one_that_is_given_up_while_it_waits_for_a_thread_is_dropped_at_once() {
    let runtime = HandshakeRuntime::with_threads(1);
    let (future, has_begun, release) = blocking();
    let blocked = run_handshake(&runtime, future);
    has_begun.recv_timeout(PATIENCE).unwrap();
    let (dropped, is_dropped) = mpsc::channel();
    let held = Held(dropped);
    drop(run_handshake(&runtime, async move { drop(held) }));
    is_dropped.try_recv().unwrap();
    release.send(()).unwrap();
    blocked.await.unwrap();
}

#[tokio::test]
async fn one_that_is_given_up_while_it_blocks_is_dropped_when_it_blocks_no_more() {
    let runtime = HandshakeRuntime::with_threads(1);
    let (dropped, is_dropped) = mpsc::channel();
    let (future, has_begun, release) = blocking();
    let held = Held(dropped);
    let given_up = run_handshake(&runtime, async move {
        let _held = held;
        future.await;
        pending::<()>().await;
    });
    has_begun.recv_timeout(PATIENCE).unwrap();
    drop(given_up);
    is_dropped.try_recv().unwrap_err();
    release.send(()).unwrap();
    is_dropped.recv_timeout(PATIENCE).unwrap();
}

#[tokio::test]
async fn a_panic_ends_one_handshake_and_no_thread() {
    let runtime = HandshakeRuntime::with_threads(1);
    let panicking = run_handshake(&runtime, async { panic!("this panic belongs to the test") });
    let error: Result<(), _> = panicking.await;
    assert!(matches!(error, Err(HandshakeRuntimeError::Panicked)), "{error:?}");
    run_handshake(&runtime, async {}).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn timers_are_those_of_the_runtime_that_it_came_from() {
    let runtime = HandshakeRuntime::new();
    let slept = run_handshake(&runtime, async {
        // An hour of paused time; on any other runtime it would be a real one.
        tokio::time::sleep(Duration::from_secs(3600)).await;
    });
    slept.await.unwrap();
}

#[tokio::test]
async fn threads_end_with_the_last_handle() {
    thread_local! {
        static HELD: std::cell::RefCell<Option<Held>> = const { std::cell::RefCell::new(None) };
    }
    let runtime = HandshakeRuntime::with_threads(1);
    let (ended, has_ended) = mpsc::channel();
    run_handshake(&runtime, async move { HELD.set(Some(Held(ended))) }).await.unwrap();
    let clone = runtime.clone();
    drop(runtime);
    run_handshake(&clone, async {}).await.unwrap();
    has_ended.try_recv().unwrap_err();
    drop(clone);
    has_ended.recv_timeout(PATIENCE).unwrap();
}
