//! Backends that fail within their answer, or answer what they were not asked.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::Duration;

use bartizan_testkit::{Fault, HttpBackend, Misbehaving};
use bartizan_tests::raw::Raw;
use bartizan_tests::{Client, Http, Site, empty, fill, request, within};
use http_body_util::BodyExt;

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_is_no_http_is_a_502() {
    for fault in [
        Fault::Garbage,
        Fault::Unasked101,
        Fault::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n".to_vec()),
        Fault::Raw(b"HTTP/1.1 2".to_vec()),
    ] {
        let (site, bad) = (Site::new(), Misbehaving::start(fault.clone()).await);
        let proxy = site.proxy(&[bad.addr()], &["--retries", "0"]);
        for http in Http::BOTH {
            let mut client = Client::connect(&site, &proxy, http).await;
            let answer = client.get("/").await;
            assert_eq!(answer.status, 502, "{fault:?} {http:?}");
            let told = format!("{:?} {}", answer.headers, answer.text());
            let port = bad.addr().port().to_string();
            assert!(!told.contains(&port) && !told.contains("127.0.0.1"), "{told}");
            // The failure was the backend's, so the client's connection goes on.
            assert_eq!(client.get("/").await.status, 502, "{fault:?} {http:?}");
        }
        assert_eq!(bad.requests(), 4, "{fault:?} has answered, so nothing is sent again");
    }
}

#[tokio::test]
async fn a_good_backend_beside_it_is_not_disturbed() {
    for fault in [
        Fault::Garbage,
        Fault::Unasked101,
        Fault::CloseMidBody { after: 1000 },
        Fault::ResetMidBody { after: 1000 },
    ] {
        let (bad, good) = (Misbehaving::start(fault.clone()).await, HttpBackend::start("a").await);
        let site = Site::new();
        let proxy = site.proxy(&[bad.addr(), good.addr()], &["--workers", "1"]);
        let mut served = 0;
        for _ in 0..10 {
            // A connection each, because a broken answer over HTTP/1.1 ends one.
            let mut client = Client::connect(&site, &proxy, Http::One).await;
            let answer = client.ask(request("GET", "/", empty())).await;
            served += usize::from(answer.is_ok_and(|answer| answer.text() == "a\n"));
        }
        assert_eq!(served, 5, "{fault:?}: every other request");
    }
}

#[tokio::test]
async fn a_body_cut_short_never_ends_cleanly() {
    for fault in [Fault::CloseMidBody { after: 20_000 }, Fault::ResetMidBody { after: 20_000 }] {
        let (site, bad) = (Site::new(), Misbehaving::start(fault.clone()).await);
        let proxy = site.proxy(&[bad.addr()], &[]);
        for http in Http::BOTH {
            let mut client = Client::connect(&site, &proxy, http).await;
            let response = client.send(request("GET", "/", empty())).await;
            // A reset may overtake all of it, which is a 502 then.
            let Ok(response) = response else { continue };
            if response.status() == 502 {
                continue;
            }
            let body = within(SOON, "the end", response.into_body().collect()).await;
            assert!(body.is_err(), "{fault:?} {http:?}: a clean end");
        }
    }
}

#[tokio::test]
async fn a_chunked_body_cut_short_never_ends_cleanly() {
    let cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let (site, bad) = (Site::new(), Misbehaving::start(Fault::Raw(cut.to_vec())).await);
    let proxy = site.proxy(&[bad.addr()], &[]);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        // The error may overtake the head.
        let answer = within(SOON, "the end", client.ask(request("GET", "/", empty()))).await;
        assert!(answer.is_err(), "{http:?}: a clean end");
    }
    // Byte by byte: the last chunk must not be there.
    let mut raw = Raw::connect(&site, &proxy, &["http/1.1"]).await;
    raw.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let answer = raw.read_to_end(SOON).await;
    assert!(!answer.contains("\r\n0\r\n"), "{answer:?}");
}

#[tokio::test]
async fn a_body_that_falls_silent_ends_with_an_error() {
    // The connection stays open; only half of the body comes.
    let half = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello";
    let (site, bad) = (Site::new(), Misbehaving::start(Fault::RawKeepAlive(half.to_vec())).await);
    let proxy = site.proxy(&[bad.addr()], &["--timeout-server", "400ms"]);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        let response = client.send(request("GET", "/", empty())).await.unwrap();
        let body = within(SOON, "the end", response.into_body().collect()).await;
        assert!(body.is_err(), "{http:?}: a clean end");
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_reaches_the_client() {
    let (site, early) = (Site::new(), Misbehaving::start(Fault::EarlyAnswer).await);
    let proxy = site.proxy(&[early.addr()], &["--timeout-server", "2s"]);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        let sent = client.send(request("POST", "/", fill(64 * 1024 * 1024)));
        let response = within(SOON, "the early answer", sent).await.unwrap();
        assert_eq!(response.status(), 413, "{http:?}");
    }
}

#[tokio::test]
async fn an_answer_without_any_length_ends_with_its_connection() {
    let bytes = b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec();
    let (site, old) = (Site::new(), Misbehaving::start(Fault::Raw(bytes)).await);
    let proxy = site.proxy(&[old.addr()], &[]);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        for _ in 0..2 {
            assert_eq!(client.get("/").await.text(), "hello", "{http:?}");
        }
    }
}

#[tokio::test]
async fn interim_answers_do_not_take_the_place_of_the_answer() {
    let bytes = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
                  HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let backend = Misbehaving::start(Fault::RawKeepAlive(bytes.to_vec())).await;
    let site = Site::new();
    let proxy = site.proxy(&[backend.addr()], &[]);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        for _ in 0..2 {
            assert_eq!(client.get("/").await.text(), "ok", "{http:?}");
        }
    }
}
