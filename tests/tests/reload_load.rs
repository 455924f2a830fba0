//! Certificates are replaced a thousand times while clients come, ask and go.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use bartizan_testkit::{HttpBackend, Leaf};
use bartizan_tests::{Client, Http, Site, Visitor, eventually};

const SWAPS: usize = 1_000;

/// Certificates that take turns.
const MINTED: usize = 10;

/// Clients of each kind.
const CLIENTS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_swaps_fail_no_handshake_and_drop_no_connection() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let minted: Vec<_> = (0..MINTED).map(|_| site.ca().issue(Leaf::server("localhost"))).collect();
    let proxy = Arc::new(site.proxy(&[backend.addr()], &[]));
    let done = Arc::new(AtomicBool::new(false));
    let (shaken, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut clients = Vec::new();
    for number in 0..CLIENTS * 2 {
        let http = Http::BOTH[number % 2];
        // Some come anew each time, with full handshakes or with sessions.
        let mut visitor = Visitor::new(site.ca(), "localhost");
        if number < 2 {
            visitor = visitor.forgetful();
        }
        let (to, stop, count) = (proxy.clone(), done.clone(), shaken.clone());
        clients.push(tokio::spawn(async move {
            while !stop.load(Relaxed) {
                assert_eq!(visitor.get(&to, http, "/").await.unwrap().status, 200);
                count.fetch_add(1, Relaxed);
            }
        }));
        // Others stay.
        let mut client = Client::connect(&site, &proxy, http).await;
        let (stop, count) = (done.clone(), asked.clone());
        clients.push(tokio::spawn(async move {
            while !stop.load(Relaxed) {
                assert_eq!(client.get("/slow/1").await.status, 200);
                count.fetch_add(1, Relaxed);
            }
        }));
    }
    let loaded = || proxy.stderr().matches("certificates loaded").count();
    for swap in 1..=SWAPS {
        let aside = site.dir().write("aside.tmp", minted[swap % MINTED].bundle_pem());
        fs::rename(aside, site.certs()).unwrap();
        proxy.signal("HUP");
        eventually("the next generation", || loaded() > swap).await;
        if swap % 100 == 0 {
            assert!(!clients.iter().any(tokio::task::JoinHandle::is_finished), "a client failed");
        }
    }
    // All of them still at it.
    let before = (shaken.load(Relaxed), asked.load(Relaxed));
    let more = || shaken.load(Relaxed) > before.0 + 10 && asked.load(Relaxed) > before.1 + 10;
    eventually("clients that go on", more).await;
    done.store(true, Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    println!("{before:?} handshakes and requests during {SWAPS} swaps");
    assert!(before.0 > 200, "{before:?}");
    // The watch loads as well, so the generation that was waited for may have been an earlier one.
    let visitor = Visitor::new(site.ca(), "localhost").forgetful();
    let last = minted[SWAPS % MINTED].cert_der();
    while visitor.shown(&proxy).await != *last {
        let seen = loaded();
        eventually("the last generation", || loaded() > seen).await;
    }
    let log = proxy.stderr();
    assert!(!log.contains("handshake failed") && !log.contains("not loaded"), "{log}");
}
