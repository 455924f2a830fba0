//! Checks take a backend out and bring it back, and until then nobody notices.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bartizan_testkit::HttpBackend;
use bartizan_tests::{Client, Http, Proxy, Site, eventually, full};
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
