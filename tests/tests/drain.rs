//! SIGTERM ends the proxy, and nothing that is under way.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::Duration;

use bartizan_testkit::HttpBackend;
use bartizan_tests::raw::{DATA, END_STREAM, GOAWAY, RST_STREAM, Raw};
use bartizan_tests::{Client, Http, Proxy, Site, empty, eventually, request};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// When an end has to be there that nothing delays: late on a busy machine, early against a grace.
const SOON: Duration = Duration::from_secs(5);

const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn scene(grace: &str) -> (Site, HttpBackend, Proxy) {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--drain", grace]);
    (site, backend, proxy)
}

/// A GET that takes `ms`, which the backend has received.
async fn slow(
    site: &Site,
    backend: &HttpBackend,
    proxy: &Proxy,
    http: Http,
    ms: u64,
) -> JoinHandle<Result<bartizan_tests::Answer, String>> {
    let before = backend.requests();
    let mut client = Client::connect(site, proxy, http).await;
    let path = format!("/slow/{ms}");
    let task = tokio::spawn(async move { client.ask(request("GET", &path, empty())).await });
    backend.until(|counts| counts.requests > before).await;
    task
}

/// Sends SIGTERM and waits until it has begun to work.
async fn terminate(proxy: &Proxy) {
    proxy.signal("TERM");
    eventually("the drain", || proxy.stderr().contains("draining")).await;
}

