use std::sync::Mutex;

use bartizan_net::{Conn, ConnInfo};
use futures_util::FutureExt;
use http::Response;
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep, timeout};
use tower::{ServiceExt, service_fn};
use tower_test::mock;

use super::*;
use crate::{NotSent, RoundRobin, Unanswered};

/// A request that must not be sent twice, and cannot be copied.
#[derive(Debug, PartialEq)]
struct Post(&'static str);

impl Resend for Post {
    type Spare = Self;

    fn restore(spare: Self) -> Option<Self> {
        Some(spare)
    }

    fn spare(&self) -> Option<Self> {
        None
    }
}

/// A request that may be sent twice.
#[derive(Debug, PartialEq)]
struct Get(&'static str);

impl Resend for Get {
    type Spare = Self;

    fn restore(spare: Self) -> Option<Self> {
        Some(spare)
    }

    fn spare(&self) -> Option<Self> {
        Some(Self(self.0))
    }
}

trait Text {
    fn text(&self) -> &'static str;
}

impl Text for Post {
    fn text(&self) -> &'static str {
        self.0
    }
}

impl Text for Get {
    fn text(&self) -> &'static str {
        self.0
    }
}

/// What a backend does with one try.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// The dial service fails in `poll_ready`.
    Broken,
    /// The dial fails.
    Refuse,
    /// What was dialled fails in `poll_ready`.
    Stale,
    /// Gives the request back.
    NotSent,
    /// Takes the request and answers nothing.
    Silent,
    /// Takes the request and fails.
    Fail,
    Answer,
}

/// A dial service whose backends do what the test says, and which notes what it was asked for.
struct Net {
    script: Arc<Script>,
    log: Arc<Mutex<Vec<String>>>,
    tries: Arc<Mutex<usize>>,
}

/// Of the backend's name and the number of the try, from 0.
type Script = dyn Fn(&str, usize) -> Then;

impl Clone for Net {
    fn clone(&self) -> Self {
        let (script, log) = (Arc::clone(&self.script), Arc::clone(&self.log));
        Self { script, log, tries: Arc::clone(&self.tries) }
    }
}

impl Net {
    fn new(script: impl Fn(&str, usize) -> Then + 'static) -> Self {
        Self { script: Arc::new(script), log: Arc::default(), tries: Arc::default() }
    }

    /// One step per try, whichever backend it is.
    fn steps(steps: &'static [Then]) -> Self {
        Self::new(move |_, n| steps[n])
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Service<Arc<Backend>> for Net {
    type Response = Peer;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Peer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut tries = self.tries.lock().unwrap();
        if (self.script)("", *tries) != Then::Broken {
            return Poll::Ready(Ok(()));
        }
        *tries += 1;
        Poll::Ready(Err("broken".into()))
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        let mut tries = self.tries.lock().unwrap();
        let then = (self.script)(backend.name(), *tries);
        *tries += 1;
        assert!(*tries < 100, "there is no end to it");
        self.log.lock().unwrap().push(format!("dial {}", backend.name()));
        std::future::ready(match then {
            Then::Refuse => Err(format!("{} refused", backend.name()).into()),
            then => Ok(Peer { then, backend, log: Arc::clone(&self.log) }),
        })
    }
}

/// A dialled backend.
struct Peer {
    then: Then,
    backend: Arc<Backend>,
    log: Arc<Mutex<Vec<String>>>,
}

impl<Req: Text + Send + 'static> Service<Req> for Peer {
    // Who answered.
    type Response = Response<Full<&'static [u8]>>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(if self.then == Then::Stale { Err("stale".into()) } else { Ok(()) })
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.log.lock().unwrap().push(format!("{} {}", self.backend.name(), request.text()));
        std::future::ready(match self.then {
            Then::NotSent => Err(NotSent::new(request, "gone".into()).into()),
            Then::Silent => Err(Unanswered::new("reset").into()),
            Then::Fail => Err("garbage".into()),
            _ => {
                let mut response = Response::new(Full::new(&b"hello"[..]));
                response.extensions_mut().insert(Arc::clone(self.backend.name()));
                Ok(response)
            }
        })
    }
}

fn cluster(names: &[&str]) -> Cluster {
    let add = |builder: crate::ClusterBuilder, name: &&str| builder.backend(name, "127.0.0.1:1");
    names.iter().fold(Cluster::builder("web"), add).build().unwrap()
}

