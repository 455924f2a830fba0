//! Many connections, and more than there is room for.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::Duration;

use bartizan_testkit::HttpBackend;
use bartizan_tests::{Client, Http, Site, eventually, within};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

const SOON: Duration = Duration::from_secs(10);

/// Connections at once while many are opened: enough to keep both sides busy.
const AT_ONCE: usize = 32;

#[tokio::test]
async fn connections_over_the_cap_wait_and_are_served_later() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--max-conns", "3", "--workers", "1"]);
    let mut open = Vec::new();
    for http in [Http::One, Http::Two, Http::One] {
        open.push(Client::connect(&site, &proxy, http).await);
    }
    let tls = site.tls(&["http/1.1"]);
    let addr = proxy.addr();
    let mut waiting: Vec<_> = (0..3)
        .map(|_| {
            let tls = tls.clone();
            tokio::spawn(async move {
                let mut client = Client::open(addr, tls, Http::One).await.unwrap();
                client.get("/").await.status
            })
        })
        .collect();
    // Those inside are served as ever, often enough for the others to show that they are not.
    for _ in 0..20 {
        for client in &mut open {
            assert_eq!(client.get("/slow/10").await.text(), "web\n");
        }
    }
    for outside in &mut waiting {
        assert!(!outside.is_finished(), "served beyond the cap");
    }
    drop(open);
    for outside in waiting {
        assert_eq!(within(SOON, "a place", outside).await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_cap_leaves_room_for_as_many_as_it_says() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--max-conns", "20", "--workers", "1"]);
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(Client::connect(&site, &proxy, Http::Two).await);
    }
    for client in &mut open {
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn running_out_of_descriptors_neither_stops_nor_spins_it() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let mut args = site.args(&[backend.addr()]);
    args.extend(["--max-conns", "10000", "--workers", "1"].map(str::to_owned));
    let mut proxy = bartizan_tests::Proxy::start_with_descriptors(60, &args);
    // It has its connection to the backend before there are no more.
    let mut inside = Client::connect(&site, &proxy, Http::One).await;
    assert_eq!(inside.get("/").await.status, 200);

    let mut crowd = Vec::new();
    while crowd.len() < 100 {
        crowd.push(within(SOON, "the queue", TcpStream::connect(proxy.addr())).await.unwrap());
    }
    eventually("no more descriptors", || proxy.stderr().contains("cannot accept")).await;

    let (before, begun) = (proxy.stat().cpu, Instant::now());
    // Not a wait for something: the time over which work is counted.
    sleep(Duration::from_millis(1500)).await;
    let (spent, passed) = (proxy.stat().cpu - before, begun.elapsed());
    assert!(spent * 4 < passed, "spins: {spent:?} of {passed:?}");
    let lines = proxy.stderr().matches("cannot accept").count();
    assert!(lines <= 2, "{lines} lines in the log");
    assert_eq!(inside.get("/").await.status, 200, "who is inside is served");
    assert!(proxy.is_running());

    drop(crowd);
    let mut again = within(SOON, "service", async {
        Client::open(proxy.addr(), site.tls(&["h2"]), Http::Two).await.unwrap()
    })
    .await;
    assert_eq!(again.get("/").await.text(), "web\n");
}

/// Opens `count` connections, waits until the last is there, and uses each of them.
async fn hold(count: usize) {
    let wanted = u64::try_from(count).unwrap() + 1000;
    let had = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    assert!(had >= wanted, "this machine gives {had} descriptors, {wanted} are needed");
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--timeout-keepalive", "10m"]);
    let (tls, addr) = (site.tls(&["http/1.1"]), proxy.addr());
    let mut open = Vec::new();
    while open.len() < count {
        let more = AT_ONCE.min(count - open.len());
        let batch: Vec<_> =
            (0..more).map(|_| tokio::spawn(Client::open(addr, tls.clone(), Http::One))).collect();
        for client in batch {
            open.push(within(SOON, "a connection", client).await.unwrap().unwrap());
        }
    }
    let stat = proxy.stat();
    assert!(stat.descriptors > count, "{stat:?}");
    println!("{count} connections: {} KiB each", stat.rss / 1024 / count as u64);
    for client in &mut open {
        assert_eq!(client.get("/").await.status, 200);
    }
    let newcomer = timeout(SOON, Client::connect(&site, &proxy, Http::Two)).await;
    assert_eq!(newcomer.unwrap().get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_connections_are_held() {
    hold(1000).await;
}

#[cfg(feature = "interop")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_idle_connections_are_held() {
    hold(5000).await;
}
