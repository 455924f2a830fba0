//! Slots that are free while somebody waits.

use std::sync::atomic::{AtomicBool, Ordering};

use super::queue::{
    Arrivals, Dial, PinTo, arrived, backend, gate, names, of, pinned, send, settle,
};
use super::*;
use crate::health::CheckRules;
use crate::{
    InitState, LeastConn, Limits, OnPinnedDown, Pick, PickContext, Policy, Reason, SlowStart,
    StickyContract, Table, Verdict,
};

/// A gate at which `b` cannot be dialled while the switch is on.
fn flaky_gate() -> (Dial, Arrivals, Arc<AtomicBool>) {
    let (inner, arrivals) = gate();
    let refuses = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&refuses);
    let dial = service_fn(move |backend: Arc<Backend>| {
        let refused = &**backend.name() == "b" && switch.load(Ordering::Relaxed);
        let inner = inner.clone();
        async move { if refused { Err("refused".into()) } else { inner.oneshot(backend).await } }
    });
    (Dial::new(dial), arrivals, refuses)
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_others_than_a_free_backend_does_not_keep_the_rest_from_it() {
    let web = of([backend("a", Limits::none().max(1)), backend("b", Limits::none().max(9))]);
    let (web, (dial, mut arrivals, refuses)) = (web.build().unwrap(), flaky_gate());
    let balance = Balance::new(web, RoundRobin::new(), dial);
    let _first = send(&balance, "1").await;
    refuses.store(true, Ordering::Relaxed);
    let _second = send(&balance, "2").await;
    refuses.store(false, Ordering::Relaxed);
    let _others = [send(&balance, "3").await, send(&balance, "4").await];
    let here = arrived(&mut arrivals);
    assert_eq!(names(&here), ["1", "3", "4"], "2 has tried b, and waits for a; b is idle");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_backend_that_has_gone_tries_again_who_failed_before() {
    let web = of([backend("a", Limits::none().max(1)), backend("b", Limits::none().max(9))]);
    let (web, (dial, mut arrivals, refuses)) = (web.build().unwrap(), flaky_gate());
    let balance = Balance::new(web.clone(), RoundRobin::new(), dial);
    let _first = send(&balance, "1").await;
    refuses.store(true, Ordering::Relaxed);
    let second = send(&balance, "2").await;
    refuses.store(false, Ordering::Relaxed);
    web.set_up(&member(&web, 0), false);
    sleep(Duration::from_secs(2)).await;
    settle().await;
    assert_eq!(names(&arrived(&mut arrivals)), ["1", "2"], "nobody else is left");
    second.abort();
}

/// Changes the cluster in the middle of the first pick that finds `a` full.
#[derive(Debug)]
struct Meanwhile(Cluster, AtomicBool, fn(&Cluster));

impl Policy for Meanwhile {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        if !table.has_room(0) && !self.1.swap(true, Ordering::Relaxed) {
            (self.2)(&self.0);
        }
        let position = table.eligible_from(0).find(|i| table.check(*i, context).is_ok())?;
        Some(Pick::new(Arc::clone(&table.members()[position]), "test", Reason::Drawn))
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_added_between_the_look_at_the_table_and_the_line_is_used() {
    let web = of([backend("a", Limits::none().max(1))]).build().unwrap();
    let (dial, mut arrivals) = gate();
    let add: fn(&Cluster) = |web| {
        web.update(|change| change.add(backend("b", Limits::none().max(9)))).unwrap();
    };
    let policy = Meanwhile(web.clone(), AtomicBool::new(false), add);
    let balance = Balance::new(web, policy, dial);
    let _tasks = [send(&balance, "1").await, send(&balance, "2").await, send(&balance, "3").await];
    assert_eq!(names(&arrived(&mut arrivals)), ["1", "2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn limits_that_grow_by_requests_at_other_backends_serve_those_who_wait() {
    let web = of([backend("a", Limits::none().min(1).max(10)), backend("b", Limits::none())]);
    let web = web.full_load(20).build().unwrap();
    let (dial, mut arrivals) = gate();
    let own = pinned(&web, StickyContract::new(), dial.clone());
    let layer = BalanceLayer::new(web.clone(), RoundRobin::new());
    let b = PinTo(member(&web, 1).id(), StickyContract::new());
    let other = layer.affinity(b).layer(dial);
    let mut tasks = vec![send(&own, "1").await, send(&own, "waits").await];
    for _ in 0..8 {
        tasks.push(send(&other, "b").await);
    }
    assert!(web.table().has_room(0));
    assert!(names(&arrived(&mut arrivals)).contains(&"waits"), "a has room for 4 more");
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_to_a_backend_is_served_later() {
    let web = of([backend("a", Limits::none().min(1).max(10)), backend("b", Limits::none())]);
    let web = web.full_load(20).build().unwrap();
    let (dial, mut arrivals) = gate();
    let own = pinned(&web, StickyContract::new(), dial.clone());
    let b = PinTo(member(&web, 1).id(), StickyContract::new());
    let other = BalanceLayer::new(web.clone(), RoundRobin::new()).affinity(b).layer(dial);
    let mut tasks = vec![send(&own, "1").await, send(&own, "2").await];
    for _ in 0..3 {
        tasks.push(send(&other, "b").await);
    }
    tasks.push(send(&own, "3").await);
    let here = names(&arrived(&mut arrivals));
    assert!(!here.contains(&"3") || here.contains(&"2"), "{here:?}");
}

#[test]
fn two_clusters_that_share_a_backend_both_learn_that_it_is_down() {
    let (one, two) = (of([backend("a", Limits::none())]).build().unwrap(), of([]).build().unwrap());
    two.update(|change| change.add(member(&one, 0))).unwrap();
    for up in [false, true] {
        one.set_up(&member(&one, 0), up);
        two.set_up(&member(&two, 0), up);
        assert_eq!(one.table().eligible_count(), usize::from(up));
        assert_eq!(two.table().eligible_count(), usize::from(up), "its own checks said so");
    }
}

#[tokio::test(start_paused = true)]
async fn only_waiting_counts_as_waiting_in_line() {
    let web = of([backend("a", Limits::none().max(1))]).build().unwrap();
    let (inner, mut arrivals) = gate();
    let slow = service_fn(move |backend: Arc<Backend>| {
        let inner = inner.clone();
        async move {
            sleep(Duration::from_secs(6)).await;
            if false {
                return inner.oneshot(backend).await;
            }
            Err(BoxError::from("timed out"))
        }
    });
    let holder = BalanceLayer::new(web.clone(), RoundRobin::new())
        .queue_timeout(Duration::from_secs(60))
        .layer(gate_of(&mut arrivals));
    let balance = Balance::new(web.clone(), RoundRobin::new(), Dial::new(slow));
    let first = send(&holder, "1").await;
    let second = send(&balance, "2").await;
    sleep(Duration::from_millis(10)).await;
    first.abort();
    settle().await;
    // 2 dials now, for 6 seconds; then somebody else has the slot.
    let third = send(&holder, "3").await;
    sleep(Duration::from_secs(8)).await;
    assert!(!second.is_finished(), "it waited for 10 ms of 5 s: {:?}", second.await);
    third.abort();
}

fn gate_of(arrivals: &mut Arrivals) -> Dial {
    let (dial, new) = gate();
    *arrivals = new;
    dial
}

#[tokio::test(start_paused = true)]
async fn who_was_down_from_the_start_comes_back_slowly() {
    let ramp = SlowStart::new(Duration::from_secs(10));
    let web = of([backend("a", Limits::none())]).slow_start(ramp).build().unwrap();
    let a = member(&web, 0);
    web.set_up(&a, false);
    let checks =
        web.attach(CheckRules { rise: 1, fall: 1, init: InitState::FullyDown, agent: false });
    web.observe(&a, checks.say().token(&a).unwrap(), &Verdict::Pass);
    assert!(web.table().share(0) < 16, "it was seen down");
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_backend_cannot_be_dialled_is_pinned_anew_after_its_patience() {
    let web = cluster(&["a", "b"]);
    let net = Net::new(|name, _| if name == "a" { Then::Refuse } else { Then::Answer });
    let wait = StickyContract::new().on_down(OnPinnedDown::Wait(Duration::from_secs(10)));
    let pin = PinTo(member(&web, 0).id(), wait);
    let layer = BalanceLayer::new(web, RoundRobin::new()).affinity(pin);
    let answer = layer.layer(net.clone()).oneshot(Post("1")).await;
    assert!(answer.is_ok(), "{answer:?} after {:?}", net.log());
}

#[test]
fn a_limit_holds_for_who_is_not_in_the_table_yet() {
    let web = of([backend("a", Limits::none())]).build().unwrap();
    let home = Arc::new(Home::new(web, &LeastConn::new()));
    let b = Arc::new(backend("b", Limits::none().max(1)));
    let _first = home.lease_beyond(&b);
    let _second = home.lease_beyond(&b);
    assert_eq!(b.in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pinned_client_waits_no_longer_than_the_ejection() {
    let web = cluster(&["a"]);
    let a = member(&web, 0);
    web.update(|change| change.set_state("a", crate::State::Drain)).unwrap();
    let until = now() + Duration::from_secs(1);
    let out = crate::health::Ejection::Out { until };
    crate::cluster::affect(&a, |health| health.eject(out, "errors", now()));
    let net = Net::new(|_, _| Then::Answer);
    let wait = StickyContract::new().on_down(OnPinnedDown::Wait(Duration::from_secs(10)));
    let layer = BalanceLayer::new(web, RoundRobin::new()).affinity(PinTo(a.id(), wait));
    let begin = Instant::now();
    let answer = layer.layer(net.clone()).oneshot(Post("1")).await;
    assert!(answer.is_ok() && begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}
