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
    let (drain, other) = (Drain::new(), Drain::new());
    is_woken_after_its_turn(&drain, drain.watch()).await;
    let drain = Drain::new();
    is_woken_after_its_turn(&drain, drain.watch().or(other.watch())).await;
    let drain = Drain::new();
    is_woken_after_its_turn(&drain, other.watch().or(drain.watch())).await;
}

async fn is_woken_after_its_turn(drain: &Drain, mut watch: DrainWatch) {
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
    let (drain, other) = (Drain::new(), Drain::new());
    let watched = |n| {
        let (waker, wakes) = futures_waker();
        let watch = match n % 3 {
            0 => drain.watch(),
            1 => drain.watch().or(other.watch()),
            _ => other.watch().or(drain.watch()),
        };
        (watch, waker, wakes)
    };
    let ask = Arc::new(Ask(std::sync::Mutex::new((0..300).map(watched).collect())));
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

    let deaf = ask.0.lock().unwrap().iter().filter(|(.., n)| n.load(Ordering::SeqCst) == 0).count();
    assert_eq!(deaf, 0);
}

#[tokio::test]
async fn a_watch_on_several_is_woken_by_each_and_ready_with_each() {
    for which in 0..3 {
        for nested in [false, true] {
            let drains = [Drain::new(), Drain::new(), Drain::new()];
            let [a, b, c] = drains.each_ref().map(Drain::watch);
            let mut watch = if nested { a.or(b.or(c)) } else { a.or(b).or(c) };
            let (waker, wakes) = futures_waker();
            let mut cx = Context::from_waker(&waker);
            assert!(watch.poll_reached(Phase::Announced, &mut cx).is_pending());

            drains[which].advance(Phase::Announced);
            assert_eq!(wakes.load(Ordering::SeqCst), 1, "drain {which}");
            assert!(watch.poll_reached(Phase::Announced, &mut cx).is_ready());

            // The later phases come from any of them, too.
            assert!(watch.poll_reached(Phase::Stopped, &mut cx).is_pending());
            drains[(which + 1) % 3].advance(Phase::Stopped);
            assert_eq!(wakes.load(Ordering::SeqCst), 2, "after drain {which}");
            assert!(watch.poll_reached(Phase::Stopped, &mut cx).is_ready());
            assert!(watch.poll_reached(Phase::Closing, &mut cx).is_pending());
        }
    }
}

#[test]
fn a_watch_on_two_is_in_the_later_phase_and_so_is_its_clone() {
    let (server, own) = (Drain::new(), Drain::new());
    let watch = server.watch().or(own.watch());
    let clone = watch.clone();
    assert_eq!((watch.phase(), clone.phase()), (Phase::Running, Phase::Running));
    own.advance(Phase::Stopped);
    assert_eq!((watch.phase(), clone.phase()), (Phase::Stopped, Phase::Stopped));
    server.advance(Phase::Announced);
    assert_eq!((watch.phase(), clone.phase()), (Phase::Stopped, Phase::Stopped));
    server.advance(Phase::Closing);
    assert_eq!((watch.phase(), clone.phase()), (Phase::Closing, Phase::Closing));
}

#[test]
fn a_watch_on_nothing_adds_nothing() {
    let drain = Drain::new();
    for watch in [DrainWatch::never().or(drain.watch()), drain.watch().or(DrainWatch::never())] {
        assert!(watch.or.is_none());
        drain.advance(Phase::Announced);
        assert_eq!(watch.phase(), Phase::Announced);
    }
    assert_eq!(DrainWatch::never().or(DrainWatch::never()).phase(), Phase::Running);
}

#[test]
fn asking_again_from_the_same_task_registers_nothing_anew() {
    fn bells(watch: &DrainWatch) -> Vec<*const Bell> {
        let bell = Arc::as_ptr(&watch.wait.as_ref().unwrap().bell);
        let others = watch.or.iter().flat_map(|or| bells(or));
        std::iter::once(bell).chain(others).collect()
    }
    let (server, own) = (Drain::new(), Drain::new());
    let mut watch = server.watch().or(own.watch());
    let (waker, _) = futures_waker();
    let mut cx = Context::from_waker(&waker);
    assert!(watch.poll_reached(Phase::Announced, &mut cx).is_pending());
    let registered = bells(&watch);
    assert!(watch.poll_reached(Phase::Announced, &mut cx).is_pending());
    assert_eq!((bells(&watch), registered.len()), (registered, 2));
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
