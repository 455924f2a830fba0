//! Checks take a backend out and bring it back, and until then nobody notices.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bartizan_testkit::HttpBackend;
use bartizan_tests::{Client, Freezer, Http, Proxy, Site, eventually, full};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

/// Checked ten times a second.
const CHECKED: [&str; 8] =
    ["--check", "tcp", "--check-interval", "100ms", "--fall", "2", "--rise", "2"];

/// How long a flapping backend is watched.
const FLAPPING: Duration = Duration::from_secs(4);

fn count(proxy: &Proxy, what: &str) -> usize {
    proxy.stderr().matches(what).count()
}

#[tokio::test]
async fn a_stopped_backend_is_taken_out_and_comes_back() {
    let site = Site::new();
    let (one, two) = (HttpBackend::start("one").await, HttpBackend::start("two").await);
    let two_addr = two.addr();
    // Without retries, so that each request to the stopped one would show.
    let flags = [&CHECKED[..], &["--retries", "0"]].concat();
    let proxy = site.proxy(&[one.addr(), two_addr], &flags);
    let mut client = Client::connect(&site, &proxy, Http::Two).await;
    two.stop().await;
    eventually("the fall", || count(&proxy, "backend is down") == 1).await;
    for _ in 0..20 {
        let answer = client.post("/echo", full("body")).await;
        assert_eq!((answer.status.as_u16(), answer.backend()), (200, "one"));
    }
    let two = HttpBackend::start_on(two_addr, "two").await;
    eventually("the rise", || count(&proxy, "backend is up") == 1).await;
    let before = (one.requests(), two.requests());
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!((one.requests() - before.0, two.requests() - before.1), (10, 10));
    assert_eq!(count(&proxy, "backend is down"), 1, "each change is told once");
}

#[tokio::test]
async fn one_failed_check_is_none() {
    let site = Site::new();
    let (one, two) = (HttpBackend::start("one").await, HttpBackend::start("two").await);
    let addrs = [one.addr(), two.addr()];
    let flags = ["--check", "tcp", "--check-interval", "100ms", "--fall", "1000"];
    let proxy = site.proxy(&addrs, &flags);
    let mut client = Client::connect(&site, &proxy, Http::One).await;
    two.stop().await;
    for _ in 0..20 {
        let answer = client.post("/echo", full("body")).await;
        assert_eq!((answer.status.as_u16(), answer.backend()), (200, "one"), "by redispatch");
    }
    assert_eq!(count(&proxy, "backend is down"), 0);
}

#[tokio::test]
async fn without_checks_nothing_is_taken_out() {
    let site = Site::new();
    let backend = HttpBackend::start("one").await;
    let addr = backend.addr();
    let proxy = site.proxy(&[addr], &["--retries", "0"]);
    let mut client = Client::connect(&site, &proxy, Http::One).await;
    backend.stop().await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 502);
    }
    let _backend = HttpBackend::start_on(addr, "one").await;
    assert_eq!(client.get("/").await.status, 200);
}

/// Three backends with names, a proxy that checks them, and GETs on eight connections, each of which
/// has to be answered with 200.
struct Scene {
    proxy: Proxy,
    stop: Arc<AtomicBool>,
    load: Vec<JoinHandle<u64>>,
    _site: Site,
}

impl Scene {
    async fn set(backends: [SocketAddr; 3], flags: &[&str]) -> Self {
        let site = Site::new();
        let named = ["b0", "b1", "b2"].iter().zip(backends);
        let named: Vec<_> = named.map(|(name, addr)| format!("{name}={addr}")).collect();
        let named = named.iter().flat_map(|backend| ["--backend", backend]);
        let flags: Vec<_> = named.chain(flags.iter().copied()).collect();
        let (proxy, stop) = (site.proxy(&[], &flags), Arc::new(AtomicBool::new(false)));
        let mut tasks = Vec::new();
        for _ in 0..4 {
            for http in Http::BOTH {
                tasks.push(load(Client::connect(&site, &proxy, http).await, http, &stop));
            }
        }
        Self { proxy, stop, load: tasks, _site: site }
    }

    /// Waits until the log has said this of the backend so often.
    async fn said(&self, what: &str, backend: &str, times: usize) {
        let said = || self.proxy.said(&[what, backend]) >= times;
        eventually(&format!("{what}: {backend}"), said).await;
    }

    /// Ends the load, all of which was answered.
    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.load {
            assert!(task.await.unwrap() > 20);
        }
    }
}

/// Three backends called `b0`, `b1`, `b2`.
async fn three() -> Vec<HttpBackend> {
    let mut backends = Vec::new();
    for name in ["b0", "b1", "b2"] {
        backends.push(HttpBackend::start(name).await);
    }
    backends
}

