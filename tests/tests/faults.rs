//! Backends that fail before they answer: what may be tried elsewhere is, and nothing else.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;

use bartizan_testkit::{Fault, HttpBackend, Misbehaving, refused_addr};
use bartizan_tests::{Answer, Client, Http, Site, empty, full, request};

/// Faults that give a GET no byte of an answer. What they do is seen at once.
const SILENT: [Fault; 6] = [
    Fault::CloseOnAccept,
    Fault::ResetOnAccept,
    Fault::CloseAfterRequest,
    Fault::ResetAfterRequest,
    Fault::CloseAfterEachKeepAlive,
    Fault::CloseOnReuse,
];

/// No second try, so that a failure shows at once.
const ONCE: [&str; 2] = ["--retries", "0"];

/// What a client is told must not tell how the inside looks.
fn assert_tells_nothing(answer: &Answer, backends: &[SocketAddr]) {
    let told = format!("{:?} {}", answer.headers, answer.text()).to_lowercase();
    for addr in backends {
        assert!(!told.contains(&addr.port().to_string()), "{told}");
    }
    for word in ["127.0.0.1", "secret", "backend", "cluster", "os error", "hyper", "refused"] {
        assert!(!told.contains(word), "{word}: {told}");
    }
    assert!(answer.body.len() < 200, "{told}");
}

/// The answer to one GET through a proxy whose only backend is `addr`.
async fn alone(addr: SocketAddr, http: Http, flags: &[&str]) -> Answer {
    let site = Site::new();
    let mut args = site.args(&[]);
    args.extend(["--backend".to_owned(), format!("secretname={addr}")]);
    args.extend(flags.iter().map(|&flag| flag.to_owned()));
    let proxy = bartizan_tests::Proxy::start(&args);
    let answer = Client::connect(&site, &proxy, http).await.get("/").await;
    assert_tells_nothing(&answer, &[addr]);
    answer
}

#[tokio::test]
async fn gets_do_not_fail_while_another_backend_is_good() {
    for fault in SILENT {
        let bad = Misbehaving::start(fault.clone()).await;
        let good = [HttpBackend::start("a").await, HttpBackend::start("b").await];
        let site = Site::new();
        let proxy = site.proxy(&[bad.addr(), good[0].addr(), good[1].addr()], &[]);
        for http in Http::BOTH {
            let mut client = Client::connect(&site, &proxy, http).await;
            for _ in 0..12 {
                let answer = client.get("/").await;
                assert_eq!(answer.status, 200, "{fault:?} {http:?}");
            }
            for method in ["HEAD", "OPTIONS"] {
                for _ in 0..6 {
                    let answer = client.ask(request(method, "/", empty())).await.unwrap();
                    // The good ones do not know OPTIONS.
                    let known = answer.status == 200 || answer.status == 404;
                    assert!(known, "{fault:?} {http:?} {method} {}", answer.status);
                }
            }
        }
        assert!(bad.connections() > 0, "{fault:?} took no part");
    }
}

#[tokio::test]
async fn no_request_fails_over_a_backend_that_refuses() {
    let good = [HttpBackend::start("a").await, HttpBackend::start("b").await];
    let site = Site::new();
    let refused = [refused_addr(), refused_addr()];
    let proxy = site.proxy(&[refused[0], good[0].addr(), refused[1], good[1].addr()], &[]);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        for _ in 0..12 {
            assert_eq!(client.get("/").await.status, 200);
            assert_eq!(client.post("/echo", full("body")).await.text(), "body", "{http:?}");
        }
    }
    assert_eq!(good[0].requests() + good[1].requests(), 48, "each request was sent once");
}

#[tokio::test]
async fn no_request_fails_over_a_backend_that_cannot_be_connected_to() {
    let (bad, good) = (Misbehaving::start(Fault::NeverAccept).await, HttpBackend::start("a").await);
    let site = Site::new();
    let proxy = site.proxy(&[bad.addr(), good.addr()], &["--timeout-connect", "200ms"]);
    let mut client = Client::connect(&site, &proxy, Http::Two).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(client.post("/echo", full("body")).await.text(), "body");
    }
}

#[tokio::test]
async fn a_refusal_alone_is_a_502() {
    for http in Http::BOTH {
        assert_eq!(alone(refused_addr(), http, &ONCE).await.status, 502);
    }
}

