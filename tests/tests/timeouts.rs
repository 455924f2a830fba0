//! Every wait for a client ends.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::Duration;

use bartizan_testkit::HttpBackend;
use bartizan_tests::raw::{GOAWAY, Raw};
use bartizan_tests::{Client, Http, Site, empty, eventually, request, within};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval};

/// What the limits are set to, where a test waits for them.
const LIMIT: Duration = Duration::from_millis(600);
const FLAG: &str = "600ms";

/// When an end has to be there: late on a busy machine, early against the defaults of 10 s and 60 s.
const SOON: Duration = Duration::from_secs(6);

#[tokio::test]
async fn a_head_that_drips_is_a_408() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--timeout-header", FLAG]);
    // Fresh, and after a request on the same connection.
    for first in ["", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut raw = Raw::connect(&site, &proxy, &["http/1.1"]).await;
        raw.write(first).await.unwrap();
        if !first.is_empty() {
            raw.read_until("web\n").await;
        }
        let begun = Instant::now();
        let mut ticks = interval(Duration::from_millis(50));
        // Every byte comes sooner than the limit, all of them together do not.
        raw.write("GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ").await.unwrap();
        while begun.elapsed() < LIMIT * 2 {
            ticks.tick().await;
            if raw.write("a").await.is_err() {
                break;
            }
        }
        let answer = raw.read_to_end(SOON).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
        assert!(begun.elapsed() >= LIMIT, "{:?}", begun.elapsed());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--timeout-keepalive", FLAG]);
    for used in [true, false] {
        let mut raw = Raw::connect(&site, &proxy, &["http/1.1"]).await;
        let begun = Instant::now();
        if used {
            raw.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            raw.read_until("web\n").await;
        }
        assert_eq!(raw.read_to_end(SOON).await, "", "closed without a word");
        assert!(begun.elapsed() >= LIMIT, "{:?}", begun.elapsed());
    }
    let mut raw = Raw::connect(&site, &proxy, &["h2"]).await;
    raw.start_h2().await;
    raw.get_h2(1, "/").await;
    let begun = Instant::now();
    let mut goodbye = false;
    while let Some(frame) = within(SOON, "the end", raw.frame()).await {
        goodbye |= frame.kind == GOAWAY;
    }
    assert!(goodbye, "HTTP/2 says GOAWAY");
    assert!(begun.elapsed() >= LIMIT && begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_connection_in_use_is_not_idle() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let flags = ["--timeout-keepalive", FLAG, "--timeout-header", FLAG, "--timeout-client", FLAG];
    let proxy = site.proxy(&[backend.addr()], &flags);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        for _ in 0..2 {
            // Longer than each of the limits.
            assert_eq!(client.get("/slow/1500").await.text(), "web\n", "{http:?}");
        }
    }
}

#[tokio::test]
async fn a_stalled_request_body_is_a_408() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--timeout-client", FLAG]);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        let (mut sender, body) = Channel::<Bytes, std::convert::Infallible>::new(1);
        sender.send_data(Bytes::from_static(b"some")).await.unwrap();
        let begun = Instant::now();
        let asked = client.ask(request("POST", "/count", body.boxed()));
        let answer = within(SOON, "an answer", asked).await.unwrap();
        assert_eq!(answer.status, 408, "{http:?}");
        assert!(begun.elapsed() >= LIMIT, "{:?}", begun.elapsed());
        drop(sender);
    }
    // The backend is not left with half of a request.
    within(SOON, "the backend's connections to end", backend.until(|c| c.open == 0)).await;
}

#[tokio::test]
async fn a_request_body_that_keeps_coming_may_take_longer() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--timeout-client", FLAG]);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        let (mut sender, body) = Channel::<Bytes, std::convert::Infallible>::new(1);
        tokio::spawn(async move {
            let mut ticks = interval(LIMIT / 4);
            for _ in 0..10 {
                ticks.tick().await;
                sender.send_data(Bytes::from_static(b"piece")).await.unwrap();
            }
        });
        assert_eq!(client.post("/count", body.boxed()).await.text(), "50\n", "{http:?}");
    }
}

/// A client asks for much and reads nothing of it.
async fn stop_reading(http: Http) {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--timeout-client", FLAG]);
    let mut client = Client::connect(&site, &proxy, http).await;
    let wanted = request("GET", "/b/268435456", empty());
    let response = client.send(wanted).await.unwrap();
    // The backend's connection ends with the client's request.
    within(SOON, "the end of the backend's connection", backend.until(|c| c.open == 0)).await;
    let rest = within(SOON, "the rest", response.into_body().collect()).await;
    assert!(rest.is_err(), "a clean end");
}

#[tokio::test]
async fn a_reader_that_stops_is_dropped() {
    stop_reading(Http::One).await;
}

#[tokio::test]
async fn an_h2_reader_that_stops_is_dropped() {
    stop_reading(Http::Two).await;
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_given_up() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--timeout-handshake", FLAG]);
    // The start of a ClientHello of 512 bytes.
    let partial: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for sent in [&b""[..], partial] {
        let mut tcp = TcpStream::connect(proxy.addr()).await.unwrap();
        let begun = Instant::now();
        tcp.write_all(sent).await.unwrap();
        let end = within(SOON, "the end", tcp.read_to_end(&mut Vec::new())).await;
        assert!(begun.elapsed() >= LIMIT, "{end:?} after {:?}", begun.elapsed());
    }
    // One that drips is given up as well.
    let (mut read, mut write) = TcpStream::connect(proxy.addr()).await.unwrap().into_split();
    let drip = tokio::spawn(async move {
        let mut ticks = interval(LIMIT / 10);
        let header = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".iter();
        for byte in header.chain(std::iter::repeat_n(&0, 500)) {
            ticks.tick().await;
            if write.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
    });
    let _ = within(SOON, "the end", read.read_to_end(&mut Vec::new())).await;
    drip.abort();
    let descriptors = || proxy.stat().descriptors;
    let before = descriptors();
    drop(read);
    eventually("the proxy to be as before", || descriptors() <= before).await;
    assert_eq!(Client::connect(&site, &proxy, Http::Two).await.get("/").await.text(), "web\n");
}
