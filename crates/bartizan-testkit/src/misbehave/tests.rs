use std::io::{self, ErrorKind};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{DRIP, Fault, GARBAGE, Misbehaving, OK, TOO_LARGE, refused_addr};
use crate::HttpBackend;

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";
/// Its body would pass for a head if it were not skipped.
const POST: &[u8] = b"POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 5\r\n\r\na\r\n\r\n";

async fn start(fault: Fault) -> (Misbehaving, TcpStream) {
    let server = Misbehaving::start(fault).await;
    let client = TcpStream::connect(server.addr()).await.unwrap();
    (server, client)
}

/// Reads until the server ends the connection: what came, and how it ended.
async fn rest(client: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut got = Vec::new();
    let end = client.read_to_end(&mut got).await;
    (got, end.map(drop))
}

async fn expect(client: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(got, bytes);
}

/// Whether nothing comes and nothing ends. Real time, because there is nothing to wait for.
async fn stays_silent(client: &mut TcpStream) -> bool {
    timeout(Duration::from_millis(50), client.read_u8()).await.is_err()
}

fn is_reset(end: io::Result<()>) -> bool {
    end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn closes_on_accept_without_waiting_for_a_request() {
    let (server, mut client) = start(Fault::CloseOnAccept).await;

    let (got, end) = rest(&mut client).await;

    assert!(got.is_empty() && end.is_ok());
    assert_eq!((server.connections(), server.requests()), (1, 0));
}

#[tokio::test]
async fn resets_on_accept() {
    let (server, mut client) = start(Fault::ResetOnAccept).await;

    assert!(is_reset(rest(&mut client).await.1));
    assert_eq!((server.connections(), server.requests()), (1, 0));
}

#[tokio::test]
async fn hanging_takes_everything_and_answers_nothing() {
    let (server, mut client) = start(Fault::Hang).await;
    client.write_all(GET).await.unwrap();

    // Far more than the kernel buffers: it is read.
    client.write_all(&vec![0; 16 * 1024 * 1024]).await.unwrap();

    assert_eq!(server.requests(), 1);
    assert!(stays_silent(&mut client).await);
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_dial_to_a_full_queue_stays_pending() {
    let server = Misbehaving::start(Fault::NeverAccept).await;

    let dial = timeout(Duration::from_millis(300), TcpStream::connect(server.addr())).await;

    assert!(dial.is_err(), "{dial:?}");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn closes_after_the_request() {
    let (server, mut client) = start(Fault::CloseAfterRequest).await;
    client.write_all(&GET[..10]).await.unwrap();
    assert!(stays_silent(&mut client).await, "half a request is no request");
    client.write_all(&GET[10..]).await.unwrap();

    let (got, end) = rest(&mut client).await;

    assert!(got.is_empty() && end.is_ok());
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn resets_after_the_request() {
    let (server, mut client) = start(Fault::ResetAfterRequest).await;
    client.write_all(GET).await.unwrap();

    let (got, end) = rest(&mut client).await;

    assert!(got.is_empty() && is_reset(end));
    assert_eq!(server.requests(), 1);
}

/// The body that arrived, and the length that was announced.
fn body(response: &[u8]) -> (usize, usize) {
    let text = String::from_utf8_lossy(response);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let length = head.split_once("content-length: ").unwrap().1;
    (body.len(), length.parse().unwrap())
}

#[tokio::test]
async fn closes_in_mid_body_after_exactly_so_many_bytes() {
    for after in [0, 10_000, 3_000_000] {
        let (_server, mut client) = start(Fault::CloseMidBody { after }).await;
        client.write_all(GET).await.unwrap();

        let (got, end) = rest(&mut client).await;

        let (arrived, announced) = body(&got);
        assert_eq!(arrived, after);
        assert!(announced > after);
        assert!(end.is_ok());
    }
}

#[tokio::test]
async fn resets_in_mid_body_after_so_many_bytes() {
    for after in [0, 32 * 1024] {
        let (_server, mut client) = start(Fault::ResetMidBody { after }).await;
        client.write_all(GET).await.unwrap();

        let (got, end) = rest(&mut client).await;

        let (arrived, announced) = body(&got);
        assert_eq!(arrived, after);
        assert!(announced > after);
        assert!(is_reset(end));
    }
}

#[tokio::test]
async fn garbage_is_no_http() {
    let (_server, mut client) = start(Fault::Garbage).await;
    client.write_all(GET).await.unwrap();

    let (got, end) = rest(&mut client).await;

    assert_eq!(got, GARBAGE);
    assert!(!got.starts_with(b"HTTP/"));
    assert!(end.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_takes_its_time_for_each_byte() {
    let (_server, mut client) = start(Fault::SlowHead).await;
    client.write_all(GET).await.unwrap();
    let started = Instant::now();

    client.read_u8().await.unwrap();
    assert!(started.elapsed() >= DRIP && started.elapsed() < DRIP * 2);
    expect(&mut client, &OK[1..]).await;
    assert!(started.elapsed() >= DRIP * u32::try_from(OK.len()).unwrap());
}

#[tokio::test]
async fn switches_protocols_though_nobody_asked() {
    let (_server, mut client) = start(Fault::Unasked101).await;
    client.write_all(GET).await.unwrap();

    expect(&mut client, b"HTTP/1.1 101 ").await;
    client.shutdown().await.unwrap();
    assert!(rest(&mut client).await.1.is_ok(), "it read on to the end");
}

#[tokio::test]
async fn answers_early_without_reading_the_body() {
    let (server, mut client) = start(Fault::EarlyAnswer).await;
    let head = b"POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 1000000000\r\n\r\n";
    client.write_all(head).await.unwrap();

    expect(&mut client, TOO_LARGE).await;

    // The kernel buffers some megabytes, then the writer stalls for good.
    let chunk = vec![0; 64 * 1024 * 1024];
    let write = timeout(Duration::from_millis(200), client.write_all(&chunk)).await;
    assert!(write.is_err(), "{write:?}");
    assert_eq!((server.requests(), server.counts().open), (1, 1));
}

#[tokio::test]
async fn closes_after_an_answer_that_promised_to_keep_the_connection() {
    let (server, mut client) = start(Fault::CloseAfterEachKeepAlive).await;
    client.write_all(POST).await.unwrap();

    let (got, end) = rest(&mut client).await;

    assert_eq!(got, OK);
    assert!(end.is_ok());
    assert_eq!((server.connections(), server.requests()), (1, 1));
}

#[tokio::test]
async fn closes_only_when_the_second_request_is_there() {
    let (server, mut client) = start(Fault::CloseOnReuse).await;
    client.write_all(POST).await.unwrap();
    expect(&mut client, OK).await;
    assert!(stays_silent(&mut client).await);

    client.write_all(GET).await.unwrap();

    let (got, end) = rest(&mut client).await;
    assert!(got.is_empty() && end.is_ok());
    assert_eq!((server.connections(), server.requests()), (1, 2));
}

#[tokio::test]
async fn raw_bytes_are_answered_once() {
    let (server, mut client) = start(Fault::Raw(b"HTTP/1.1 299 Odd\r\n\r\n".to_vec())).await;
    client.write_all(POST).await.unwrap();

    let (got, end) = rest(&mut client).await;

    assert_eq!(got, b"HTTP/1.1 299 Odd\r\n\r\n");
    assert!(end.is_ok());
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn raw_bytes_are_answered_to_each_request() {
    let (server, mut client) = start(Fault::RawKeepAlive(OK.to_vec())).await;

    for request in [POST, GET, POST] {
        client.write_all(request).await.unwrap();
        expect(&mut client, OK).await;
    }
    assert!(stays_silent(&mut client).await, "one answer each, and the connection stays");
    assert_eq!((server.connections(), server.requests()), (1, 3));
}

#[tokio::test]
async fn nothing_listens_where_connections_are_refused() {
    let (one, two) = (refused_addr(), refused_addr());

    let error = TcpStream::connect(one).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_ne!(one, two, "an address is given out once");
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    assert!(other.bind(&two.into()).is_err(), "nobody else gets it");
}

#[tokio::test]
async fn a_refusing_address_can_come_to_life() {
    let addr = refused_addr();
    let _backend = HttpBackend::start_on(addr, "web1").await;

    TcpStream::connect(addr).await.unwrap();
}

#[tokio::test]
async fn a_stopped_server_refuses_and_its_port_is_free() {
    for fault in [Fault::Hang, Fault::NeverAccept] {
        let server = Misbehaving::start(fault).await;
        let addr = server.addr();

        server.stop().await;

        let error = TcpStream::connect(addr).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let _healthy = HttpBackend::start_on(addr, "web1").await;
        TcpStream::connect(addr).await.unwrap();
    }
}
