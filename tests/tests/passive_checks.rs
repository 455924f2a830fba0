//! What requests show of backends that no check finds to be bad.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use bartizan_testkit::{Fault, HttpBackend, Misbehaving, refused_addr};
use bartizan_tests::{Client, Http, Proxy, Site, eventually, within};

const SICK: &[u8] = b"HTTP/1.1 503 Sick\r\nContent-Length: 0\r\n\r\n";

/// One worker, so that each backend gets its turn.
fn proxy(site: &Site, bad: SocketAddr, good: &[HttpBackend], flags: &[&str]) -> Proxy {
    let mut args = vec!["--backend".to_owned(), format!("bad={bad}")];
    for backend in good {
        args.extend(["--backend".to_owned(), format!("{}={}", backend.name(), backend.addr())]);
    }
    args.extend(["--workers".to_owned(), "1".to_owned()]);
    let flags: Vec<_> = args.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    site.proxy(&[], &flags)
}

async fn two() -> Vec<HttpBackend> {
    vec![HttpBackend::start("one").await, HttpBackend::start("two").await]
}

/// How many of `count` GETs are answered with 503; all others are with 200.
async fn refused(client: &mut Client, count: usize) -> usize {
    let mut refused = 0;
    for _ in 0..count {
        let answer = client.get("/").await;
        assert!(matches!(answer.status.as_u16(), 200 | 503), "{}", answer.status);
        refused += usize::from(answer.status == 503);
    }
    refused
}

#[tokio::test]
async fn so_many_errors_in_a_row_eject_a_backend() {
    let (site, good) = (Site::new(), two().await);
    let bad = Misbehaving::start(Fault::RawKeepAlive(SICK.to_vec())).await;
    let flags = ["--outlier", "consecutive-5xx=3,base-ejection-time=60s,interval=1s,keep=50%"];
    let proxy = proxy(&site, bad.addr(), &good, &flags);
    let mut client = Client::connect(&site, &proxy, Http::Two).await;
    assert_eq!(refused(&mut client, 60).await, 3);
    assert_eq!(proxy.said(&["backend is ejected", "bad"]), 1);
    assert_eq!(proxy.said(&["backend is ejected"]), 1);
}

#[tokio::test]
async fn an_ejected_backend_that_has_recovered_comes_back_after_its_time() {
    let (site, good) = (Site::new(), two().await);
    let bad = Misbehaving::start(Fault::RawKeepAlive(SICK.to_vec())).await;
    let addr = bad.addr();
    let flags = ["--outlier", "consecutive_5xx=2,base_ejection_time=1s,interval=100ms,keep=50%"];
    let proxy = proxy(&site, addr, &good, &flags);
    let mut client = Client::connect(&site, &proxy, Http::One).await;
    assert_eq!(refused(&mut client, 6).await, 2);
    assert_eq!(proxy.said(&["backend is ejected", "bad"]), 1);
    bad.stop().await;
    let recovered = HttpBackend::start_on(addr, "bad").await;
    let asked = async {
        while recovered.requests() < 20 {
            assert_eq!(client.get("/").await.status, 200);
        }
    };
    within(Duration::from_secs(30), "its share", asked).await;
    eventually("the return", || proxy.said(&["backend is up", "bad"]) == 1).await;
}

#[tokio::test]
async fn without_a_word_of_it_nothing_is_ejected() {
    let (site, good) = (Site::new(), two().await);
    let bad = Misbehaving::start(Fault::RawKeepAlive(SICK.to_vec())).await;
    let proxy = proxy(&site, bad.addr(), &good, &[]);
    let mut client = Client::connect(&site, &proxy, Http::Two).await;
    assert_eq!(refused(&mut client, 60).await, 20);
}

/// Checks are too rare to find anything here.
#[tokio::test]
async fn bad_answers_that_are_observed_mark_a_backend_down() {
    let (site, good) = (Site::new(), two().await);
    let bad = Misbehaving::start(Fault::RawKeepAlive(SICK.to_vec())).await;
    let flags = ["--check", "tcp", "--check-interval", "1h"];
    let observe = ["--observe", "layer7,error-limit=3,on-error=mark-down"];
    let proxy = proxy(&site, bad.addr(), &good, &[&flags[..], &observe].concat());
    let mut client = Client::connect(&site, &proxy, Http::Two).await;
    assert_eq!(refused(&mut client, 60).await, 3);
    assert_eq!(proxy.said(&["backend is down", "bad"]), 1);
}

#[tokio::test]
async fn of_layer_4_only_connections_that_fail_count() {
    let flags = ["--check", "tcp", "--check-interval", "1h"];
    let observe = ["--observe", "layer4,error-limit=3,on-error=mark-down"];
    let flags = [&flags[..], &observe].concat();
    let (site, good) = (Site::new(), two().await);
    let sick = Misbehaving::start(Fault::RawKeepAlive(SICK.to_vec())).await;
    let answers = proxy(&site, sick.addr(), &good, &flags);
    let mut client = Client::connect(&site, &answers, Http::One).await;
    assert_eq!(refused(&mut client, 60).await, 20);
    assert_eq!(answers.said(&["backend is down"]), 0);

    let refuses = proxy(&site, refused_addr(), &good, &flags);
    let mut client = Client::connect(&site, &refuses, Http::One).await;
    assert_eq!(refused(&mut client, 60).await, 0, "others have answered");
    assert_eq!(refuses.said(&["backend is down", "bad"]), 1);
}
