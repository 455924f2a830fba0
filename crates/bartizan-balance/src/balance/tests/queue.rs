//! Limits, and waiting for a slot.

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, yield_now};

use super::*;
use crate::{
    Affinity, BackendId, ClusterBuilder, Limits, Observer, OnDrain, OnPinnedDown, Pick,
    PickContext, Pin, Reason, State, StickyContract, Table, Tie,
};

/// Requests that have reached a backend, to be answered by the test.
pub(super) type Arrivals = mpsc::UnboundedReceiver<(Arc<str>, &'static str, oneshot::Sender<()>)>;

pub(super) type Dialled =
    tower::util::BoxCloneService<Get, Response<Full<&'static [u8]>>, BoxError>;
pub(super) type Dial = tower::util::BoxCloneService<Arc<Backend>, Dialled, BoxError>;

/// A dial service whose backends answer when they are told to.
pub(super) fn gate() -> (Dial, Arrivals) {
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let dial = service_fn(move |backend: Arc<Backend>| {
        let arrived = arrived.clone();
        let serve = service_fn(move |request: Get| {
            let (answer, answered) = oneshot::channel();
            let _ = arrived.send((Arc::clone(backend.name()), request.0, answer));
            async move {
                answered.await.map_err(BoxError::from)?;
                Ok::<_, BoxError>(Response::new(Full::new(&b""[..])))
            }
        });
        std::future::ready(Ok::<_, BoxError>(Dialled::new(serve)))
    });
    (Dial::new(dial), arrivals)
}

pub(super) fn backend(name: &'static str, limits: Limits) -> Backend {
    Backend::new(name, "127.0.0.1:1".parse().unwrap()).with_limits(limits)
}

pub(super) fn of(backends: impl IntoIterator<Item = Backend>) -> ClusterBuilder {
    backends.into_iter().fold(Cluster::builder("web"), ClusterBuilder::add)
}

pub(super) type Answer = Result<(), BalanceError>;

/// Sends a request, and lets it get as far as it can.
pub(super) async fn send<P, A>(
    balance: &Balance<P, Dial, A>,
    name: &'static str,
) -> JoinHandle<Answer>
where
    P: Policy + Send + Sync + 'static,
    A: Affinity<Get, Tie: Send> + Send + Sync + 'static,
{
    let call = balance.clone().oneshot(Get(name));
    let task = tokio::spawn(call.map(|answer| answer.map(drop)));
    settle().await;
    task
}

pub(super) async fn settle() {
    for _ in 0..20 {
        yield_now().await;
    }
}

pub(super) fn arrived(arrivals: &mut Arrivals) -> Vec<(String, &'static str, oneshot::Sender<()>)> {
    std::iter::from_fn(|| arrivals.try_recv().ok()).map(|(b, r, a)| (b.to_string(), r, a)).collect()
}

pub(super) fn names(arrived: &[(String, &'static str, oneshot::Sender<()>)]) -> Vec<&'static str> {
    arrived.iter().map(|(_, request, _)| *request).collect()
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_kept_and_slots_go_out_in_the_order_of_arrival() {
    let web = of([backend("a", Limits::none().max(2))]).build().unwrap();
    let (dial, mut arrivals) = gate();
    let balance = Balance::new(web.clone(), RoundRobin::new(), dial);
    let mut tasks = Vec::new();
    for name in ["1", "2", "3", "4", "5"] {
        tasks.push(send(&balance, name).await);
    }
    let mut here = arrived(&mut arrivals);
    assert_eq!(names(&here), ["1", "2"]);
    assert_eq!(member(&web, 0).in_flight(), 2);
    let (_, _, answer) = here.remove(1);
    answer.send(()).unwrap();
    settle().await;
    assert_eq!(names(&arrived(&mut arrivals)), ["3"], "and its answer is dropped: it fails");
    settle().await;
    // The failure of 3 was no answer, so 4 came.
    let next = arrived(&mut arrivals);
    assert_eq!(names(&next), ["4"]);
    drop(here);
    settle().await;
    assert_eq!(names(&arrived(&mut arrivals)), ["5"]);
    drop(next);
    for task in tasks {
        let _ = task.await.unwrap();
    }
    assert_eq!(member(&web, 0).in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_slot_in_time_is_told_so() {
    let web = of([backend("a", Limits::none().max(1))]).build().unwrap();
    let (dial, mut arrivals) = gate();
    let balance = BalanceLayer::new(web.clone(), RoundRobin::new())
        .queue_timeout(Duration::from_secs(3))
        .layer(dial);
    let first = send(&balance, "1").await;
    let start = Instant::now();
    let second = send(&balance, "2").await.await.unwrap();
    assert!(matches!(second, Err(BalanceError::QueueTimeout { .. })), "{second:?}");
    assert_eq!(start.elapsed(), Duration::from_secs(3));
    let third = send(&balance, "3").await;
    arrived(&mut arrivals).remove(0).2.send(()).unwrap();
    first.await.unwrap().unwrap();
    settle().await;
    assert_eq!(names(&arrived(&mut arrivals)), ["3"], "who has left gets no slot");
    third.abort();
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_the_cluster_has_an_end() {
    let web = of([backend("a", Limits::none().max(1))]).queue(1).build().unwrap();
    let (dial, mut arrivals) = gate();
    let balance = Balance::new(web, RoundRobin::new(), dial);
    let _first = send(&balance, "1").await;
    let second = send(&balance, "2").await;
    let third = send(&balance, "3").await.await.unwrap();
    assert!(matches!(third, Err(BalanceError::QueueFull { .. })), "{third:?}");
    second.abort();
    settle().await;
    let fourth = send(&balance, "4").await;
    arrived(&mut arrivals).remove(0).2.send(()).unwrap();
    settle().await;
    assert_eq!(names(&arrived(&mut arrivals)), ["4"], "a place that was given up is free again");
    fourth.abort();
}

#[tokio::test(start_paused = true)]
async fn slots_come_back_when_requests_are_cancelled_or_panic() {
    let web = of([backend("a", Limits::none().max(1))]).build().unwrap();
    let (dial, mut arrivals) = gate();
    let balance = Balance::new(web.clone(), RoundRobin::new(), dial);
    let first = send(&balance, "1").await;
    let second = send(&balance, "2").await;
    let third = send(&balance, "3").await;
    first.abort();
    settle().await;
    // What was granted to the second, which has not looked yet, goes on to the third.
    second.abort();
    settle().await;
    assert_eq!(names(&arrived(&mut arrivals)).last(), Some(&"3"));
    third.abort();
    settle().await;
    assert_eq!(member(&web, 0).in_flight(), 0);

    let panics = service_fn(|_: Arc<Backend>| async {
        if true {
            panic!("on purpose");
        }
        Ok::<_, BoxError>(Dialled::new(service_fn(|_| async { Err("never".into()) })))
    });
    let call = Balance::new(web.clone(), RoundRobin::new(), panics).oneshot(Get("1"));
    assert!(tokio::spawn(call.map(drop)).await.unwrap_err().is_panic());
    assert_eq!(member(&web, 0).in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_room_is_passed_over() {
    let web = of([backend("a", Limits::none().max(1)), backend("b", Limits::none())]).build();
    let (dial, mut arrivals) = gate();
    let balance = Balance::new(web.unwrap(), RoundRobin::new(), dial);
    let mut tasks = Vec::new();
    for name in ["1", "2", "3", "4"] {
        tasks.push(send(&balance, name).await);
    }
    let backends: Vec<_> = arrived(&mut arrivals).into_iter().map(|(b, _, _)| b).collect();
    assert_eq!(backends, ["a", "b", "b", "b"]);
}

/// Pins everything to one backend.
#[derive(Debug)]
pub(super) struct PinTo(pub(super) BackendId, pub(super) StickyContract);

#[derive(Debug)]
pub(super) struct PinnedTo(Pin);

impl<Req> Affinity<Req> for PinTo {
    type Tie = PinnedTo;

    fn tie(&self, _: &Req, _: std::time::Instant) -> PinnedTo {
        PinnedTo(Pin::new(self.0, "test", self.1))
    }
}

impl Tie for PinnedTo {
    fn poll_pin(&mut self, _: &mut Context<'_>) -> Poll<Option<Pin>> {
        Poll::Ready(Some(self.0))
    }
}

pub(super) fn pinned(
    web: &Cluster,
    contract: StickyContract,
    dial: Dial,
) -> Balance<RoundRobin, Dial, PinTo> {
    let pin = PinTo(member(web, 0).id(), contract);
    let layer = BalanceLayer::new(web.clone(), RoundRobin::new()).affinity(pin);
    layer.retry_pause(Duration::from_secs(1)).layer(dial)
}

#[tokio::test(start_paused = true)]
async fn a_slot_goes_to_whoever_came_first_of_both_lines() {
    let web = of([backend("a", Limits::none().max(1))]).build().unwrap();
    let (dial, mut arrivals) = gate();
    let any = Balance::new(web.clone(), RoundRobin::new(), dial.clone());
    let own = pinned(&web, StickyContract::new(), dial);
    let _tasks = [
        send(&any, "first").await,
        send(&own, "own 1").await,
        send(&any, "any 2").await,
        send(&own, "own 3").await,
    ];
    assert_eq!(member(&web, 0).queued(), 2);
    let mut order = Vec::new();
    for _ in 0..4 {
        let mut here = arrived(&mut arrivals);
        order.append(&mut names(&here));
        here.remove(0).2.send(()).unwrap();
        settle().await;
    }
    assert_eq!(order, ["first", "own 1", "any 2", "own 3"]);
    assert_eq!((member(&web, 0).queued(), member(&web, 0).in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_queue_of_a_backend_its_clients_go_to_others() {
    let web = of([backend("a", Limits::none().max(1).queue(1)), backend("b", Limits::none())]);
    let (web, (dial, mut arrivals)) = (web.build().unwrap(), gate());
    let balance = pinned(&web, StickyContract::new(), dial);
    let _tasks = [send(&balance, "1").await, send(&balance, "2").await, send(&balance, "3").await];
    let here = arrived(&mut arrivals);
    assert_eq!(names(&here), ["1", "3"]);
    assert_eq!(here[1].0, "b");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_backend_that_goes_chooses_anew() {
    let web = of([backend("a", Limits::none().max(1)), backend("b", Limits::none())]);
    let (web, (dial, mut arrivals)) = (web.build().unwrap(), gate());
    let balance = pinned(&web, StickyContract::new(), dial);
    let _tasks = [send(&balance, "1").await, send(&balance, "2").await];
    assert_eq!(names(&arrived(&mut arrivals)), ["1"]);
    web.set_up(&member(&web, 0), false);
    settle().await;
    let here = arrived(&mut arrivals);
    assert_eq!((names(&here), &*here[0].0), (vec!["2"], "b"));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_any_backend_is_served_by_one_that_comes_and_told_that_all_are_gone() {
    let web = of([backend("a", Limits::none().max(1))]).build().unwrap();
    let (dial, mut arrivals) = gate();
    let balance = Balance::new(web.clone(), RoundRobin::new(), dial);
    let _first = send(&balance, "1").await;
    let second = send(&balance, "2").await;
    web.update(|change| change.add(backend("b", Limits::none().max(1)))).unwrap();
    settle().await;
    let here = arrived(&mut arrivals);
    assert_eq!((names(&here), &*here[1].0), (vec!["1", "2"], "b"));
    let third = send(&balance, "3").await;
    web.update(|change| {
        change.set_state("a", State::Maintenance);
        change.set_weight("b", 0);
    })
    .unwrap();
    let third = third.await.unwrap();
    assert!(matches!(third, Err(BalanceError::NoBackend { .. })), "{third:?}");
    drop(here);
    let _ = second.await;
}

#[tokio::test(start_paused = true)]
async fn the_minimum_grows_to_the_maximum_with_those_who_wait() {
    let limits = Limits::none().min(1).max(4);
    let web = of([backend("a", limits)]).full_load(8).build().unwrap();
    let (dial, mut arrivals) = gate();
    let balance = Balance::new(web, RoundRobin::new(), dial);
    let mut tasks = Vec::new();
    let mut counts = Vec::new();
    let mut here = Vec::new();
    for name in ["1", "2", "3", "4", "5", "6", "7", "8", "9"] {
        tasks.push(send(&balance, name).await);
        here.append(&mut arrived(&mut arrivals));
        counts.push(here.len());
    }
    // 4 × load / 8, at least 1.
    assert_eq!(counts, [1, 1, 1, 2, 2, 3, 3, 4, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_pinned_client_is_pinned_anew_or_refused_or_waits_as_the_contract_says() {
    let web = of([backend("a", Limits::none()), backend("b", Limits::none())]).build().unwrap();
    let (dial, mut arrivals) = gate();
    web.set_up(&member(&web, 0), false);

    let repin = pinned(&web, StickyContract::new(), dial.clone());
    let _repin = send(&repin, "repin").await;
    assert_eq!(arrived(&mut arrivals)[0].0, "b");

    let fail = StickyContract::new().on_down(OnPinnedDown::Fail);
    let error = send(&pinned(&web, fail, dial.clone()), "fail").await.await.unwrap().unwrap_err();
    let BalanceError::PinnedDown { backend, .. } = error else { panic!("{error}") };
    assert_eq!(&*backend, "a");

    let wait = StickyContract::new().on_down(OnPinnedDown::Wait(Duration::from_secs(5)));
    let start = Instant::now();
    let waits = send(&pinned(&web, wait, dial.clone()), "wait").await;
    let (_, _, answer) = arrivals.recv().await.map(|(b, r, a)| (b.to_string(), r, a)).unwrap();
    assert_eq!(start.elapsed(), Duration::from_secs(5), "then as with `Repin`");
    answer.send(()).unwrap();
    waits.await.unwrap().unwrap();

    let _comes_back = send(&pinned(&web, wait, dial), "back").await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(names(&arrived(&mut arrivals)), [""; 0]);
    web.set_up(&member(&web, 0), true);
    settle().await;
    assert_eq!(arrived(&mut arrivals)[0].0, "a");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_drains_is_honoured_or_left_as_the_contract_says() {
    let web = of([backend("a", Limits::none()), backend("b", Limits::none())]).build().unwrap();
    let (dial, mut arrivals) = gate();
    for drain in [State::Drain, State::Ready] {
        web.update(|change| {
            change.set_state("a", drain);
            change.set_weight("a", u16::from(drain != State::Ready));
        })
        .unwrap();
        let honour = pinned(&web, StickyContract::new(), dial.clone());
        let _honour = send(&honour, "honour").await;
        assert_eq!(arrived(&mut arrivals)[0].0, "a", "{drain:?}");
        let migrate = StickyContract::new().on_drain(OnDrain::Migrate);
        let _migrate = send(&pinned(&web, migrate, dial.clone()), "migrate").await;
        assert_eq!(arrived(&mut arrivals)[0].0, "b", "{drain:?}");
        let _new = send(&Balance::new(web.clone(), RoundRobin::new(), dial.clone()), "new").await;
        assert_eq!(arrived(&mut arrivals)[0].0, "b", "{drain:?}: nobody new");
    }
    web.update(|change| change.set_state("a", State::Maintenance)).unwrap();
    let _out = send(&pinned(&web, StickyContract::new(), dial), "out").await;
    assert_eq!(arrived(&mut arrivals)[0].0, "b", "maintenance is for everybody");
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_backend_cannot_be_dialled_moves_only_if_the_contract_lets_it() {
    let web = cluster(&["a", "b"]);
    let net = Net::new(|name, _| if name == "a" { Then::Refuse } else { Then::Answer });
    let pin = |contract| PinTo(member(&web, 0).id(), contract);
    let layer = BalanceLayer::new(web.clone(), RoundRobin::new());
    let repin = layer.clone().affinity(pin(StickyContract::new())).layer(net.clone());
    repin.oneshot(Post("1")).await.unwrap();
    assert_eq!(net.log(), ["dial a", "dial b", "b 1"]);

    let net = Net::new(|name, _| if name == "a" { Then::Refuse } else { Then::Answer });
    let fail = StickyContract::new().on_down(OnPinnedDown::Fail);
    let start = Instant::now();
    let error = layer.affinity(pin(fail)).layer(net.clone()).oneshot(Post("1")).await.unwrap_err();
    assert!(matches!(error, BalanceError::Dial { tries: 4, .. }), "{error}");
    assert_eq!(net.log(), ["dial a"; 4]);
    assert_eq!(start.elapsed(), Duration::from_secs(3), "a pause before each further try");
}

#[tokio::test(start_paused = true)]
async fn a_client_of_a_backend_that_has_left_for_good_is_not_refused_for_ever() {
    let web = of([backend("a", Limits::none()), backend("b", Limits::none())]).build().unwrap();
    let (dial, mut arrivals) = gate();
    let fail = pinned(&web, StickyContract::new().on_down(OnPinnedDown::Fail), dial);
    web.update(|change| change.remove("a")).unwrap();
    let _sent = send(&fail, "x").await;
    assert_eq!(names(&arrived(&mut arrivals)), ["x"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_may_not_move_does_not_because_of_a_full_queue() {
    let web = of([backend("a", Limits::none().max(1).queue(1)), backend("b", Limits::none())]);
    let (web, (dial, _arrivals)) = (web.build().unwrap(), gate());
    let fail = pinned(&web, StickyContract::new().on_down(OnPinnedDown::Fail), dial);
    let _busy = [send(&fail, "1").await, send(&fail, "2").await];
    let third = send(&fail, "3").await.await.unwrap();
    assert!(matches!(third, Err(BalanceError::QueueFull { .. })), "{third:?}");
}

/// Follows whoever chose first.
#[derive(Clone, Debug, Default)]
struct Together(Arc<Mutex<Option<BackendId>>>);

impl<Req> Affinity<Req> for Together {
    type Tie = Self;

    fn tie(&self, _: &Req, _: std::time::Instant) -> Self {
        self.clone()
    }
}

impl Tie for Together {
    fn propose(&mut self, backend: &Backend) -> BackendId {
        *self.0.lock().unwrap().get_or_insert(backend.id())
    }
}

#[tokio::test(start_paused = true)]
async fn simultaneous_requests_of_one_client_agree_also_when_they_have_to_wait() {
    let limits = Limits::none().max(1);
    let web = of([backend("a", limits), backend("b", limits)]).build().unwrap();
    let (dial, mut arrivals) = gate();
    let _busy = [
        send(&Balance::new(web.clone(), RoundRobin::new(), dial.clone()), "busy").await,
        send(&Balance::new(web.clone(), RoundRobin::starting_at(1), dial.clone()), "busy").await,
    ];
    let mut busy = arrived(&mut arrivals);
    let layer = BalanceLayer::new(web.clone(), RoundRobin::new()).affinity(Together::default());
    let balance = layer.layer(dial);
    let _tasks = [send(&balance, "1").await, send(&balance, "2").await];
    for _ in 0..2 {
        busy.remove(0).2.send(()).unwrap();
        settle().await;
    }
    let here = arrived(&mut arrivals);
    assert_eq!(names(&here), ["1"]);
    let chosen = here[0].0.clone();
    here.into_iter().for_each(|(_, _, answer)| answer.send(()).unwrap());
    settle().await;
    let here = arrived(&mut arrivals);
    assert_eq!((names(&here), &here[0].0), (vec!["2"], &chosen));
}

/// Counts what it is told.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<&'static str>>>);

impl Observer for Told {
    fn more(&self, _: &Arc<Backend>) {
        self.0.lock().unwrap().push("more");
    }

    fn less(&self, _: &Arc<Backend>) {
        self.0.lock().unwrap().push("less");
    }

    fn answered(&self, _: &Arc<Backend>, _: Duration, _: std::time::Instant) {
        self.0.lock().unwrap().push("answered");
    }

    fn failed(&self, _: &Arc<Backend>, _: Duration, _: std::time::Instant) {
        self.0.lock().unwrap().push("failed");
    }
}

impl Policy for Told {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let position = table.next_eligible(0, context.tried)?;
        Some(Pick::new(Arc::clone(&table.members()[position]), "told", Reason::Custom("first")))
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        Some(Arc::new(self.clone()))
    }
}

#[tokio::test]
async fn a_policy_is_told_of_its_leases_answers_and_failures() {
    let told = Told::default();
    let net = Net::steps(&[Then::Refuse, Then::Answer]);
    let response = Balance::new(cluster(&["a", "b"]), told.clone(), net).oneshot(Post("1")).await;
    assert_eq!(*told.0.lock().unwrap(), ["more", "failed", "less", "more", "answered"]);
    drop(response);
    assert_eq!(told.0.lock().unwrap().last(), Some(&"less"), "the end of the body");
}