fn over(names: &[&str], net: &Net) -> Balance<RoundRobin, Net> {
    Balance::new(cluster(names), RoundRobin::new(), net.clone())
}

fn member(cluster: &Cluster, position: usize) -> Arc<Backend> {
    Arc::clone(&cluster.table().members()[position])
}

/// Who answered.
async fn ask<M, Req, B>(
    balance: &Balance<RoundRobin, M>,
    request: Req,
) -> Result<Arc<str>, BalanceError>
where
    M: Service<Arc<Backend>, Error: Into<BoxError>> + Clone,
    M::Response: Service<Req, Error: Into<BoxError>, Response = Response<B>>,
    Req: Resend + 'static,
    B: http_body::Body,
{
    let call = timeout(Duration::from_secs(600), balance.clone().oneshot(request));
    let response = call.await.expect("it goes on and on")?;
    Ok(Arc::clone(response.extensions().get().unwrap()))
}

const GET: Get = Get("get");
const POST: Post = Post("post");

#[tokio::test]
async fn requests_go_to_the_backends_in_turn() {
    let net = Net::steps(&[Then::Answer; 4]);
    let balance = over(&["a", "b"], &net);
    for name in ["a", "b", "a", "b"] {
        assert_eq!(&*ask(&balance, POST).await.unwrap(), name);
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_before_the_request_is_handed_over_moves_on_with_it() {
    let start = Instant::now();
    for (then, log) in [
        (Then::Broken, &["dial b", "b post"][..]),
        (Then::Refuse, &["dial a", "dial b", "b post"]),
        (Then::Stale, &["dial a", "dial b", "b post"]),
        (Then::NotSent, &["dial a", "a post", "dial b", "b post"]),
    ] {
        let net = Net::new(move |_, n| [then, Then::Answer][n]);
        assert_eq!(&*ask(&over(&["a", "b"], &net), POST).await.unwrap(), "b", "{then:?}");
        assert_eq!(net.log(), log, "{then:?}");
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "without a pause");
}

#[tokio::test(start_paused = true)]
async fn three_further_backends_are_tried_and_no_fourth() {
    let start = Instant::now();
    for then in [Then::Refuse, Then::Stale] {
        let net = Net::new(move |_, _| then);
        let error = ask(&over(&["a", "b", "c", "d", "e"], &net), POST).await.unwrap_err();
        assert_eq!(net.log(), ["dial a", "dial b", "dial c", "dial d"]);
        let BalanceError::Dial { cluster, backend, tries, source } = error else {
            panic!("{error:?}")
        };
        assert_eq!((&*cluster, &*backend, tries), ("web", "d", 4));
        assert!(["d refused", "stale"].contains(&&*source.to_string()), "{source}");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_always_comes_back_unsent_is_given_up_after_as_many_tries() {
    let net = Net::new(|_, _| Then::NotSent);
    let error = ask(&over(&["a", "b", "c", "d", "e"], &net), POST).await.unwrap_err();
    assert!(matches!(&error, BalanceError::Dial { tries: 4, .. }), "{error:?}");
    assert_eq!(net.log().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn the_same_backends_are_tried_again_after_a_second() {
    let start = Instant::now();
    let net = Net::new(|_, n| if n < 3 { Then::Refuse } else { Then::Answer });
    let balance = over(&["a", "b"], &net);
    assert_eq!(&*ask(&balance, POST).await.unwrap(), "b");
    assert_eq!(net.log(), ["dial a", "dial b", "dial a", "dial b", "b post"]);
    assert_eq!(start.elapsed().as_millis() / 10, 100, "one pause per round");

    // Three pauses with only one backend.
    let start = Instant::now();
    let net = Net::new(|_, _| Then::Refuse);
    let error = ask(&over(&["a"], &net), POST).await.unwrap_err();
    assert!(matches!(&error, BalanceError::Dial { tries: 4, .. }), "{error:?}");
    assert_eq!((net.log().len(), start.elapsed().as_millis() / 10), (4, 300));
}

#[tokio::test(start_paused = true)]
async fn retries_and_the_pause_are_as_set() {
    let layer = BalanceLayer::new(cluster(&["a"]), RoundRobin::new());
    for (retries, tries, pauses) in [(0, 1, 0), (1, 2, 1), (5, 6, 5)] {
        let (start, net) = (Instant::now(), Net::new(|_, _| Then::Refuse));
        let layer = layer.clone().retries(retries).retry_pause(Duration::from_secs(10));
        ask(&layer.layer(net.clone()), POST).await.unwrap_err();
        assert_eq!((net.log().len(), start.elapsed().as_secs()), (tries, pauses * 10));
    }
}

#[tokio::test]
async fn without_an_eligible_backend_nothing_is_dialled() {
    let net = Net::new(|_, _| Then::Answer);
    let dead = cluster(&["a", "b"]);
    dead.set_up(&member(&dead, 0), false);
    dead.set_up(&member(&dead, 1), false);
    for cluster in [cluster(&[]), dead] {
        let balance = Balance::new(cluster, RoundRobin::new(), net.clone());
        let error = ask(&balance, GET).await.unwrap_err();
        assert!(matches!(&error, BalanceError::NoBackend { cluster } if &**cluster == "web"));
    }
    assert_eq!(net.log(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_goes_down_in_the_pause_is_not_tried_again() {
    let net = Net::new(|_, _| Then::Refuse);
    let web = cluster(&["a"]);
    let balance = Balance::new(web.clone(), RoundRobin::new(), net.clone());
    let down = async {
        sleep(Duration::from_millis(500)).await;
        web.set_up(&member(&web, 0), false);
    };
    let (answer, ()) = tokio::join!(ask(&balance, POST), down);
    // What went wrong says more than that nothing is left by now.
    assert!(matches!(answer, Err(BalanceError::Dial { tries: 1, .. })), "{answer:?}");
    assert_eq!(net.log(), ["dial a"]);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_cluster_with_nothing_eligible() {
    let start = Instant::now();
    let web = cluster(&["a"]);
    let net = Net::new({
        let web = web.clone();
        move |_, _| {
            web.set_up(&member(&web, 0), false);
            Then::Refuse
        }
    });
    let error = ask(&Balance::new(web, RoundRobin::new(), net), POST).await.unwrap_err();
    assert!(matches!(&error, BalanceError::Dial { tries: 1, .. }), "{error:?}");
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn that_a_backend_had_the_request_is_not_forgotten_for_a_later_dial() {
    let net = Net::new(|_, n| if n == 0 { Then::Silent } else { Then::Refuse });
    let layer = BalanceLayer::new(cluster(&["a", "b"]), RoundRobin::new()).retries(0);
    let error = ask(&layer.layer(net.clone()), GET).await.unwrap_err();
    assert!(matches!(&error, BalanceError::Call { backend, .. } if &**backend == "a"), "{error:?}");
    assert_eq!(net.log(), ["dial a", "a get", "dial b"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_safe_and_was_not_answered_is_sent_again_to_other_backends() {
    let start = Instant::now();
    let net = Net::steps(&[Then::Silent, Then::Answer]);
    assert_eq!(&*ask(&over(&["a", "b", "c"], &net), GET).await.unwrap(), "b");
    assert_eq!(net.log(), ["dial a", "a get", "dial b", "b get"]);

    // Two of three die at once.
    let net = Net::steps(&[Then::Silent, Then::Silent, Then::Answer]);
    assert_eq!(&*ask(&over(&["a", "b", "c"], &net), GET).await.unwrap(), "c");

    // As often as there are retries.
    let net = Net::new(|_, _| Then::Silent);
    let layer = BalanceLayer::new(cluster(&["a", "b", "c"]), RoundRobin::new()).retries(2);
    let error = ask(&layer.layer(net.clone()), GET).await.unwrap_err();
    assert_eq!(net.log(), ["dial a", "a get", "dial b", "b get", "dial c", "c get"]);
    let BalanceError::Call { backend, source, .. } = error else { panic!("{error:?}") };
    assert_eq!(&*backend, "c");
    assert!(source.is::<Unanswered>());
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn the_first_resend_is_no_retry_and_moves_on_like_any_other() {
    let net = Net::steps(&[Then::Silent, Then::Answer]);
    let layer = BalanceLayer::new(cluster(&["a", "b"]), RoundRobin::new()).retries(0);
    assert_eq!(&*ask(&layer.layer(net), GET).await.unwrap(), "b");

    let net = Net::steps(&[Then::NotSent, Then::Silent, Then::NotSent, Then::Answer]);
    assert_eq!(&*ask(&over(&["a", "b", "c", "d"], &net), GET).await.unwrap(), "d");
}

#[tokio::test]
async fn what_is_not_safe_or_was_answered_is_not_sent_again() {
    for then in [Then::Silent, Then::Fail] {
        let net = Net::new(move |_, _| then);
        let error = ask(&over(&["a", "b"], &net), POST).await.unwrap_err();
        assert!(matches!(&error, BalanceError::Call { backend, .. } if &**backend == "a"));
        assert_eq!(net.log(), ["dial a", "a post"], "{then:?}");
    }
    let net = Net::new(|_, _| Then::Fail);
    let error = ask(&over(&["a", "b"], &net), GET).await.unwrap_err();
    assert_eq!(net.log(), ["dial a", "a get"]);
    assert_eq!(error.to_string(), "web: a failed");
}

#[tokio::test]
async fn clones_and_services_of_one_layer_share_the_turns() {
    let net = Net::new(|_, _| Then::Answer);
    let layer = BalanceLayer::new(cluster(&["a", "b", "c"]), RoundRobin::new());
    let one = layer.layer(net.clone());
    let clone = one.clone();
    let other = layer.clone().layer(net);
    for (balance, name) in [(&one, "a"), (&clone, "b"), (&other, "c"), (&one, "a")] {
        assert_eq!(&*ask(balance, GET).await.unwrap(), name);
    }
}

type Answer = Response<Full<&'static [u8]>>;
type Dialled = mock::Mock<Post, Answer>;
type Mocked = Balance<RoundRobin, mock::Mock<Arc<Backend>, Dialled>>;

/// `Mock`s panic when they are called through an instance that was not polled ready.
fn mocked() -> (Mocked, Arc<Backend>, Handles) {
    let web = cluster(&["a"]);
    let ((dial, dials), (conn, calls)) = (mock::pair(), mock::pair());
    let backend = member(&web, 0);
    (Balance::new(web, RoundRobin::new(), dial), backend, Handles { dials, conn, calls })
}

struct Handles {
    dials: mock::Handle<Arc<Backend>, Dialled>,
    conn: Dialled,
    calls: mock::Handle<Post, Answer>,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Called,
    DialNotReady,
    Dialling,
    ConnNotReady,
    Calling,
    Body,
    Ended,
}

/// Brings a request as far as `stage`, drops it there, and says what was in flight before.
async fn dropped_at(stage: Stage) -> (usize, usize) {
    let (mut balance, backend, mut handles) = mocked();
    assert!(balance.ready().now_or_never().is_some());
    let mut future = Box::pin(balance.call(POST));
    if stage >= Stage::DialNotReady {
        handles.dials.allow(0);
        assert!(future.as_mut().now_or_never().is_none());
    }
    if stage >= Stage::Dialling {
        handles.dials.allow(1);
        assert!(future.as_mut().now_or_never().is_none());
    }
    if stage >= Stage::ConnNotReady {
        handles.calls.allow(0);
        let (dialled, respond) = handles.dials.next_request().await.unwrap();
        assert_eq!(dialled.id(), backend.id());
        respond.send_response(handles.conn.clone());
        assert!(future.as_mut().now_or_never().is_none());
    }
    if stage < Stage::Calling {
        let before = backend.in_flight();
        drop(future);
        return (before, backend.in_flight());
    }
    handles.calls.allow(1);
    assert!(future.as_mut().now_or_never().is_none());
    let (request, respond) = handles.calls.next_request().await.unwrap();
    assert_eq!(request, POST);
    if stage == Stage::Calling {
        let before = backend.in_flight();
        drop(future);
        return (before, backend.in_flight());
    }
    respond.send_response(Response::new(Full::new(&b"hello"[..])));
    let mut body = future.now_or_never().unwrap().unwrap().into_body();
    let before = backend.in_flight();
    if stage == Stage::Ended {
        body.frame().await.unwrap().unwrap();
        return (before, backend.in_flight());
    }
    drop(body);
    (before, backend.in_flight())
}

#[tokio::test]
async fn is_in_flight_from_the_pick_to_the_end_and_not_when_it_is_dropped() {
    for (stage, before) in [
        (Stage::Called, 0),
        (Stage::DialNotReady, 1),
        (Stage::Dialling, 1),
        (Stage::ConnNotReady, 1),
        (Stage::Calling, 1),
        (Stage::Body, 1),
        (Stage::Ended, 1),
    ] {
        assert_eq!(dropped_at(stage).await, (before, 0), "{stage:?}");
    }
}

#[tokio::test]
async fn a_failed_try_is_not_in_flight() {
    for then in [Then::Refuse, Then::NotSent, Then::Silent] {
        let web = cluster(&["a", "b"]);
        let net = Net::new(move |_, n| [then, Then::Answer][n]);
        let balance = Balance::new(web.clone(), RoundRobin::new(), net);
        let response = balance.oneshot(GET).await.unwrap();
        let in_flight = || (member(&web, 0).in_flight(), member(&web, 1).in_flight());
        assert_eq!(in_flight(), (0, 1), "{then:?}");
        drop(response);
        assert_eq!(in_flight(), (0, 0));
    }
    let web = cluster(&["a"]);
    let balance = Balance::new(web.clone(), RoundRobin::new(), Net::new(|_, _| Then::Fail));
    balance.oneshot(GET).await.unwrap_err();
    assert_eq!(member(&web, 0).in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_in_flight_in_the_pause() {
    let web = cluster(&["a"]);
    let balance = Balance::new(web.clone(), RoundRobin::new(), Net::new(|_, _| Then::Refuse));
    let mut call = Box::pin(balance.oneshot(POST));
    assert!(call.as_mut().now_or_never().is_none());
    assert_eq!(member(&web, 0).in_flight(), 0);
}

#[tokio::test]
async fn an_answer_without_a_body_is_not_in_flight() {
    let web = cluster(&["a"]);
    let dial = service_fn(|_: Arc<Backend>| async {
        Ok::<_, BoxError>(service_fn(|_: Post| async {
            Ok::<_, BoxError>(Response::new(Empty::<&[u8]>::new()))
        }))
    });
    let _response = Balance::new(web.clone(), RoundRobin::new(), dial).oneshot(POST).await.unwrap();
    assert_eq!(member(&web, 0).in_flight(), 0, "nobody would poll a body that has ended");
}

#[tokio::test]
async fn a_connection_is_in_flight_until_it_is_over() {
    let web = cluster(&["a"]);
    let backend = member(&web, 0);
    let (near, far) = tokio::io::duplex(64);
    let dial = service_fn(|_: Arc<Backend>| async {
        Ok::<_, BoxError>(service_fn(|conn: Conn<DuplexStream>| async {
            let mut bytes = Vec::new();
            tokio::io::AsyncReadExt::read_to_end(&mut conn.into_io(), &mut bytes).await.map(drop)
        }))
    });
    let addr = "192.0.2.1:5000".parse().unwrap();
    let conn = Conn::new(far, ConnInfo::new(addr, addr));
    let mut tunnel = Box::pin(Balance::new(web, RoundRobin::new(), dial).oneshot(conn));
    assert!(tunnel.as_mut().now_or_never().is_none());
    assert_eq!(backend.in_flight(), 1);
    drop(near);
    tunnel.await.unwrap();
    assert_eq!(backend.in_flight(), 0);
}

#[tokio::test]
async fn what_was_dialled_is_kept_until_the_answer_is_there() {
    let alive = Arc::new(());
    let watch = Arc::downgrade(&alive);
    let dial = service_fn(move |_: Arc<Backend>| {
        let alive = Arc::clone(&alive);
        std::future::ready(Ok::<_, BoxError>(service_fn(move |_: Post| {
            let _held = &alive;
            std::future::pending::<Result<Answer, BoxError>>()
        })))
    });
    // The dial service and its clone in the future hold one each, and so does what was dialled.
    let mut balance = Balance::new(cluster(&["a"]), RoundRobin::new(), dial);
    let mut call = Box::pin(balance.call(POST));
    assert_eq!(watch.strong_count(), 2);
    assert!(call.as_mut().now_or_never().is_none());
    assert_eq!(watch.strong_count(), 3);
}

mod churn;
mod marked_down;
mod queue;
mod stalls;