#[tokio::test]
async fn a_backend_that_only_closes_is_a_502() {
    for fault in &SILENT[..4] {
        let bad = Misbehaving::start(fault.clone()).await;
        for http in Http::BOTH {
            assert_eq!(alone(bad.addr(), http, &ONCE).await.status, 502, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_a_504() {
    let bad = Misbehaving::start(Fault::Hang).await;
    for http in Http::BOTH {
        let answer = alone(bad.addr(), http, &["--timeout-server", "500ms"]).await;
        assert_eq!(answer.status, 504);
    }
    assert_eq!(bad.requests(), 2, "a request that may still be at work is not repeated");
}

#[tokio::test]
async fn a_backend_that_cannot_be_connected_to_is_a_504() {
    let bad = Misbehaving::start(Fault::NeverAccept).await;
    let flags = ["--timeout-connect", "300ms", "--retries", "0"];
    assert_eq!(alone(bad.addr(), Http::One, &flags).await.status, 504);
}

#[tokio::test]
async fn a_slow_answer_is_no_silence() {
    let slow = Misbehaving::start(Fault::SlowHead).await;
    // Its head takes four seconds, with a byte every 100 ms.
    let answer = alone(slow.addr(), Http::One, &["--timeout-server", "1s"]).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "ok"));
}

#[tokio::test]
async fn a_503_says_that_checks_have_taken_all_out() {
    let (site, refused) = (Site::new(), refused_addr());
    let flags = ["--check", "tcp", "--check-interval", "50ms", "--fall", "2", "--retries", "0"];
    let proxy = site.proxy(&[refused], &flags);
    bartizan_tests::eventually("the fall", || proxy.stderr().contains("backend is down")).await;
    for http in Http::BOTH {
        let answer = Client::connect(&site, &proxy, http).await.get("/").await;
        assert_eq!(answer.status, 503);
        assert_tells_nothing(&answer, &[refused]);
    }
}

#[tokio::test]
async fn a_post_that_a_backend_took_is_not_sent_to_another() {
    for fault in [Fault::CloseAfterRequest, Fault::ResetAfterRequest] {
        for http in Http::BOTH {
            let bad =
                [Misbehaving::start(fault.clone()).await, Misbehaving::start(fault.clone()).await];
            let site = Site::new();
            let proxy = site.proxy(&[bad[0].addr(), bad[1].addr()], &[]);
            let mut client = Client::connect(&site, &proxy, http).await;
            for sent in 1..=4 {
                assert_eq!(client.post("/", full("body")).await.status, 502, "{fault:?} {http:?}");
                assert_eq!(bad[0].requests() + bad[1].requests(), sent, "{fault:?} {http:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_get_that_a_backend_took_is_sent_to_the_others_once_each() {
    for (method, body, tries) in [("GET", "", 3), ("HEAD", "", 3), ("GET", "body", 1)] {
        let bad = [
            Misbehaving::start(Fault::CloseAfterRequest).await,
            Misbehaving::start(Fault::CloseAfterRequest).await,
            Misbehaving::start(Fault::CloseAfterRequest).await,
        ];
        let site = Site::new();
        let addrs = bad.each_ref().map(Misbehaving::addr);
        let proxy = site.proxy(&addrs, &[]);
        let mut client = Client::connect(&site, &proxy, Http::One).await;
        let body = if body.is_empty() { empty() } else { full(body) };
        assert_eq!(client.ask(request(method, "/", body)).await.unwrap().status, 502);
        let taken: Vec<_> = bad.iter().map(Misbehaving::requests).collect();
        assert_eq!(taken.iter().sum::<u64>(), tries, "{method}");
        assert!(taken.iter().all(|count| *count <= 1), "twice to the same: {taken:?}");
    }
}

#[tokio::test]
async fn a_failure_of_a_head_has_no_body() {
    let (site, refused) = (Site::new(), refused_addr());
    let proxy = site.proxy(&[refused], &ONCE);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        for _ in 0..2 {
            let answer = client.ask(request("HEAD", "/", empty())).await;
            let answer = answer.unwrap_or_else(|e| panic!("{http:?}: {e}"));
            assert_eq!((answer.status.as_u16(), answer.body.len()), (502, 0), "{http:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_hangs_costs_its_own_requests_only() {
    let (bad, good) = (Misbehaving::start(Fault::Hang).await, HttpBackend::start("a").await);
    let site = Site::new();
    let flags = ["--timeout-server", "300ms", "--workers", "1"];
    let proxy = site.proxy(&[bad.addr(), good.addr()], &flags);
    let mut client = Client::connect(&site, &proxy, Http::Two).await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(client.get("/").await.status.as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 504, 504, 504, 504]);
}

#[tokio::test]
async fn a_stale_connection_costs_no_get() {
    // Alone, so that nothing but a new connection to the same backend can help.
    for fault in [Fault::CloseAfterEachKeepAlive, Fault::CloseOnReuse] {
        let (site, bad) = (Site::new(), Misbehaving::start(fault.clone()).await);
        let proxy = site.proxy(&[bad.addr()], &["--workers", "1"]);
        let mut client = Client::connect(&site, &proxy, Http::One).await;
        for _ in 0..4 {
            assert_eq!(client.get("/").await.text(), "ok", "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_kept_connection_that_has_closed_costs_no_post() {
    let mut backend = HttpBackend::start("web").await;
    let (site, addr) = (Site::new(), backend.addr());
    let proxy = site.proxy(&[addr], &["--workers", "1", "--retries", "0"]);
    let mut client = Client::connect(&site, &proxy, Http::One).await;
    for _ in 0..10 {
        assert_eq!(client.post("/echo", full("body")).await.text(), "body");
        // The connection is closed, and the proxy told, before the next request.
        backend.stop().await;
        backend = HttpBackend::start_on(addr, "web").await;
    }
}