fn addrs(backends: &[HttpBackend]) -> [SocketAddr; 3] {
    std::array::from_fn(|i| backends[i].addr())
}

/// Waits until the backend has got so many more requests.
async fn gets_more(backend: &HttpBackend) {
    let before = backend.requests();
    eventually("more requests", || backend.requests() >= before + 50).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_or_two_of_three_that_are_killed_cost_no_get() {
    for dead in [1, 2] {
        let mut backends = three().await;
        let addrs = addrs(&backends);
        let scene = Scene::set(addrs, &CHECKED).await;
        let (mut left, killed) = (backends.split_off(dead), backends);
        for backend in killed {
            gets_more(&backend).await;
            backend.stop().await;
        }
        for name in &["b0", "b1"][..dead] {
            scene.said("backend is down", name, 1).await;
        }
        let last = left.pop().unwrap();
        gets_more(&last).await;
        let back = HttpBackend::start_on(addrs[0], "b0").await;
        scene.said("backend is up", "b0", 1).await;
        gets_more(&back).await;
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_costs_no_get() {
    let mut backends = three().await;
    let addrs = addrs(&backends);
    let scene = Scene::set(addrs, &CHECKED).await;
    for (addr, name) in addrs.into_iter().zip(["b0", "b1", "b2"]) {
        backends.remove(0).stop().await;
        scene.said("backend is down", name, 1).await;
        let back = HttpBackend::start_on(addr, name).await;
        scene.said("backend is up", name, 1).await;
        gets_more(&back).await;
        backends.push(back);
    }
    scene.end().await;
}

/// What it was asked is asked of another, once it is found to be down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_backend_costs_no_get_if_its_sessions_are_shut_down() {
    let backends = three().await;
    let freezer = Freezer::start(backends[0].addr()).await;
    let flags = ["--check", "http:/", "--check-interval", "100ms", "--check-timeout", "500ms"];
    let more = ["--fall", "2", "--rise", "2", "--on-marked-down", "shutdown-sessions"];
    let [_, one, two] = addrs(&backends);
    let scene = Scene::set([freezer.addr(), one, two], &[&flags[..], &more].concat()).await;
    gets_more(&backends[0]).await;
    freezer.freeze();
    scene.said("backend is down", "b0", 1).await;
    // Each client would soon be stuck if requests still went there.
    gets_more(&backends[1]).await;
    gets_more(&backends[2]).await;
    freezer.thaw();
    scene.said("backend is up", "b0", 1).await;
    gets_more(&backends[0]).await;
    scene.end().await;
}

/// GETs until `stop`, and returns how many were answered. Each has to be, with 200.
fn load(mut client: Client, http: Http, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let mut answered = 0;
        while !stop.load(Ordering::Relaxed) {
            let answer = client.get("/").await;
            assert_eq!(answer.status, 200, "{http:?}, after {answered}: {}", answer.text());
            answered += 1;
        }
        answered
    })
}

async fn flap(addr: SocketAddr, mut backend: HttpBackend) -> HttpBackend {
    let begun = Instant::now();
    let mut ticks = interval(Duration::from_millis(200));
    while begun.elapsed() < FLAPPING {
        ticks.tick().await;
        backend.stop().await;
        ticks.tick().await;
        backend = HttpBackend::start_on(addr, "flapping").await;
    }
    backend
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_backend_costs_no_get() {
    for checks in [&CHECKED[..], &[]] {
        let site = Site::new();
        let flapping = HttpBackend::start("flapping").await;
        let steady = [HttpBackend::start("a").await, HttpBackend::start("b").await];
        let addr = flapping.addr();
        let proxy = site.proxy(&[addr, steady[0].addr(), steady[1].addr()], checks);
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for _ in 0..4 {
            for http in Http::BOTH {
                let client = Client::connect(&site, &proxy, http).await;
                tasks.push(load(client, http, &stop));
            }
        }
        let flapping = flap(addr, flapping).await;
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            assert!(task.await.unwrap() > 20);
        }
        drop(flapping);
    }
}

/// 64 backends, so that of two equal limits on time each is the first one somewhere.
#[tokio::test]
async fn an_agent_that_hangs_takes_no_backend_out() {
    let site = Site::new();
    let agent = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let check = format!("agent:{}", agent.local_addr().unwrap().port());
    let backends: Vec<SocketAddr> = (1..=64).map(|n| ([127, 0, 3, n], 1).into()).collect();
    for limit in ["100ms", "1s"] {
        let flags = ["--check", &check, "--check-interval", "200ms", "--check-timeout", limit];
        let proxy = site.proxy(&backends, &flags);
        eventually("silence", || count(&proxy, "nothing that makes sense") == 64).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(count(&proxy, "backend is down"), 0, "{limit}");
    }
}
