//! The same traffic through HAProxy and through the proxy, with the same backends behind both.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bartizan_testkit::{HttpBackend, refused_addr};
use bartizan_tests::{
    Client, Haproxy, Http, Proxy, ReqBody, Site, empty, eventually, request_as, within,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What stands in front of the backends.
enum Front {
    Haproxy(Haproxy, SocketAddr),
    Ours(Proxy),
}

impl Front {
    /// HAProxy, with `lines` in its backend and these options of its servers.
    async fn haproxy(site: &Site, lines: &str, servers: &[(SocketAddr, &str)]) -> Self {
        let addr = refused_addr();
        let mut config = format!(
            "frontend web
    mode http
    no log
    bind {addr} ssl crt {} alpn h2,http/1.1
    default_backend servers
backend servers
    mode http
    {lines}
",
            site.certs().display()
        );
        for (i, (addr, options)) in servers.iter().enumerate() {
            config += &format!("    server b{i} {addr} {options}\n");
        }
        Self::Haproxy(Haproxy::start(&config).await, addr)
    }

    /// The proxy, with these flags and options of its backends.
    fn ours(site: &Site, flags: &[&str], backends: &[(SocketAddr, &str)]) -> Self {
        let mut args = site.args(&[]);
        for (i, (addr, options)) in backends.iter().enumerate() {
            args.extend(["--backend".to_owned(), format!("b{i}={addr}{options}")]);
        }
        args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Self::Ours(Proxy::start(&args))
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::Haproxy(_, addr) => *addr,
            Self::Ours(proxy) => proxy.addr(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Haproxy(..) => "HAProxy",
            Self::Ours(_) => "bartizan",
        }
    }

    /// How many times it has found a backend down.
    fn found_down(&self) -> usize {
        match self {
            Self::Haproxy(haproxy, _) => haproxy.log().matches(" is DOWN").count(),
            Self::Ours(proxy) => proxy.stderr().matches("backend is down").count(),
        }
    }

    async fn client(&self, site: &Site) -> Client {
        Client::open(self.addr(), site.tls(&["http/1.1"]), Http::One).await.unwrap()
    }

    /// Sends requests number 0 to `count` over `clients` connections, as fast as answers come, and
    /// returns who answered each.
    async fn load(&self, site: &Site, clients: usize, count: usize) -> Vec<String> {
        let next = AtomicUsize::new(0);
        let asks = (0..clients).map(async |_| {
            let (mut client, mut answers) = (self.client(site).await, Vec::new());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return answers;
                }
                let key = format!("key-{number}");
                let answer = client.ask(request_as("GET", "/", &[("x-key", &key)], empty())).await;
                let answer = answer.unwrap();
                assert_eq!(answer.status, 200, "{}: request {number}", self.name());
                answers.push((number, answer.backend().to_owned()));
            }
        });
        let mut answers = futures_util::future::join_all(asks).await.concat();
        answers.sort_unstable();
        answers.into_iter().map(|(_, backend)| backend).collect()
    }
}

/// The share of each backend, in per cent.
fn shares(answers: &[String]) -> BTreeMap<&str, f64> {
    let mut shares = BTreeMap::new();
    for backend in answers {
        *shares.entry(backend.as_str()).or_insert(0.0) += 100.0 / answers.len() as f64;
    }
    shares
}

/// Three backends called `b0`, `b1`, `b2`.
async fn three() -> Vec<HttpBackend> {
    let mut backends = Vec::new();
    for name in ["b0", "b1", "b2"] {
        backends.push(HttpBackend::start(name).await);
    }
    backends
}

