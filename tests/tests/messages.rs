//! HTTP messages arrive as they were meant: methods, framing, and fields for one hop.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::Duration;

use bartizan_testkit::{Fault, HttpBackend, Misbehaving};
use bartizan_tests::raw::Raw;
use bartizan_tests::{Client, Http, Proxy, Site, empty, fill, full, request, request_as};

const SOON: Duration = Duration::from_secs(5);

async fn scene() -> (Site, HttpBackend, Proxy) {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &[]);
    (site, backend, proxy)
}

/// Sends `bytes` and reads to the end of the connection.
async fn say(site: &Site, proxy: &Proxy, bytes: &str) -> String {
    let mut raw = Raw::connect(site, proxy, &["http/1.1"]).await;
    raw.write(bytes).await.unwrap();
    raw.read_to_end(SOON).await
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {answer:?}")).1
}

#[tokio::test]
async fn fields_for_one_hop_do_not_reach_the_backend() {
    let (site, backend, proxy) = scene().await;
    let request = "GET /headers HTTP/1.1\r\nHost: localhost\r\n\
                   Connection: close, X-Named\r\nconnection: x-other\r\n\
                   X-Named: 1\r\nX-Other: 2\r\nX-Kept: 3\r\n\
                   Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
                   TE: trailers\r\nUpgrade: websocket\r\n\r\n";
    let answer = say(&site, &proxy, request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = backend.seen().pop().unwrap();
    for name in
        ["x-named", "x-other", "keep-alive", "proxy-connection", "te", "upgrade", "connection"]
    {
        assert_eq!(seen.header(name), None, "{seen}");
    }
    assert_eq!(seen.header("x-kept"), Some("3"), "{seen}");
}

#[tokio::test]
async fn connection_cannot_name_the_fields_that_the_proxy_adds() {
    let (site, backend, proxy) = scene().await;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\
                   Connection: close, host, x-forwarded-for, forwarded\r\n\r\n";
    say(&site, &proxy, request).await;
    let seen = backend.seen().pop().unwrap();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "{seen}");
    assert_eq!(seen.header("host"), Some("localhost"), "{seen}");
    assert!(seen.header("forwarded").is_some(), "{seen}");
}

#[tokio::test]
async fn fields_for_one_hop_do_not_reach_the_client() {
    let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive, X-Named\r\n\
                  x-named: 1\r\nkeep-alive: timeout=5\r\nproxy-connection: x\r\nupgrade: h2c\r\n\
                  x-kept: 2\r\n\r\nok";
    let backend = Misbehaving::start(Fault::RawKeepAlive(bytes.to_vec())).await;
    let site = Site::new();
    let proxy = site.proxy(&[backend.addr()], &[]);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        for _ in 0..2 {
            let answer = client.get("/").await;
            assert_eq!(answer.text(), "ok");
            for name in ["connection", "x-named", "keep-alive", "proxy-connection", "upgrade"] {
                assert_eq!(answer.header(name), "", "{http:?} {answer:?}");
            }
            assert_eq!(answer.header("x-kept"), "2");
        }
    }
}

#[tokio::test]
async fn an_http_10_client_gets_an_answer_that_ends_with_the_connection() {
    let (site, _backend, proxy) = scene().await;
    for (path, len) in [("/", 4), ("/b/70000", 70_000), ("/chunked/70000", 70_000)] {
        let answer = say(&site, &proxy, &format!("GET {path} HTTP/1.0\r\n\r\n")).await;
        let head = answer.split("\r\n\r\n").next().unwrap().to_lowercase();
        assert!(head.contains(" 200 "), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
        assert_eq!(body(&answer).len(), len, "{path}: {head}");
    }
    let posted = "POST /count HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello";
    assert_eq!(body(&say(&site, &proxy, posted).await), "5\n");
}

#[tokio::test]
async fn head_has_the_fields_of_get_and_no_body() {
    let (site, _backend, proxy) = scene().await;
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        for _ in 0..2 {
            let answer = client.ask(request("HEAD", "/b/1000", empty())).await.unwrap();
            assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
            assert_eq!(answer.header("content-length"), "1000", "{http:?}");
        }
        assert_eq!(client.get("/").await.text(), "web\n");
    }
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_usable() {
    let (site, backend, proxy) = scene().await;
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        for code in [204, 304, 200, 404, 500, 503] {
            let answer = client.get(&format!("/status/{code}")).await;
            assert_eq!((answer.status.as_u16(), answer.body.len()), (code, 0));
            assert_eq!(answer.backend(), "web");
        }
        assert_eq!(client.get("/").await.text(), "web\n");
    }
    assert_eq!(backend.requests(), 14, "answers of any status are passed, none is tried again");
}

#[tokio::test]
async fn bodies_of_known_and_unknown_length_pass_both_ways() {
    let (site, backend, proxy) = scene().await;
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        let answer = client.post("/echo", fill(100_000)).await;
        assert_eq!(answer.body.len(), 100_000);
        assert!(answer.body.iter().all(|byte| *byte == b'x'));
        let seen = backend.seen().pop().unwrap();
        assert_eq!(seen.header("transfer-encoding"), Some("chunked"), "{seen}");

        let answer = client.post("/echo", full(vec![b'y'; 100_000])).await;
        assert_eq!(answer.body, vec![b'y'; 100_000]);
        let seen = backend.seen().pop().unwrap();
        assert_eq!(seen.header("content-length"), Some("100000"), "{http:?} {seen}");

        assert_eq!(client.get("/chunked/100000").await.body.len(), 100_000);
        assert_eq!(client.get("/chunked/0").await.body.len(), 0);
        let answer = client.get("/b/100000").await;
        assert_eq!((answer.header("content-length"), answer.body.len()), ("100000", 100_000));
    }
}