#[tokio::test]
async fn requests_under_way_are_finished() {
    for signal in ["TERM", "INT"] {
        let (site, backend, mut proxy) = scene("30s").await;
        let mut answers = Vec::new();
        for http in [Http::One, Http::Two, Http::One, Http::Two] {
            answers.push((http, slow(&site, &backend, &proxy, http, 1500).await));
        }
        let begun = Instant::now();
        proxy.signal(signal);
        for (http, answer) in answers {
            let answer = answer.await.unwrap().unwrap();
            assert_eq!((answer.status.as_u16(), answer.text()), (200, "web\n"), "{http:?}");
            let close = if http == Http::One { "close" } else { "" };
            assert_eq!(answer.header("connection"), close, "{http:?}");
        }
        assert_eq!(proxy.wait(SOON).await.code(), Some(0));
        assert!(begun.elapsed() < SOON * 2, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn nothing_more_is_accepted() {
    let (site, backend, mut proxy) = scene("30s").await;
    let answer = slow(&site, &backend, &proxy, Http::One, 2000).await;
    terminate(&proxy).await;
    let addr = proxy.addr();
    eventually("a port that refuses", || std::net::TcpStream::connect(addr).is_err()).await;
    assert!(proxy.is_running(), "while a request is under way");
    assert_eq!(answer.await.unwrap().unwrap().status, 200);
    assert_eq!(proxy.wait(SOON).await.code(), Some(0));
}

#[tokio::test]
async fn a_request_on_a_kept_connection_is_answered_with_close() {
    let (site, backend, mut proxy) = scene("30s").await;
    let busy = slow(&site, &backend, &proxy, Http::Two, 2000).await;
    let mut raw = Raw::connect(&site, &proxy, &["http/1.1"]).await;
    raw.write(GET).await.unwrap();
    let first = raw.read_until("web\n").await;
    assert!(!first.to_lowercase().contains("connection: close"), "{first}");
    terminate(&proxy).await;
    raw.write(GET).await.unwrap();
    let last = raw.read_to_end(SOON).await;
    assert!(last.starts_with("HTTP/1.1 200 ") && last.ends_with("web\n"), "{last}");
    assert!(last.to_lowercase().contains("connection: close"), "{last}");
    assert_eq!(busy.await.unwrap().unwrap().status, 200);
    assert_eq!(proxy.wait(SOON).await.code(), Some(0));
}

#[tokio::test]
async fn h2_says_goaway_and_completes_its_streams() {
    let (site, backend, mut proxy) = scene("30s").await;
    let mut raw = Raw::connect(&site, &proxy, &["h2"]).await;
    raw.start_h2().await;
    for stream in [1, 3, 5] {
        raw.get_h2(stream, "/slow/1000").await;
    }
    backend.until(|counts| counts.requests == 3).await;
    proxy.signal("TERM");
    let (mut goaway, mut done, mut before) = (0, Vec::new(), 0);
    while let Some(frame) = raw.frame().await {
        assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
        if frame.kind == GOAWAY {
            assert_eq!(frame.payload[4..8], [0; 4], "no error: {frame:?}");
            goaway += 1;
            before = before.max(usize::from(done.is_empty()));
        }
        if frame.kind == DATA && frame.flags & END_STREAM != 0 {
            done.push(frame.stream);
        }
    }
    done.sort_unstable();
    assert_eq!(done, [1, 3, 5]);
    assert!(goaway > 0 && before == 1, "GOAWAY comes before the streams end");
    assert_eq!(proxy.wait(SOON).await.code(), Some(0));
}

/// Asks until the proxy has said that the connection ends, and returns how many were answered.
async fn ask_until_told(mut client: Client, http: Http) -> u64 {
    let mut answered = 0;
    loop {
        match client.send(request("GET", "/b/2000", empty())).await {
            Ok(response) => {
                assert_eq!(response.status(), 200);
                let last = response.headers().get("connection").is_some_and(|c| c == "close");
                let body = http_body_util::BodyExt::collect(response.into_body()).await;
                assert_eq!(body.expect("a whole body").to_bytes().len(), 2000);
                answered += 1;
                if last {
                    return answered;
                }
            }
            // Of HTTP/2 only: a request that GOAWAY refused, so the proxy never took it.
            Err(error) => {
                let text = format!("{error:?}");
                let refused = error.is_canceled() || error.is_closed() || text.contains("GoAway");
                assert!(http == Http::Two && refused, "{http:?}: {text}");
                assert!(!text.contains("BrokenPipe") && !text.contains("Reset"), "{text}");
                return answered;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_under_load() {
    let site = Site::new();
    let backends = [
        HttpBackend::start("a").await,
        HttpBackend::start("b").await,
        HttpBackend::start("c").await,
    ];
    let mut proxy = site.proxy(&backends.each_ref().map(HttpBackend::addr), &["--drain", "30s"]);
    let mut tasks = Vec::new();
    for _ in 0..8 {
        for http in Http::BOTH {
            let client = Client::connect(&site, &proxy, http).await;
            tasks.push(tokio::spawn(ask_until_told(client, http)));
        }
    }
    backends[0].until(|counts| counts.requests >= 200).await;
    proxy.signal("TERM");
    let mut answered = 0;
    for task in tasks {
        answered += task.await.unwrap();
    }
    assert_eq!(proxy.wait(SOON).await.code(), Some(0));
    let taken: u64 = backends.iter().map(HttpBackend::requests).sum();
    assert_eq!(answered, taken, "what backends answered has arrived");
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let (site, backend, mut proxy) = scene("60s").await;
    let mut cut = Vec::new();
    for http in Http::BOTH {
        cut.push(slow(&site, &backend, &proxy, http, 60_000).await);
    }
    terminate(&proxy).await;
    assert!(proxy.is_running());
    proxy.signal("TERM");
    assert_eq!(proxy.wait(SOON).await.code(), Some(0));
    for answer in cut {
        assert!(answer.await.unwrap().is_err(), "cut off, it has no answer");
    }
}

#[tokio::test]
async fn idle_connections_do_not_take_the_grace() {
    let (site, _backend, mut proxy) = scene("60s").await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        for http in Http::BOTH {
            let mut client = Client::connect(&site, &proxy, http).await;
            client.get("/").await;
            idle.push(client);
            // Connected, and never used.
            idle.push(Client::connect(&site, &proxy, http).await);
        }
    }
    proxy.signal("TERM");
    assert_eq!(proxy.wait(SOON).await.code(), Some(0));
    for client in idle {
        let _ = client.closed().await;
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_come_does_not_take_the_grace() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let flags = ["--drain", "60s", "--timeout-handshake", "1s"];
    let mut proxy = site.proxy(&[backend.addr()], &flags);
    let _silent = TcpStream::connect(proxy.addr()).await.unwrap();
    let mut client = Client::connect(&site, &proxy, Http::One).await;
    client.get("/").await;
    terminate(&proxy).await;
    assert_eq!(proxy.wait(SOON).await.code(), Some(0));
}

#[tokio::test]
async fn whoever_reads_that_it_listens_may_end_it() {
    for signal in ["TERM", "INT"] {
        for _ in 0..10 {
            let (_site, _backend, mut proxy) = scene("60s").await;
            // At once after `listening on`, as a supervisor may that changed its mind.
            proxy.signal(signal);
            assert_eq!(proxy.wait(SOON).await.code(), Some(0), "SIG{signal}");
        }
    }
}

#[tokio::test]
async fn what_is_open_at_the_end_of_the_grace_is_closed() {
    let (site, backend, mut proxy) = scene("1s").await;
    let mut cut = Vec::new();
    for http in Http::BOTH {
        cut.push(slow(&site, &backend, &proxy, http, 60_000).await);
    }
    let silent = TcpStream::connect(proxy.addr()).await.unwrap();
    let begun = Instant::now();
    proxy.signal("TERM");
    assert_eq!(proxy.wait(SOON).await.code(), Some(0));
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    for answer in cut {
        assert!(answer.await.unwrap().is_err());
    }
    drop(silent);
}