fn with<'a>(backends: &[HttpBackend], options: &[&'a str]) -> Vec<(SocketAddr, &'a str)> {
    backends.iter().map(HttpBackend::addr).zip(options.iter().copied()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_by_weight_gives_the_shares_that_haproxy_gives() {
    const REQUESTS: usize = 10_000;
    let (site, backends) = (Site::new(), three().await);
    let haproxy = with(&backends, &["weight 1", "weight 2", "weight 5"]);
    let ours = with(&backends, &[",weight=1", ",weight=2", ",weight=5"]);
    for front in [
        Front::haproxy(&site, "balance roundrobin", &haproxy).await,
        Front::ours(&site, &["--balance", "roundrobin"], &ours),
    ] {
        let before: Vec<_> = backends.iter().map(HttpBackend::requests).collect();
        front.load(&site, 8, REQUESTS).await;
        let counts: Vec<_> =
            backends.iter().zip(before).map(|(b, before)| b.requests() - before).collect();
        println!("{}: {counts:?}", front.name());
        for (count, weight) in counts.iter().zip([1, 2, 5]) {
            let exact = (REQUESTS * weight / 8) as f64;
            // So neither differs from the other by more than 2 %.
            assert!((*count as f64 / exact - 1.0).abs() <= 0.01, "{}: {counts:?}", front.name());
        }
    }
}

/// With as many requests in flight at each, a backend's share is in proportion to its speed: of
/// 5, 5 and 50 ms, the slow one gets 1 in 21, and somewhat more, as all take a while besides.
///
/// Both run at the same time, so that they meet the same machine.
#[tokio::test(flavor = "multi_thread")]
async fn the_least_loaded_are_those_that_haproxy_finds() {
    const REQUESTS: usize = 10_000;
    let site = Site::new();
    let delays = [("b0", 5), ("b1", 5), ("b2", 50)];
    let mut backends = Vec::new();
    for (name, delay) in delays.iter().chain(&delays) {
        backends.push(Delayed::start(name, Duration::from_millis(*delay)).await);
    }
    let servers: Vec<_> = backends.iter().map(|backend| (backend.addr, "")).collect();
    let haproxy = Front::haproxy(&site, "balance leastconn", &servers[..3]).await;
    let ours = Front::ours(&site, &["--balance", "leastconn"], &servers[3..]);
    let (theirs, ours) =
        tokio::join!(haproxy.load(&site, 16, REQUESTS), ours.load(&site, 16, REQUESTS));
    let (theirs, ours) = (shares(&theirs), shares(&ours));
    println!("HAProxy: {theirs:.2?}\nbartizan: {ours:.2?}");
    for (name, _) in delays {
        assert!((theirs[name] - ours[name]).abs() <= 2.0, "{name}: {theirs:?} {ours:?}");
    }
    assert!(theirs["b2"] < 10.0 && ours["b2"] < 10.0, "{theirs:?} {ours:?}");
}

/// A key is at another backend with HAProxy than with the proxy, as a rule: they hash keys, and
/// place backends on the ring, by other functions (sdbm with a finish, by the server's number; XXH3,
/// by its name or address), so a change from one to the other moves keys. What holds for both is
/// compared: how many keys each gets, and that a backend which goes takes no other's keys along.
///
/// HAProxy places a server 16 times for each unit of weight, so its shares are as good as weights
/// are large; these make 320, 640 and 1,600 places.
#[tokio::test(flavor = "multi_thread")]
async fn consistent_hashing_spreads_and_moves_keys_as_haproxys_does() {
    const KEYS: usize = 5_000;
    let site = Site::new();
    for ours in [false, true] {
        let mut backends = three().await;
        let front = if ours {
            let options = [",weight=20", ",weight=40", ",weight=100"];
            let flags = ["--balance", "ring", "--hash-key", "header:x-key", "--check", "tcp"];
            let checks = ["--check-interval", "100ms", "--fall", "1"];
            Front::ours(&site, &[&flags[..], &checks].concat(), &with(&backends, &options))
        } else {
            let check = ["20", "40", "100"].map(|w| format!("weight {w} check inter 100ms fall 1"));
            let servers = with(&backends, &check.each_ref().map(String::as_str));
            let lines = "balance hdr(x-key)\n    hash-type consistent";
            Front::haproxy(&site, lines, &servers).await
        };
        let before = front.load(&site, 8, KEYS).await;
        let spread = shares(&before);
        println!("{}: {spread:.2?}", front.name());
        for (name, exact) in [("b0", 12.5), ("b1", 25.0), ("b2", 62.5)] {
            assert!((spread[name] - exact).abs() < 4.0, "{}: {spread:?}", front.name());
        }
        let again = front.load(&site, 8, KEYS / 10).await;
        assert_eq!(before[..KEYS / 10], again, "{}", front.name());
        backends.remove(1).stop().await;
        eventually("a check that fails", || front.found_down() > 0).await;
        let after = front.load(&site, 8, KEYS).await;
        let moved = before.iter().zip(&after).filter(|(was, _)| *was != "b1");
        assert_eq!(moved.filter(|(was, is)| was != is).count(), 0, "{}", front.name());
        let left = shares(&after);
        println!("{}: {left:.2?} without b1", front.name());
        // By weight 1 : 5 again.
        assert!((left["b0"] - 100.0 / 6.0).abs() < 5.0, "{}: {left:?}", front.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weight_of_zero_gets_nobody_and_a_backup_those_whom_nobody_else_takes() {
    let site = Site::new();
    for ours in [false, true] {
        let mut backends = three().await;
        let front = if ours {
            let flags = ["--check", "tcp", "--check-interval", "100ms", "--fall", "1"];
            Front::ours(&site, &flags, &with(&backends, &["", ",weight=0", ",backup"]))
        } else {
            let check = ["", "weight 0", "backup"].map(|o| format!("{o} check inter 100ms fall 1"));
            let servers = with(&backends, &check.each_ref().map(String::as_str));
            Front::haproxy(&site, "balance roundrobin", &servers).await
        };
        let answers = front.load(&site, 4, 100).await;
        assert_eq!(shares(&answers).into_keys().collect::<Vec<_>>(), ["b0"], "{}", front.name());
        backends.remove(0).stop().await;
        eventually("a check that fails", || front.found_down() > 0).await;
        let answers = front.load(&site, 4, 100).await;
        assert_eq!(shares(&answers).into_keys().collect::<Vec<_>>(), ["b2"], "{}", front.name());
    }
}

/// The order of arrival is that of the streams of one connection of HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_serves_all_who_wait_in_the_order_of_arrival() {
    const REQUESTS: usize = 50;
    let site = Site::new();
    for ours in [false, true] {
        let backend = Delayed::start("b0", Duration::from_millis(5)).await;
        let front = match ours {
            true => Front::ours(&site, &["--workers", "1"], &[(backend.addr, ",maxconn=1")]),
            false => Front::haproxy(&site, "", &[(backend.addr, "maxconn 1")]).await,
        };
        let stream = Client::handshake(front.addr(), site.tls(&["h2"])).await.unwrap();
        let (mut send, conn) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let conn = tokio::spawn(conn);
        let request = |number: usize| -> Request<ReqBody> {
            Request::get(format!("https://localhost/{number}")).body(empty()).unwrap()
        };
        let answers: Vec<_> =
            (0..REQUESTS).map(|number| send.send_request(request(number))).collect();
        let answers = within(SOON, "all answers", futures_util::future::join_all(answers)).await;
        for answer in answers {
            assert_eq!(answer.unwrap().status(), 200, "{}", front.name());
        }
        assert_eq!(backend.most(), 1, "{}", front.name());
        let expected: Vec<_> = (0..REQUESTS).map(|number| format!("/{number}")).collect();
        assert_eq!(backend.paths(), expected, "{}", front.name());
        conn.abort();
    }
}

/// A backend that takes its time for each answer, and remembers what it was asked.
struct Delayed {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

struct Shared {
    name: String,
    delay: Duration,
    in_flight: AtomicUsize,
    most: AtomicUsize,
    paths: Mutex<Vec<String>>,
}

impl Delayed {
    async fn start(name: &str, delay: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            delay,
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            paths: Mutex::default(),
        });
        let mut task = JoinSet::new();
        let state = Arc::clone(&shared);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                connections.spawn(Arc::clone(&state).serve(tcp));
            }
        });
        Self { addr, shared, _task: task }
    }

    /// The most that it had to do at a time.
    fn most(&self) -> usize {
        self.shared.most.load(Ordering::SeqCst)
    }

    /// What it was asked for, in the order of arrival.
    fn paths(&self) -> Vec<String> {
        self.shared.paths.lock().unwrap().clone()
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, tcp: TcpStream) {
        let _ = tcp.set_nodelay(true);
        let service = service_fn(|request| self.answer(request));
        // A client that goes away is its own affair.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.paths.lock().unwrap().push(request.uri().path().to_owned());
        tokio::time::sleep(self.delay).await;
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let body = Full::new(Bytes::from_static(b"ok"));
        Ok(Response::builder().header("x-backend", &self.name).body(body).unwrap())
    }
}

type Body = Full<Bytes>;

const SOON: Duration = Duration::from_secs(30);
