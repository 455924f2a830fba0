//! HAProxy and the proxy check servers that answer by the same script, and agree on when they are
//! down and when they are up.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::Duration;

use bartizan_tests::Step::{self, Reset, Status};
use bartizan_tests::{Haproxy, Scripted, Site, eventually};
use tokio::time::Instant;

const INTERVAL: Duration = Duration::from_millis(500);

const OK: Step = Status(200);

const SICK: Step = Status(503);

/// What checks find when `fall` is 3 and `rise` is 2. HAProxy takes a server that has only just
/// started for nearly down, so it begins with some that pass.
const SCRIPT: [Step; 20] = [
    OK, OK, OK, OK, //
    SICK, SICK, OK, // not enough to fall, and forgotten
    Reset, SICK, Reset, // down
    OK, SICK, // not enough to rise, and forgotten
    OK, OK, // up
    SICK, SICK, SICK, // down
    SICK, OK, OK, // up
];

/// The changes that it makes: to what, and which step is the first of those that make them.
const CHANGES: [(&str, usize); 4] = [("down", 7), ("up", 12), ("down", 14), ("up", 18)];

/// Of a checker, the times from the first check that speaks for a change to the news of it.
async fn changes(backend: &Scripted, told: impl Fn(&str) -> usize) -> Vec<Duration> {
    let (mut times, mut seen) = (Vec::new(), [("down", 0), ("up", 0)]);
    for (change, first) in CHANGES {
        let (_, seen) = seen.iter_mut().find(|(name, _)| *name == change).unwrap();
        eventually(change, || told(change) > *seen).await;
        let now = Instant::now();
        *seen += 1;
        assert_eq!(told(change), *seen, "{change} at its time and not before");
        let arrivals = backend.arrivals();
        assert!(arrivals.len() > first, "{change} after {} checks", arrivals.len());
        times.push(now - arrivals[first]);
    }
    times
}

async fn haproxys(backend: &Scripted) -> Vec<Duration> {
    let (addr, every) = (backend.addr(), INTERVAL.as_millis());
    let haproxy = Haproxy::start(&format!(
        "backend servers
    mode http
    option httpchk GET /
    server b0 {addr} check inter {every}ms rise 2 fall 3
"
    ))
    .await;
    let told = |change: &str| {
        let change = format!("Server servers/b0 is {}", change.to_uppercase());
        haproxy.log().matches(&change).count()
    };
    changes(backend, told).await
}

async fn ours(backend: &Scripted) -> Vec<Duration> {
    let (site, every) = (Site::new(), format!("{}ms", INTERVAL.as_millis()));
    let flags = ["--check", "http:/", "--check-interval", &every, "--rise", "2", "--fall", "3"];
    let proxy = site.proxy(&[backend.addr()], &flags);
    changes(backend, |change| proxy.said(&[&format!("backend is {change}")])).await
}

#[tokio::test]
async fn both_find_each_change_after_the_same_checks() {
    let backends = [Scripted::start(&SCRIPT).await, Scripted::start(&SCRIPT).await];
    let (theirs, ours) = tokio::join!(haproxys(&backends[0]), ours(&backends[1]));
    println!("{CHANGES:?}\nHAProxy: {theirs:.3?}\nbartizan: {ours:.3?}");
    for ((change, theirs), ours) in CHANGES.iter().zip(theirs).zip(ours) {
        // One check more or less would make a whole interval.
        let apart = theirs.abs_diff(ours);
        assert!(apart < INTERVAL * 3 / 4, "{change:?}: {theirs:?} and {ours:?}");
    }
}
