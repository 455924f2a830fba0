//! Requests that find out whether a backend works again, and clients of a backend that is out.

use std::collections::HashMap;
use std::future::{Future, pending, ready};
use std::pin::Pin as Pinned;
use std::sync::Mutex;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use http::Request;
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt};

use super::*;
use crate::{
    Affinity, Balance, BalanceError, BalanceLayer, BoxError, Leased, OnPinnedDown, Pin, Policy,
    RingHash, RoundRobin, StickyContract, Tie,
};

type Body = Full<&'static [u8]>;
type Answer = Response<Leased<Body>>;

/// What backends do with requests: they answer 200 where nothing else is said.
#[derive(Clone, Debug, Default)]
struct Net(Arc<Mutex<HashMap<String, Then>>>);

#[derive(Clone, Copy, Debug)]
enum Then {
    Status(u16),
    Refuse,
    Hang,
}

impl Net {
    fn set(&self, name: &str, then: Then) {
        self.0.lock().unwrap().insert(name.into(), then);
    }
}

impl Service<Arc<Backend>> for Net {
    type Response = Peer;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Peer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        let then = self.0.lock().unwrap().get(&**backend.name()).copied();
        let then = then.unwrap_or(Then::Status(200));
        ready(match then {
            Then::Refuse => Err("refused".into()),
            then => Ok(Peer(then, Arc::clone(backend.name()))),
        })
    }
}

struct Peer(Then, Arc<str>);

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pinned<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let Then::Status(status) = self.0 else { return Box::pin(pending()) };
        let response = Response::builder().status(status).extension(Arc::clone(&self.1));
        Box::pin(ready(Ok(response.body(Full::default()).unwrap())))
    }
}

fn request(method: &str) -> Request<Body> {
    Request::builder().method(method).uri("/").body(Full::default()).unwrap()
}

fn name(answer: Result<Answer, BalanceError>) -> String {
    answer.unwrap().extensions().get::<Arc<str>>().unwrap().to_string()
}

async fn ask<P, A>(balance: &Balance<P, Net, A>, method: &str) -> Result<Answer, BalanceError>
where
    P: Policy,
    A: Affinity<Request<Body>>,
{
    balance.clone().oneshot(request(method)).await
}

/// Of two backends the first is on trial.
async fn on_trial(outlier: Outlier) -> (Cluster, Net) {
    let web = web(2, outlier);
    answers(&web, 0, &[500; 5]);
    after(&web, secs(30)).await;
    assert_eq!(condition(&web, 0), Condition::Trial);
    assert!(!web.table().is_eligible(0));
    (web, Net::default())
}

