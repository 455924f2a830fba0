//! Sessions of backends that are marked down.

use std::convert::Infallible;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, Either, ready};
use futures_util::stream;
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

use super::queue::settle;
use super::*;
use crate::health::Ejection;
use crate::{
    CheckState, ClusterBuilder, Limits, MinHealthy, OnMarkedDown, OnMarkedUp, Pick, PickContext,
    Policy, Reason, Role, SessionEnded, State, Table,
};

type Frames = UnsyncBoxBody<&'static [u8], Infallible>;

/// Where `a` gets stuck; all others answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stuck {
    DialNotReady,
    Dialling,
    ConnNotReady,
    Calling,
    /// After the first frame.
    Body,
    Nowhere,
}

#[derive(Clone)]
struct Peers {
    stuck: Stuck,
    polls: Arc<AtomicUsize>,
    // Requests that were handed over.
    log: Arc<Mutex<Vec<String>>>,
}

impl Peers {
    fn new(stuck: Stuck) -> Self {
        Self { stuck, polls: Arc::default(), log: Arc::default() }
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Service<Arc<Backend>> for Peers {
    type Response = Session;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Session, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let first = self.polls.fetch_add(1, Ordering::Relaxed) == 0;
        if self.stuck == Stuck::DialNotReady && first { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        let stuck = if &**backend.name() == "a" { self.stuck } else { Stuck::Nowhere };
        if stuck == Stuck::Dialling {
            return Box::pin(pending());
        }
        let log = Arc::clone(&self.log);
        Box::pin(ready(Ok(Session { stuck, name: Arc::clone(backend.name()), log })))
    }
}

struct Session {
    stuck: Stuck,
    name: Arc<str>,
    log: Arc<Mutex<Vec<String>>>,
}

impl<Req: Text> Service<Req> for Session {
    type Response = Response<Frames>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Frames>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.stuck == Stuck::ConnNotReady { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.log.lock().unwrap().push(format!("{} {}", self.name, request.text()));
        if self.stuck == Stuck::Calling {
            return Box::pin(pending());
        }
        let first = stream::iter([Ok(Frame::data(&b"first"[..]))]);
        let frames = match self.stuck {
            Stuck::Body => Either::Left(futures_util::StreamExt::chain(first, stream::pending())),
            _ => Either::Right(first),
        };
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.extensions_mut().insert(Arc::clone(&self.name));
        Box::pin(ready(Ok(response)))
    }
}

fn builder(names: &[&str]) -> ClusterBuilder {
    let add = |builder: ClusterBuilder, name: &&str| builder.backend(name, "127.0.0.1:1");
    names.iter().fold(Cluster::builder("web"), add)
}

fn ending(names: &[&str]) -> Cluster {
    builder(names).on_marked_down(OnMarkedDown::ShutdownSessions).build().unwrap()
}

/// Always the first that may be picked.
fn first_of(web: &Cluster, peers: &Peers) -> Balance<crate::First, Peers> {
    BalanceLayer::new(web.clone(), crate::First::new()).retries(0).layer(peers.clone())
}

type Answered = Result<Response<crate::Leased<Frames>>, BalanceError>;

/// Sends a request, and lets it get as far as it can.
async fn begin<P, Req>(balance: &Balance<P, Peers>, request: Req) -> JoinHandle<Answered>
where
    P: Policy + Send + Sync + 'static,
    Req: Text + Resend<Spare: Send> + Send + 'static,
{
    let task = tokio::spawn(balance.clone().oneshot(request));
    settle().await;
    task
}

async fn over(task: JoinHandle<Answered>) -> Answered {
    timeout(Duration::from_secs(1), task).await.expect("it hangs").unwrap()
}

async fn who(task: JoinHandle<Answered>) -> String {
    over(task).await.unwrap().extensions().get::<Arc<str>>().unwrap().to_string()
}

fn why(error: &(dyn std::error::Error + 'static)) -> Option<SessionEnded> {
    std::iter::successors(Some(error), |error| error.source())
        .find_map(|error| error.downcast_ref().copied())
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_goes_elsewhere_and_is_no_retry() {
    for stuck in [Stuck::DialNotReady, Stuck::Dialling, Stuck::ConnNotReady] {
        let (web, peers) = (ending(&["a", "b"]), Peers::new(stuck));
        let task = begin(&first_of(&web, &peers), POST).await;
        assert_eq!(member(&web, 0).in_flight(), 1, "{stuck:?}");
        web.set_up(&member(&web, 0), false);
        assert_eq!(who(task).await, "b", "{stuck:?}");
        assert_eq!(peers.log(), ["b post"]);
        assert_eq!(member(&web, 0).in_flight(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn with_nobody_else_what_was_not_sent_fails_as_such() {
    let (web, peers) = (ending(&["a"]), Peers::new(Stuck::Dialling));
    let task = begin(&first_of(&web, &peers), POST).await;
    web.set_up(&member(&web, 0), false);
    let error = over(task).await.err().unwrap();
    assert!(matches!(error, BalanceError::Dial { .. }), "{error:?}");
    assert_eq!(why(&error), Some(SessionEnded::MarkedDown));
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_goes_elsewhere_if_it_is_safe_to_repeat_and_fails_if_not() {
    let (web, peers) = (ending(&["a", "b"]), Peers::new(Stuck::Calling));
    let balance = first_of(&web, &peers);
    let mut gets = Vec::new();
    for _ in 0..10 {
        gets.push(begin(&balance, GET).await);
    }
    let post = begin(&balance, POST).await;
    assert_eq!(member(&web, 0).in_flight(), 11);
    web.set_up(&member(&web, 0), false);
    for get in gets {
        assert_eq!(who(get).await, "b");
    }
    let error = over(post).await.err().unwrap();
    assert!(matches!(error, BalanceError::Call { .. }), "{error:?}");
    assert_eq!(why(&error), Some(SessionEnded::MarkedDown));
    assert!(!peers.log().contains(&"b post".to_owned()));
    assert_eq!(member(&web, 0).in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_in_the_middle_fails_and_never_looks_complete() {
    let (web, peers) = (ending(&["a", "b"]), Peers::new(Stuck::Body));
    let task = begin(&first_of(&web, &peers), GET).await;
    let mut body = over(task).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), b"first");
    let reads = tokio::spawn(async move { (body.frame().await, body) });
    settle().await;
    assert!(!reads.is_finished() && member(&web, 0).in_flight() == 1);
    web.set_up(&member(&web, 0), false);
    let (frame, mut body) = timeout(Duration::from_secs(1), reads).await.unwrap().unwrap();
    assert_eq!(why(&*frame.unwrap().unwrap_err()), Some(SessionEnded::MarkedDown));
    assert_eq!(member(&web, 0).in_flight(), 0);
    assert!(!body.is_end_stream() && body.size_hint().exact().is_none());
    assert!(body.frame().await.is_none(), "its own body is gone");
}

#[tokio::test]
async fn a_body_that_always_has_more_fails_as_well() {
    let web = ending(&["a"]);
    let endless =
        || stream::iter(std::iter::repeat_with(|| Ok::<_, Infallible>(Frame::data(&b"more"[..]))));
    let dial = service_fn(move |_: Arc<Backend>| {
        ready(Ok::<_, BoxError>(service_fn(move |_: Post| {
            ready(Ok::<_, BoxError>(Response::new(StreamBody::new(endless()))))
        })))
    });
    let response = Balance::new(web.clone(), RoundRobin::new(), dial).oneshot(POST).await.unwrap();
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().is_ok());
    web.set_up(&member(&web, 0), false);
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_is_closed() {
    let web = ending(&["a"]);
    let (mut near, far) = tokio::io::duplex(64);
    let dial = service_fn(|_: Arc<Backend>| async {
        Ok::<_, BoxError>(service_fn(|conn: Conn<DuplexStream>| async {
            let mut bytes = Vec::new();
            conn.into_io().read_to_end(&mut bytes).await.map(drop)
        }))
    });
    let addr = "192.0.2.1:5000".parse().unwrap();
    let conn = Conn::new(far, ConnInfo::new(addr, addr));
    let balance = Balance::new(web.clone(), RoundRobin::new(), dial);
    let tunnel = tokio::spawn(balance.oneshot(conn));
    settle().await;
    assert_eq!(member(&web, 0).in_flight(), 1);
    web.set_up(&member(&web, 0), false);
    let error = timeout(Duration::from_secs(1), tunnel).await.unwrap().unwrap().unwrap_err();
    assert_eq!(why(&error), Some(SessionEnded::MarkedDown));
    assert_eq!(near.read(&mut [0]).await.unwrap(), 0, "the client sees the end");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_slot_of_it_or_was_just_given_one_goes_elsewhere() {
    let of = |name: &str, max| {
        let backend = Backend::new(name, "127.0.0.1:1".parse().unwrap());
        backend.with_limits(Limits::none().max(max))
    };
    let web = Cluster::builder("web").add(of("a", 1)).add(of("b", 9).with_weight(0));
    let web = web.on_marked_down(OnMarkedDown::ShutdownSessions).build().unwrap();
    let peers = Peers::new(Stuck::Calling);
    let balance = first_of(&web, &peers);
    let mut first = Box::pin(balance.clone().oneshot(GET));
    assert!(first.as_mut().now_or_never().is_none());
    let (granted, waits) = (begin(&balance, POST).await, begin(&balance, POST).await);
    // The slot is granted before it is marked down, and would be taken up after it.
    drop(first);
    assert_eq!(member(&web, 0).in_flight(), 1);
    web.update(|change| change.set_weight("b", 1)).unwrap();
    web.set_up(&member(&web, 0), false);
    assert_eq!((who(granted).await, who(waits).await), ("b".into(), "b".into()));
    assert_eq!(peers.log(), ["a get", "b post", "b post"]);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_back_at_once_has_lost_its_sessions_all_the_same() {
    let (web, peers) = (ending(&["a", "b"]), Peers::new(Stuck::Calling));
    let balance = first_of(&web, &peers);
    let (get, post) = (begin(&balance, GET).await, begin(&balance, POST).await);
    web.set_up(&member(&web, 0), false);
    web.set_up(&member(&web, 0), true);
    let later = begin(&balance, Post("later")).await;
    assert_eq!(who(get).await, "b", "a has been tried");
    assert!(over(post).await.is_err());
    assert!(!later.is_finished(), "it belongs to the new tenure");
    later.abort();
}

/// Has `a` marked down in the middle of the first pick.
#[derive(Debug)]
struct Meanwhile(Cluster, AtomicBool);

impl Policy for Meanwhile {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        if !self.1.swap(true, Ordering::Relaxed) {
            self.0.set_up(&member(&self.0, 0), false);
        }
        let position = table.eligible_from(0).find(|i| table.check(*i, context).is_ok())?;
        Some(Pick::new(Arc::clone(&table.members()[position]), "test", Reason::Drawn))
    }
}

#[tokio::test(start_paused = true)]
async fn a_pick_by_a_table_from_before_the_mark_does_not_hang() {
    for stuck in [Stuck::Dialling, Stuck::Calling] {
        let (web, peers) = (ending(&["a", "b"]), Peers::new(stuck));
        let policy = Meanwhile(web.clone(), AtomicBool::new(false));
        let balance = Balance::new(web, policy, peers.clone());
        assert_eq!(who(begin(&balance, POST).await).await, "b", "{stuck:?}");
        assert_eq!(peers.log(), ["b post"], "and a did not get it");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_sent_to_a_backend_that_is_down_in_panic_stays_there() {
    let web = builder(&["a"]).panic_below(MinHealthy::percent(100));
    let web = web.on_marked_down(OnMarkedDown::ShutdownSessions).build().unwrap();
    web.set_up(&member(&web, 0), false);
    let peers = Peers::new(Stuck::Nowhere);
    assert_eq!(who(begin(&first_of(&web, &peers), POST).await).await, "a");
}

#[tokio::test(start_paused = true)]
async fn sessions_go_on_unless_the_cluster_ends_them() {
    for web in [
        builder(&["a"]).build().unwrap(),
        builder(&["a"]).on_marked_up(OnMarkedUp::ShutdownBackupSessions).build().unwrap(),
    ] {
        let peers = Peers::new(Stuck::Calling);
        let task = begin(&first_of(&web, &peers), GET).await;
        web.set_up(&member(&web, 0), false);
        settle().await;
        assert!(!task.is_finished());
        task.abort();
    }
}

/// Whether a session at `a` ends by that.
async fn ends_by(change: impl FnOnce(&Cluster, &Arc<Backend>)) -> bool {
    let (web, peers) = (ending(&["a", "b"]), Peers::new(Stuck::Calling));
    let task = begin(&first_of(&web, &peers), POST).await;
    let flag = member(&web, 0).until_marked_down();
    change(&web, &member(&web, 0));
    settle().await;
    assert_eq!(task.is_finished(), flag.is_set(), "connections go with sessions");
    task.abort();
    flag.is_set()
}

#[tokio::test(start_paused = true)]
async fn checks_and_maintenance_are_marks_and_ejections_and_drains_are_not() {
    let found = |state| {
        ends_by(move |_, a| {
            crate::cluster::affect(a, |health| health.follow(state, "told", now()));
        })
    };
    assert!(found(CheckState::Down).await && found(CheckState::Unfit).await);
    assert!(!found(CheckState::Stopping).await);
    let set = |state| ends_by(move |web, _| web.update(|c| c.set_state("a", state)).unwrap());
    assert!(set(State::Maintenance).await, "as HAProxy does");
    assert!(!set(State::Drain).await);
    let until = now() + Duration::from_secs(60);
    let ejected = ends_by(move |_, a| {
        crate::cluster::affect(a, |h| h.eject(Ejection::Out { until }, "told", now()));
    });
    assert!(!ejected.await);
    let removed = ends_by(|web, a| web.update(|change| change.remove(a.name())).unwrap());
    assert!(!removed.await);
}

#[tokio::test(start_paused = true)]
async fn who_tracks_another_is_marked_down_with_it() {
    let web = builder(&["a"]).build().unwrap();
    let a = member(&web, 0);
    let x = Backend::new("a", "127.0.0.1:1".parse().unwrap()).tracking(Arc::clone(&a));
    let api = Cluster::builder("api").add(x).on_marked_down(OnMarkedDown::ShutdownSessions);
    let (api, peers) = (api.build().unwrap(), Peers::new(Stuck::Calling));
    let task = begin(&first_of(&api, &peers), POST).await;
    web.set_up(&a, false);
    assert!(over(task).await.is_err());
}

/// Whether a session at the backup `a` ends when the active `b` is up again.
async fn backup_ends(set: impl FnOnce(ClusterBuilder) -> ClusterBuilder) -> Option<String> {
    let backup = Backend::new("a", "127.0.0.1:1".parse().unwrap()).with_role(Role::Backup);
    let web = set(Cluster::builder("web").add(backup).backend("b", "127.0.0.1:2"));
    let (web, peers) = (web.build().unwrap(), Peers::new(Stuck::Calling));
    web.set_up(&member(&web, 1), false);
    let task = begin(&first_of(&web, &peers), GET).await;
    let flag = member(&web, 0).until_marked_down();
    web.set_up(&member(&web, 1), true);
    settle().await;
    assert!(!flag.is_set(), "its connections are good");
    if !task.is_finished() {
        task.abort();
        return None;
    }
    Some(who(task).await)
}

#[tokio::test(start_paused = true)]
async fn sessions_of_backups_end_when_an_active_backend_is_back_if_that_is_wanted() {
    let (down, up) = (OnMarkedDown::ShutdownSessions, OnMarkedUp::ShutdownBackupSessions);
    let b = Some("b".to_owned());
    assert_eq!(backup_ends(|web| web.on_marked_up(up)).await, b);
    assert_eq!(backup_ends(|web| web.on_marked_up(up).on_marked_down(down)).await, b);
    assert_eq!(backup_ends(|web| web.on_marked_down(down)).await, None);
}

#[tokio::test]
async fn sessions_out_of_panic_end_when_it_becomes_worse_than_down() {
    let panic = |web: &Cluster, a: &Arc<Backend>| {
        web.set_up(a, false);
        let flag = a.until_marked_down();
        assert!(!flag.is_set());
        web.update(|change| change.set_state("a", State::Maintenance)).unwrap();
        flag.is_set()
    };
    let web = builder(&["a"]).panic_below(MinHealthy::percent(50));
    let web = web.on_marked_down(OnMarkedDown::ShutdownSessions).build().unwrap();
    let a = Arc::clone(&web.table().members()[0]);
    assert!(panic(&web, &a), "it was used while it was down");
}
