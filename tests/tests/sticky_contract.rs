//! What a pinned client can rely on, while backends are killed, drained and exchanged under load.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bartizan::balance::{BalanceError, OnDrain, OnPinnedDown, State, StickTable, StickyContract};
use bartizan::http::{ByCookie, HeaderKey, StickyCookie, StickyCookieLayer, StickyKeys};
use bartizan::prelude::*;
use bartizan_testkit::HttpBackend;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderName, Request};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::util::BoxCloneService;
use tower::{ServiceBuilder, ServiceExt};

/// What is answered: by whom, and the cookie that is set.
type Answer = (String, Option<String>);
type Stack = BoxCloneService<(String, Option<String>), Answer, BalanceError>;

/// A server that can be killed and comes back where it was.
struct Server {
    name: &'static str,
    addr: SocketAddr,
    running: Option<HttpBackend>,
    fate: Arc<Fate>,
}

/// What has happened to a server that lets its clients go.
#[derive(Default)]
struct Fate {
    out: AtomicBool,
    changes: AtomicU64,
}

impl Fate {
    fn is_out(&self, out: bool) {
        self.out.store(out, Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether a client that was there at the time of `changes` may have had to leave.
    fn lets_go(&self, changes: u64) -> bool {
        self.out.load(Ordering::SeqCst) || self.changes.load(Ordering::SeqCst) != changes
    }
}

impl Server {
    async fn start(name: &'static str) -> Self {
        let running = HttpBackend::start(name).await;
        Self { name, addr: running.addr(), running: Some(running), fate: Arc::default() }
    }

    async fn die(&mut self) {
        self.fate.is_out(true);
        self.running.take().unwrap().stop().await;
    }

    async fn rise(&mut self) {
        self.running = Some(HttpBackend::start_on(self.addr, self.name).await);
        self.fate.is_out(false);
    }
}

async fn scene() -> (Vec<Server>, Cluster) {
    let mut servers = Vec::new();
    let mut cluster = Cluster::builder("web");
    for name in ["web1", "web2", "web3", "web4"] {
        let server = Server::start(name).await;
        cluster = cluster.backend(name, &server.addr.to_string());
        servers.push(server);
    }
    (servers, cluster.build().unwrap())
}

fn layer(cluster: &Cluster) -> BalanceLayer<RoundRobin> {
    BalanceLayer::new(cluster.clone(), RoundRobin::new()).retry_pause(Duration::from_millis(20))
}

fn client_key() -> HeaderKey {
    HeaderKey::new(HeaderName::from_static("x-client"))
}

/// Clients are known by a header.
fn by_table(cluster: &Cluster, contract: StickyContract) -> Stack {
    let table = StickTable::new(1_000, Duration::from_secs(60));
    let requests = ServiceBuilder::new()
        .layer(layer(cluster).affinity(table.by(client_key()).contract(contract)))
        .layer_fn(|dial| HttpPoolLayer::new().pool::<_, Full<Bytes>>(dial))
        .service(TcpDial::new());
    Stack::new(ServiceBuilder::new().map_request(request).and_then(answer).service(requests))
}

/// Clients are known by their cookie.
fn by_cookie(cluster: &Cluster, contract: StickyContract) -> Stack {
    let cookie = StickyCookie::insert("SRV", StickyKeys::random()).unwrap().contract(contract);
    let requests = ServiceBuilder::new()
        .layer(StickyCookieLayer::new(cluster.clone(), cookie))
        .layer(layer(cluster).affinity(ByCookie::new()))
        .layer_fn(|dial| HttpPoolLayer::new().pool::<_, Full<Bytes>>(dial))
        .service(TcpDial::new());
    Stack::new(ServiceBuilder::new().map_request(request).and_then(answer).service(requests))
}

fn request((client, cookie): (String, Option<String>)) -> Request<Full<Bytes>> {
    let request = Request::get("/").header("host", "web").header("x-client", client);
    let request = cookie.into_iter().fold(request, |r, cookie| r.header("cookie", cookie));
    request.body(Full::default()).unwrap()
}

fn answer<B>(response: http::Response<B>) -> BoxFuture<'static, Result<Answer, BalanceError>>
where
    B: http_body::Body<Data: Send> + Send + 'static,
{
    let text = |name| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    let cookie = text("set-cookie").map(|line| line.split(';').next().unwrap().to_owned());
    let backend = text("x-backend").unwrap();
    Box::pin(response.into_body().collect().map(move |_| Ok((backend, cookie))))
}

/// What clients may see under a contract.
#[derive(Clone, Copy)]
struct Allowed {
    moves: bool,
    refusals: bool,
}

/// Asks again and again, and says whatever broke the contract.
async fn visit(
    stack: Stack,
    fates: Arc<[(&'static str, Arc<Fate>)]>,
    (client, allowed): (String, Allowed),
    done: Arc<AtomicBool>,
) -> (u64, Vec<String>) {
    let fate = |name: &str| &fates.iter().find(|(other, _)| *other == name).unwrap().1;
    let (mut home, mut cookie, mut served, mut broken) = (None, None, 0, Vec::new());
    while !done.load(Ordering::SeqCst) {
        match stack.clone().oneshot((client.clone(), cookie.clone())).await {
            Ok((backend, set)) => {
                served += 1;
                cookie = set.or(cookie);
                if let Some((home, changes)) = home.replace((backend.clone(), 0))
                    && home != backend
                    && !(allowed.moves && fate(&home).lets_go(changes))
                {
                    broken.push(format!("{client} moved from {home} to {backend}"));
                }
                home = Some((backend.clone(), fate(&backend).changes.load(Ordering::SeqCst)));
            }
            Err(error) => {
                let at_home = home.as_ref().is_some_and(|(home, n)| fate(home).lets_go(*n));
                if !(allowed.refusals && at_home) {
                    broken.push(format!("{client}: {error:?}"));
                }
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    (served, broken)
}

/// Kills, drains and exchanges servers while clients come and go.
async fn churn(servers: &mut [Server], cluster: &Cluster, stack: &Stack, contract: StickyContract) {
    for round in 0..12 {
        let count = servers.len();
        let server = &mut servers[round % count];
        let set = |state| cluster.update(|change| change.set_state(server.name, state)).unwrap();
        match round % 3 {
            0 => {
                server.die().await;
                sleep(Duration::from_millis(60)).await;
                server.rise().await;
            }
            1 => {
                if contract.on_drain == OnDrain::Migrate {
                    server.fate.is_out(true);
                }
                set(State::Drain);
                for n in 0..8 {
                    let new = stack.clone().oneshot((format!("new {round} {n}"), None)).await;
                    assert_ne!(new.unwrap().0, server.name, "nobody new gets there");
                }
                set(State::Ready);
                server.fate.is_out(false);
            }
            _ => {
                server.fate.is_out(true);
                set(State::Maintenance);
                sleep(Duration::from_millis(40)).await;
                set(State::Ready);
                server.fate.is_out(false);
            }
        }
        sleep(Duration::from_millis(30)).await;
    }
}

async fn holds(contract: StickyContract, allowed: Allowed) {
    for stack in [by_table, by_cookie] {
        let (mut servers, cluster) = scene().await;
        let stack = stack(&cluster, contract);
        let fates: Arc<[_]> = servers.iter().map(|s| (s.name, Arc::clone(&s.fate))).collect();
        let done = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for n in 0..16 {
            let (fates, done) = (Arc::clone(&fates), Arc::clone(&done));
            clients.spawn(visit(stack.clone(), fates, (format!("client {n}"), allowed), done));
        }
        sleep(Duration::from_millis(50)).await;
        churn(&mut servers, &cluster, &stack, contract).await;
        done.store(true, Ordering::SeqCst);
        let (mut served, mut broken) = (0, Vec::new());
        while let Some(client) = clients.join_next().await {
            let (n, faults) = client.unwrap();
            served += n;
            broken.extend(faults);
        }
        assert!(broken.is_empty(), "{} of {served}: {:?}", broken.len(), &broken[..1]);
        assert!(served > 500, "{served}");
        for member in cluster.table().members().iter() {
            assert_eq!((member.in_flight(), member.queued()), (0, 0));
        }
    }
}

#[tokio::test]
async fn by_default_clients_move_only_when_their_backend_is_out_and_lose_nothing() {
    holds(StickyContract::new(), Allowed { moves: true, refusals: false }).await;
}

#[tokio::test]
async fn clients_that_migrate_leave_a_backend_that_drains_and_lose_nothing() {
    let contract = StickyContract::new().on_drain(OnDrain::Migrate);
    holds(contract, Allowed { moves: true, refusals: false }).await;
}

#[tokio::test]
async fn clients_that_may_not_move_are_refused_and_nothing_else() {
    let contract = StickyContract::new().on_down(OnPinnedDown::Fail);
    holds(contract, Allowed { moves: false, refusals: true }).await;
}

#[tokio::test]
async fn clients_that_wait_find_their_backend_again_and_lose_nothing() {
    let contract = StickyContract::new().on_down(OnPinnedDown::Wait(Duration::from_secs(20)));
    holds(contract, Allowed { moves: false, refusals: false }).await;
}