#[tokio::test(start_paused = true)]
async fn requests_on_trial_bring_a_backend_back_one_by_one() {
    let (web, net) = on_trial(Outlier::new()).await;
    let balance = Balance::new(web.clone(), RoundRobin::new(), net);
    for _ in 0..2 {
        assert_eq!(name(ask(&balance, "GET").await), "b0");
        assert_eq!(condition(&web, 0), Condition::Trial);
    }
    assert_eq!(name(ask(&balance, "GET").await), "b0");
    assert_eq!(condition(&web, 0), Condition::Up);
    assert_eq!(web.table().eligible_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_on_trial_is_a_longer_ejection_that_no_client_notices() {
    for then in [Then::Refuse, Then::Status(500)] {
        let (web, net) = on_trial(Outlier::new()).await;
        let balance = Balance::new(web.clone(), RoundRobin::new(), net.clone());
        assert_eq!(name(ask(&balance, "GET").await), "b0");
        net.set("b0", then);
        let answered = name(ask(&balance, "GET").await);
        assert_eq!(answered == "b1", matches!(then, Then::Refuse));
        assert_eq!(condition(&web, 0), Condition::Ejected);
        after(&web, secs(59)).await;
        assert_eq!(condition(&web, 0), Condition::Ejected, "twice as long");
        assert_eq!(name(ask(&balance, "GET").await), "b1");
        after(&web, secs(1)).await;
        net.set("b0", Then::Status(200));
        for n in 0..3 {
            assert_eq!(condition(&web, 0), Condition::Trial, "{n}: all three count anew");
            ask(&balance, "GET").await.unwrap();
        }
        assert_eq!(condition(&web, 0), Condition::Up);
    }
}

#[tokio::test(start_paused = true)]
async fn of_simultaneous_requests_one_is_on_trial_and_who_gives_up_gives_the_slot_back() {
    let (web, net) = on_trial(Outlier::new()).await;
    let balance = Balance::new(web.clone(), RoundRobin::new(), net.clone());
    net.set("b0", Then::Hang);
    let mut first = Box::pin(ask(&balance, "GET"));
    assert!((&mut first).now_or_never().is_none(), "it hangs at b0");
    assert_eq!(name(ask(&balance, "GET").await), "b1");
    net.set("b0", Then::Status(200));
    assert_eq!(name(ask(&balance, "GET").await), "b1", "the slot is taken still");
    drop(first);
    assert_eq!(condition(&web, 0), Condition::Trial, "nothing was learnt");
    assert_eq!(name(ask(&balance, "GET").await), "b0");
}

#[tokio::test(start_paused = true)]
async fn the_slot_is_free_at_the_head_of_the_answer() {
    let (web, net) = on_trial(Outlier::new()).await;
    let balance = Balance::new(web.clone(), RoundRobin::new(), net);
    let first = ask(&balance, "GET").await.unwrap();
    let second = ask(&balance, "GET").await;
    assert_eq!((name(Ok(first)), name(second)), ("b0".into(), "b0".into()));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_sent_again_takes_part_after_an_interval() {
    let (web, net) = on_trial(Outlier::new()).await;
    let balance = Balance::new(web, RoundRobin::new(), net);
    assert_eq!(name(ask(&balance, "POST").await), "b1");
    advance(secs(10) - Duration::from_millis(1)).await;
    assert_eq!(name(ask(&balance, "POST").await), "b1");
    advance(Duration::from_millis(1)).await;
    assert_eq!(name(ask(&balance, "POST").await), "b0");
}

#[tokio::test(start_paused = true)]
async fn outcomes_of_requests_from_before_decide_no_trial() {
    let (web, _) = on_trial(Outlier::new().trial_successes(1)).await;
    answers(&web, 0, &[500, 200, 500]);
    assert_eq!(condition(&web, 0), Condition::Trial);
}

#[tokio::test(start_paused = true)]
async fn a_backup_is_tried_only_when_backups_are_used() {
    let spare = |n| Backend::new(format!("s{n}"), "127.0.0.1:1".parse().unwrap());
    let web = of(1).add(spare(0).with_role(Role::Backup)).add(spare(1).with_role(Role::Backup));
    let web = web.outlier(Outlier::new()).build().unwrap();
    answers(&web, 1, &[500; 5]);
    after(&web, secs(30)).await;
    assert!(web.table().trials().is_empty(), "the active one is well");
    web.set_up(&member(&web, 0), false);
    assert_eq!(web.table().trials(), [1]);
}

#[tokio::test(start_paused = true)]
async fn who_is_kept_in_because_others_are_down_is_on_trial_all_the_same() {
    let (web, net) = on_trial(Outlier::new()).await;
    web.set_up(&member(&web, 1), false);
    assert!(web.table().is_eligible(0));
    let balance = Balance::new(web.clone(), RoundRobin::new(), net.clone());
    for _ in 0..2 {
        assert_eq!(name(ask(&balance, "GET").await), "b0");
    }
    net.set("b0", Then::Status(500));
    ask(&balance, "GET").await.unwrap();
    assert_eq!(condition(&web, 0), Condition::Ejected);
    assert!(web.table().is_eligible(0), "nobody else is left");
}

#[tokio::test(start_paused = true)]
async fn those_who_are_pinned_are_the_trial_of_what_drains() {
    let (web, _) = on_trial(Outlier::new().trial_successes(1)).await;
    web.update(|change| change.set_state("b0", State::Drain)).unwrap();
    assert!(web.table().trials().is_empty());
    answers(&web, 0, &[200]);
    web.update(|change| change.set_state("b0", State::Ready)).unwrap();
    assert_eq!(condition(&web, 0), Condition::Up);
}

/// Every client is pinned to this one.
#[derive(Debug)]
struct PinTo(Pin);

struct Pinning(Pin);

impl<Req> Affinity<Req> for PinTo {
    type Tie = Pinning;

    fn tie(&self, _: &Req, _: Instant) -> Pinning {
        Pinning(self.0)
    }
}

impl Tie for Pinning {
    fn poll_pin(&mut self, _: &mut Context<'_>) -> Poll<Option<Pin>> {
        Poll::Ready(Some(self.0))
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_pinned_to_a_backend_that_is_out_or_on_trial_has_what_the_contract_says() {
    for out_for in [0, 30] {
        for on_down in [OnPinnedDown::Repin, OnPinnedDown::Fail] {
            let web = web(2, Outlier::new());
            answers(&web, 0, &[500; 5]);
            after(&web, secs(out_for)).await;
            let contract = StickyContract::new().on_down(on_down);
            let pin = PinTo(Pin::new(member(&web, 0).id(), "cookie", contract));
            let layer = BalanceLayer::new(web, RoundRobin::new()).affinity(pin);
            let answer = ask(&layer.layer(Net::default()), "GET").await;
            match on_down {
                OnPinnedDown::Repin => assert_eq!(name(answer), "b1", "{out_for}"),
                // Who may go nowhere else tries it out.
                _ if out_for == 30 => assert_eq!(name(answer), "b0"),
                _ => assert!(matches!(answer, Err(BalanceError::PinnedDown { .. })), "{out_for}"),
            }
        }
    }
}

/// Every client has this key.
#[derive(Debug)]
struct KeyIs(u64);

struct Keyed(u64);

impl<Req> Affinity<Req> for KeyIs {
    type Tie = Keyed;

    fn tie(&self, _: &Req, _: Instant) -> Keyed {
        Keyed(self.0)
    }
}

impl Tie for Keyed {
    fn hash(&self) -> Option<u64> {
        Some(self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_leaves_a_backend_that_is_ejected_and_returns_to_it() {
    let web = web(3, Outlier::new());
    let layer = BalanceLayer::new(web.clone(), RingHash::new()).affinity(KeyIs(0x5eed_5eed_5eed));
    let balance = layer.layer(Net::default());
    let home = name(ask(&balance, "GET").await);
    let at = web.table().position_of_name(&home).unwrap();
    answers(&web, at, &[500; 5]);
    let other = name(ask(&balance, "POST").await);
    assert_ne!(other, home);
    assert_eq!(name(ask(&balance, "POST").await), other, "and all of them to the same one");
    after(&web, secs(30)).await;
    for _ in 0..4 {
        assert_eq!(name(ask(&balance, "GET").await), home, "on trial, then in");
    }
    assert_eq!(condition(&web, at), Condition::Up);
}

/// Pins whoever it lets settle, as a cookie would.
#[derive(Debug, Default)]
struct Cookies(Arc<Mutex<Option<Pin>>>);

struct Crumb(Arc<Mutex<Option<Pin>>>);

impl<Req> Affinity<Req> for Cookies {
    type Tie = Crumb;

    fn tie(&self, _: &Req, _: Instant) -> Crumb {
        Crumb(Arc::clone(&self.0))
    }
}

impl Tie for Crumb {
    fn poll_pin(&mut self, _: &mut Context<'_>) -> Poll<Option<Pin>> {
        Poll::Ready(*self.0.lock().unwrap())
    }

    fn settled(&mut self, pick: &crate::Pick) {
        let contract = StickyContract::new().on_down(OnPinnedDown::Fail);
        *self.0.lock().unwrap() = Some(Pin::new(pick.backend.id(), "cookie", contract));
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_on_trial_is_not_pinned_to_what_may_fail() {
    let (web, net) = on_trial(Outlier::new()).await;
    let layer = BalanceLayer::new(web, RoundRobin::new()).affinity(Cookies::default());
    let balance = layer.layer(net);
    for n in 0..5 {
        let answer = ask(&balance, "GET").await;
        assert!(answer.is_ok(), "request {n} of a client that was new: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_with_nobody_but_strictly_pinned_clients_returns() {
    let (web, net) = on_trial(Outlier::new()).await;
    let contract = StickyContract::new().on_down(OnPinnedDown::Fail);
    let pin = PinTo(Pin::new(member(&web, 0).id(), "cookie", contract));
    let balance = BalanceLayer::new(web.clone(), RoundRobin::new()).affinity(pin).layer(net);
    for _ in 0..100 {
        advance(secs(3600)).await;
        let _ = ask(&balance, "GET").await;
    }
    assert_eq!(condition(&web, 0), Condition::Up, "days later");
}