#[tokio::test]
async fn trailers_of_a_backend_break_nothing() {
    let bytes = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                  2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n";
    let backend = Misbehaving::start(Fault::RawKeepAlive(bytes.to_vec())).await;
    let site = Site::new();
    let proxy = site.proxy(&[backend.addr()], &[]);
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        for _ in 0..2 {
            let wanted = request_as("GET", "/", &[("te", "trailers")], empty());
            let answer = client.ask(wanted).await.unwrap();
            assert_eq!(answer.text(), "ok");
            if let Some(trailers) = answer.trailers {
                assert_eq!(trailers["x-sum"], "1");
            }
        }
    }
}

#[tokio::test]
async fn trailers_of_a_client_break_nothing() {
    let (site, backend, proxy) = scene().await;
    let upload = "POST /count HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
                  Trailer: x-sum\r\n\r\n5;ext=1\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
    let close = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answers = say(&site, &proxy, &format!("{upload}{close}")).await;
    assert!(answers.contains("\r\n\r\n5\n"), "{answers}");
    assert!(answers.ends_with("web\n"), "{answers}");
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (site, _backend, proxy) = scene().await;
    let requests: String = [("/slow/300", "keep-alive"), ("/b/3", "keep-alive"), ("/", "close")]
        .map(|(path, connection)| {
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\r\n")
        })
        .concat();
    let answers = say(&site, &proxy, &requests).await;
    let bodies: Vec<_> = answers.split("\r\n\r\n").skip(1).map(|part| &part[..3]).collect();
    assert_eq!(bodies, ["web", "xxx", "web"], "{answers}");
}

#[tokio::test]
async fn a_target_in_absolute_form_wins_over_host() {
    let (site, backend, proxy) = scene().await;
    let request = "GET https://right.example:444/headers?a=b HTTP/1.1\r\nHost: wrong.example\r\n\
                   Connection: close\r\n\r\n";
    let answer = say(&site, &proxy, request).await;
    assert!(answer.contains("GET /headers?a=b HTTP/1.1\n"), "{answer}");
    let seen = backend.seen().pop().unwrap();
    assert_eq!(seen.header("host"), Some("right.example:444"), "{seen}");
    assert_eq!(seen.header("x-forwarded-host"), Some("right.example:444"), "{seen}");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_before_its_body() {
    let (site, _backend, proxy) = scene().await;
    let mut raw = Raw::connect(&site, &proxy, &["http/1.1"]).await;
    let head = "POST /count HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n\
                Content-Length: 5\r\nConnection: close\r\n\r\n";
    raw.write(head).await.unwrap();
    let interim = raw.read_until("\r\n\r\n").await;
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    raw.write("hello").await.unwrap();
    let answer = raw.read_to_end(SOON).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && body(&answer) == "5\n", "{answer}");
}

#[tokio::test]
async fn cookies_of_an_h2_client_become_one_field() {
    let (site, backend, proxy) = scene().await;
    let mut client = Client::connect(&site, &proxy, Http::Two).await;
    let cookies = [("cookie", "a=1"), ("cookie", "b=2")];
    client.ask(request_as("GET", "/", &cookies, empty())).await.unwrap();
    let seen = backend.seen().pop().unwrap();
    let values: Vec<_> = seen.headers.get_all("cookie").iter().collect();
    assert_eq!(values, ["a=1; b=2"]);
}

#[tokio::test]
async fn messages_whose_length_is_ambiguous_are_refused() {
    let (site, backend, proxy) = scene().await;
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: -5\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
    ] {
        let head = format!("POST /count HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let answer = say(&site, &proxy, &format!("{head}hello")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{fields}: {answer}");
    }
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn what_follows_a_chunked_body_with_a_content_length_is_not_the_backend_s_to_guess() {
    let (site, backend, proxy) = scene().await;
    // Read by its Content-Length, the body would end in the middle and leave a request behind.
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let head = format!(
        "POST /count HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        smuggled.len()
    );
    let answer = say(&site, &proxy, &format!("{head}{smuggled}")).await;
    if answer.starts_with("HTTP/1.1 200 ") {
        let seen = backend.seen().pop().unwrap();
        assert_eq!(seen.header("content-length"), None, "{seen}");
        assert_eq!(body(&answer), "0\n");
    } else {
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    assert!(backend.seen().iter().all(|head| head.uri.path() != "/smuggled"));
}

#[tokio::test]
async fn a_tunnel_is_refused_and_other_methods_pass() {
    let (site, backend, proxy) = scene().await;
    let connect = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    let answer = say(&site, &proxy, connect).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert_eq!(backend.requests(), 0);
    let mut client = Client::connect(&site, &proxy, Http::One).await;
    for method in ["OPTIONS", "DELETE", "PUT", "PATCH", "PROPFIND"] {
        client.ask(request(method, "/x", full("body"))).await.unwrap();
        assert_eq!(backend.seen().pop().unwrap().method.as_str(), method);
    }
}
