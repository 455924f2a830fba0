use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::HttpBackend;

type Client = SendRequest<Full<Bytes>>;

async fn connect(backend: &HttpBackend) -> Client {
    let stream = TcpStream::connect(backend.addr()).await.unwrap();
    let (client, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn call(
    client: &mut Client,
    method: Method,
    path: &str,
    body: &'static str,
) -> Response<Incoming> {
    client.ready().await.unwrap();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "a.test")
        .header("te", "trailers")
        .body(Full::from(body))
        .unwrap();
    client.send_request(request).await.unwrap()
}

async fn get(client: &mut Client, path: &str) -> Response<Incoming> {
    call(client, Method::GET, path, "").await
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn answers_with_its_name_in_body_and_header() {
    let backend = HttpBackend::start("web1").await;
    let response = get(&mut connect(&backend).await, "/").await;

    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-backend"], "web1");
    assert_eq!(text(response).await, "web1\n");
}

#[tokio::test]
async fn bodies_come_with_a_length_or_without() {
    let backend = HttpBackend::start("web1").await;
    let mut client = connect(&backend).await;

    for (path, length) in [("/b/100000", Some("100000")), ("/chunked/100000", None)] {
        let response = get(&mut client, path).await;
        let header = response.headers().get("content-length").map(|v| v.to_str().unwrap());
        assert_eq!(header, length, "{path}");
        assert_eq!(text(response).await, "x".repeat(100_000), "{path}");
    }
    let empty = get(&mut client, "/chunked/0").await;
    assert_eq!(empty.headers()["transfer-encoding"], "chunked");
    assert_eq!(text(empty).await, "");
}

#[tokio::test]
async fn a_body_larger_than_any_memory_starts_to_flow() {
    let backend = HttpBackend::start("web1").await;
    let mut response = get(&mut connect(&backend).await, &format!("/b/{}", u64::MAX / 2)).await;

    let first = response.body_mut().frame().await.unwrap().unwrap();

    assert!(!first.into_data().unwrap().is_empty());
}

#[tokio::test]
async fn a_body_is_counted_to_its_end() {
    let backend = HttpBackend::start("web1").await;
    let response = call(&mut connect(&backend).await, Method::POST, "/count", "12345").await;
    assert_eq!(text(response).await, "5\n");
}

/// The second half of the body is sent only when the first half has come back.
#[tokio::test]
async fn an_echo_does_not_wait_for_the_end_of_the_body() {
    let backend = HttpBackend::start("web1").await;
    let mut client = TcpStream::connect(backend.addr()).await.unwrap();
    let head = b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    client.write_all(head).await.unwrap();

    for part in ["first", "other"] {
        client.write_all(format!("5\r\n{part}\r\n").as_bytes()).await.unwrap();
        read_until(&mut client, part).await;
    }
    client.write_all(b"0\r\n\r\n").await.unwrap();
    read_until(&mut client, "0\r\n\r\n").await;
}

async fn read_until(stream: &mut TcpStream, end: &str) {
    let mut got = Vec::new();
    while !String::from_utf8_lossy(&got).contains(end) {
        let n = stream.read_buf(&mut got).await.unwrap();
        assert!(n > 0, "ended before {end:?}: {:?}", String::from_utf8_lossy(&got));
    }
}

#[tokio::test]
async fn the_headers_are_told_as_they_arrived() {
    let backend = HttpBackend::start("web1").await;
    let mut client = connect(&backend).await;

    let got = get(&mut client, "/headers?a=1").await;
    assert_eq!(text(got).await, "GET /headers?a=1 HTTP/1.1\nhost: a.test\nte: trailers\n");

    let body = "x".repeat(1_000_000).leak();
    let posted = text(call(&mut client, Method::POST, "/headers", body).await).await;
    assert!(posted.starts_with("POST /headers HTTP/1.1\n"), "{posted}");
    assert!(posted.contains("\ncontent-length: 1000000\n"), "{posted}");
    get(&mut client, "/").await;
    assert_eq!(backend.connections(), 1, "the body was read");
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_takes_as_long_as_it_was_asked_to() {
    let backend = HttpBackend::start("web1").await;
    let mut client = connect(&backend).await;
    // Everything but the wait takes no time here, because the clock stands still.
    let started = tokio::time::Instant::now();

    let response = get(&mut client, "/slow/2500").await;

    let took = started.elapsed();
    assert!(took >= Duration::from_millis(2500), "{took:?}");
    assert!(took < Duration::from_millis(2600), "{took:?}");
    assert_eq!(text(response).await, "web1\n");
}

#[tokio::test]
async fn any_final_status_can_be_had() {
    let backend = HttpBackend::start("web1").await;
    let mut client = connect(&backend).await;

    for code in [200, 204, 304, 404, 503, 599] {
        let response = get(&mut client, &format!("/status/{code}")).await;
        assert_eq!(response.status().as_u16(), code);
        assert_eq!(response.headers()["x-backend"], "web1");
        assert_eq!(text(response).await, "");
    }
    for path in ["/status/101", "/status/x", "/b/-1", "/nowhere"] {
        assert_eq!(get(&mut client, path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn trailers_follow_the_body() {
    let backend = HttpBackend::start("web1").await;
    let response = get(&mut connect(&backend).await, "/trailers").await;

    let collected = response.into_body().collect().await.unwrap();

    let mut expected = HeaderMap::new();
    expected.insert("x-trailer", "web1".parse().unwrap());
    assert_eq!(collected.trailers(), Some(&expected));
    assert_eq!(collected.to_bytes(), "web1\n");
}

#[tokio::test]
async fn a_head_request_gets_no_body() {
    let backend = HttpBackend::start("web1").await;
    let response = call(&mut connect(&backend).await, Method::HEAD, "/b/7", "").await;

    assert_eq!(response.headers()["content-length"], "7");
    assert!(response.body().is_end_stream());
}

#[tokio::test]
async fn connections_and_requests_are_counted_apart() {
    let backend = HttpBackend::start("web1").await;
    let (mut one, mut two) = (connect(&backend).await, connect(&backend).await);
    for client in [&mut one, &mut two] {
        text(get(client, "/").await).await;
    }
    text(get(&mut one, "/").await).await;

    assert_eq!((backend.connections(), backend.requests()), (2, 3));
    drop(one);
    assert_eq!(backend.until(|counts| counts.open == 1).await.connections, 2);
}

#[tokio::test]
async fn the_last_heads_are_remembered_in_order() {
    let backend = HttpBackend::start("web1").await;
    let mut client = connect(&backend).await;
    for i in 0..70 {
        text(get(&mut client, &format!("/?{i}")).await).await;
    }

    let seen = backend.seen();

    let queries: Vec<_> = seen.iter().map(|head| head.uri.query().unwrap().to_owned()).collect();
    let expected: Vec<_> = (6..70).map(|i| i.to_string()).collect();
    assert_eq!(queries, expected);
    assert_eq!(seen[0].header("host"), Some("a.test"));
    assert_eq!(seen[0].header("nothing"), None);
}

#[tokio::test]
async fn a_stopped_backend_refuses_and_can_come_back_on_its_port() {
    let backend = HttpBackend::start("web1").await;
    let addr = backend.addr();
    let mut idle = TcpStream::connect(addr).await.unwrap();
    backend.until(|counts| counts.open == 1).await;

    backend.stop().await;

    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(TcpStream::connect(addr).await.is_err());
    let again = HttpBackend::start_on(addr, "web1 again").await;
    assert_eq!(text(get(&mut connect(&again).await, "/").await).await, "web1 again\n");
}

#[tokio::test]
async fn stopping_cuts_an_answer_off() {
    let backend = HttpBackend::start("web1").await;
    let response = get(&mut connect(&backend).await, "/b/1000000000000").await;

    backend.stop().await;

    assert!(response.into_body().collect().await.is_err());
}
