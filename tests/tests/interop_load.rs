//! wrk and h2load against three nginx backends: an even split and no error.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::env;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use bartizan_tests::program::run;
use bartizan_tests::{Nginx, Proxy, Site, eventually};
use tokio::task::JoinHandle;
use tokio::time::interval;

/// How long a load lasts: `BARTIZAN_INTEROP_SECONDS`, or 5.
fn seconds() -> u64 {
    env::var("BARTIZAN_INTEROP_SECONDS").map_or(5, |text| text.parse().unwrap())
}

/// Connections of a load. Requests under way at its end are cut off, and make the split uneven.
const CONNECTIONS: usize = 32;

/// Streams of each connection of h2load.
const STREAMS: usize = 4;

async fn three() -> Vec<Nginx> {
    vec![Nginx::start("web1").await, Nginx::start("web2").await, Nginx::start("web3").await]
}

fn start(site: &Site, backends: &[Nginx]) -> Proxy {
    let addrs: Vec<_> = backends.iter().map(Nginx::addr).collect();
    site.proxy(&addrs, &["--check", "tcp"])
}

/// A load generator, and what its output has to say.
type Load = fn(SocketAddr) -> usize;

/// Runs wrk, and returns how many requests it counts.
fn wrk(addr: SocketAddr) -> usize {
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-d", &format!("{}s", seconds())]);
    command.arg(format!("https://{addr}/"));
    let ended = run(&mut command, Duration::from_secs(seconds() + 60));
    let report = ended.stdout;
    assert!(ended.status.success(), "{report}\n{}", ended.stderr);
    // It mentions them only if there are any.
    assert!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "{report}");
    let line = report.lines().find(|line| line.contains(" requests in ")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Runs h2load, and returns how many requests it counts.
fn h2load(addr: SocketAddr) -> usize {
    let mut command = Command::new("h2load");
    command.args(["-t", "1", "-c", &CONNECTIONS.to_string(), "-m", &STREAMS.to_string()]);
    command.args(["-D", &seconds().to_string(), &format!("https://{addr}/")]);
    let ended = run(&mut command, Duration::from_secs(seconds() + 60));
    let report = ended.stdout;
    assert!(ended.status.success(), "{report}\n{}", ended.stderr);
    assert!(report.contains("Application protocol: h2"), "{report}");
    assert!(report.contains(" 0 failed, 0 errored, 0 timeout"), "{report}");
    let codes = report.lines().find(|line| line.starts_with("status codes:")).unwrap();
    assert!(codes.ends_with(" 0 3xx, 0 4xx, 0 5xx"), "{report}");
    codes.split_whitespace().nth(2).unwrap().parse().unwrap()
}

fn run_load(load: Load, addr: SocketAddr) -> JoinHandle<usize> {
    tokio::task::spawn_blocking(move || load(addr))
}

async fn splits_evenly(load: Load) {
    let (site, backends) = (Site::new(), three().await);
    let proxy = start(&site, &backends);
    let asked = run_load(load, proxy.addr()).await.unwrap();
    let counts = || backends.iter().map(Nginx::logged).collect::<Vec<_>>();
    eventually("the logs of all requests", || counts().iter().sum::<usize>() >= asked).await;
    let counts = counts();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least > 100, "{counts:?}");
    let allowed = CONNECTIONS * STREAMS + most / 200;
    assert!(most - least <= allowed, "uneven: {counts:?}");
    println!("{asked} requests, split {counts:?}");
}

async fn survives_kills(load: Load) {
    let (site, mut backends) = (Site::new(), three().await);
    let proxy = start(&site, &backends);
    let load = run_load(load, proxy.addr());
    let mut ticks = interval(Duration::from_secs(1));
    let mut kills = 0;
    ticks.tick().await;
    while !load.is_finished() {
        ticks.tick().await;
        backends[0].kill();
        kills += 1;
        ticks.tick().await;
        backends[0].restart().await;
    }
    let asked = load.await.unwrap();
    assert!(asked > 100 && kills > 1, "{asked} requests, {kills} kills");
    println!("{asked} requests, {kills} kills, no error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrk_s_requests_are_split_evenly() {
    splits_evenly(wrk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_s_requests_are_split_evenly() {
    splits_evenly(h2load).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrk_sees_no_error_while_a_backend_is_killed_and_restarted() {
    survives_kills(wrk).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_sees_no_error_while_a_backend_is_killed_and_restarted() {
    survives_kills(h2load).await;
}
