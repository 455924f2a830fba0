use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bartizan_balance::BalanceError;
use bartizan_net::{BoxError, Conn, ConnInfo, Drain, HasConnInfo, Phase, TlsInfo};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use tokio::time::Instant;
use tower::{ServiceExt, service_fn};

use super::{RequestBody, ServeHttp, ServeHttpError};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";

fn conn(io: DuplexStream, h2: bool) -> Conn<DuplexStream> {
    let mut info =
        ConnInfo::new("192.0.2.7:5000".parse().unwrap(), "127.0.0.1:443".parse().unwrap());
    if h2 {
        let mut tls = TlsInfo::default();
        tls.alpn = Some(b"h2"[..].into());
        info.set_tls(tls);
    }
    Conn::new(io, info)
}

async fn hello(request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    let peer = request.conn_info().map_or_else(|| "nobody".into(), |info| info.peer().to_string());
    let body = request.into_body().collect().await.map(|body| body.to_bytes().len());
    Ok(Response::new(Full::from(format!("{peer} {body:?}"))))
}

/// Serves one connection, says what `client` returns, and when the connection was over.
async fn serve<S, C, T>(
    service: S,
    drain: &Drain,
    client: impl FnOnce(DuplexStream) -> C,
) -> (Result<(), ServeHttpError>, T, Duration)
where
    S: tower::Service<Request<RequestBody>, Response = Response<Full<Bytes>>>
        + Clone
        + Send
        + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    C: Future<Output = T>,
{
    let (near, far) = tokio::io::duplex(4096);
    let start = Instant::now();
    let serving = ServeHttp::new(service).oneshot(conn(far, false).with_drain(drain.watch()));
    let serving = async { (serving.await, start.elapsed()) };
    let ((result, took), said) = tokio::join!(serving, client(near));
    (result, said, took)
}

async fn read(io: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    io.read_to_end(&mut text).await.unwrap();
    String::from_utf8(text).unwrap()
}

async fn read_answer(io: &mut DuplexStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"Ok(0)") {
        assert_ne!(io.read_buf(&mut text).await.unwrap(), 0, "closed after {text:?}");
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_know_their_connection_and_an_idle_one_is_closed_quietly() {
    let (result, said, took) =
        serve(service_fn(hello), &Drain::new(), async |mut io: DuplexStream| {
            let mut said = String::new();
            for _ in 0..2 {
                io.write_all(GET).await.unwrap();
                said = read_answer(&mut io).await;
            }
            (said, read(&mut io).await)
        })
        .await;
    result.unwrap();
    assert!(
        said.0.starts_with("HTTP/1.1 200 OK") && said.0.ends_with("192.0.2.7:5000 Ok(0)"),
        "{said:?}"
    );
    assert_eq!((said.1.as_str(), took.as_secs()), ("", 60));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_is_answered_with_408() {
    for first in [&b""[..], GET] {
        let (_, said, took) =
            serve(service_fn(hello), &Drain::new(), async |mut io: DuplexStream| {
                io.write_all(first).await.unwrap();
                if !first.is_empty() {
                    read_answer(&mut io).await;
                }
                for byte in b"GET / HTTP/1.1\r\nhost: te" {
                    // A byte per second: the limit is one for the whole head.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let _ = io.write_all(&[*byte]).await;
                }
                read(&mut io).await
            })
            .await;
        assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
        assert_eq!(took.as_secs(), 11, "10 s after the first byte, which came after 1 s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_coming_is_an_error_to_its_reader() {
    let (_, said, took) = serve(service_fn(hello), &Drain::new(), async |mut io: DuplexStream| {
        io.write_all(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n").await.unwrap();
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            io.write_all(b"x").await.unwrap();
        }
        read(&mut io).await
    })
    .await;
    assert!(said.contains("Timeout"), "{said}");
    assert_eq!(took.as_secs(), 5 * 50 + 60);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_dropped() {
    let big =
        service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::from(vec![0; 1 << 20]))));
    let (result, _, took) = serve(big, &Drain::new(), async |mut io: DuplexStream| {
        io.write_all(GET).await.unwrap();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            io.read_exact(&mut [0; 1000]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1000)).await;
        io
    })
    .await;
    assert!(matches!(result, Err(ServeHttpError::Stalled)), "{result:?}");
    assert_eq!(took.as_secs(), 3 * 50 + 60);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_still_sends_gets_the_answer_and_not_a_reset() {
    let refuses = service_fn(async |_| Ok::<_, Infallible>(Response::new(Full::from("no"))));
    let (result, (said, _open), took) =
        serve(refuses, &Drain::new(), async |mut io: DuplexStream| {
            io.write_all(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1000000\r\n\r\n")
                .await
                .unwrap();
            // More than the stream holds: it goes through only if somebody reads.
            for _ in 0..20 {
                io.write_all(&[0; 1000]).await.unwrap();
            }
            (read(&mut io).await, io)
        })
        .await;
    result.unwrap();
    assert!(said.starts_with("HTTP/1.1 200 OK") && said.ends_with("no"), "{said}");
    assert_eq!(took.as_secs(), 5, "and it is not read from for ever");
}

#[tokio::test(start_paused = true)]
async fn a_slow_service_is_no_limits_business() {
    let slow = service_fn(async |request| {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        hello(request).await
    });
    let (result, said, _) = serve(slow, &Drain::new(), async |mut io: DuplexStream| {
        io.write_all(GET).await.unwrap();
        read_answer(&mut io).await
    })
    .await;
    result.unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

#[tokio::test]
async fn errors_become_answers_that_say_nothing_of_the_inside() {
    let fails = service_fn(async |_| {
        Err::<Response<Full<Bytes>>, _>(BalanceError::NoBackend { cluster: "secret".into() })
    });
    let (result, said, _) = serve(fails, &Drain::new(), async |mut io: DuplexStream| {
        io.write_all(b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await.unwrap();
        read(&mut io).await
    })
    .await;
    result.unwrap();
    assert!(said.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{said}");
    assert!(
        said.ends_with("\r\n\r\n503 Service Unavailable\n") && !said.contains("secret"),
        "{said}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_the_answer_say_close_and_waits_a_second_for_the_idle() {
    let (drain, arrived) = (Drain::new(), Arc::new(Notify::new()));
    let service = service_fn({
        let arrived = Arc::clone(&arrived);
        move |request| {
            arrived.notify_one();
            async move {
                tokio::time::sleep(Duration::from_secs(5)).await;
                hello(request).await
            }
        }
    });
    let (result, said, took) = serve(service, &drain, async |mut io: DuplexStream| {
        io.write_all(GET).await.unwrap();
        arrived.notified().await;
        drain.advance(Phase::Announced);
        read(&mut io).await
    })
    .await;
    result.unwrap();
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("connection: close"), "{said}");
    assert_eq!(took.as_secs(), 5, "closed after the answer");

    let drain = Drain::new();
    let (result, said, took) = serve(service_fn(hello), &drain, async |mut io: DuplexStream| {
        io.write_all(GET).await.unwrap();
        read_answer(&mut io).await;
        drain.advance(Phase::Announced);
        (read(&mut io).await, io).0
    })
    .await;
    result.unwrap();
    assert_eq!((said.as_str(), took.as_secs()), ("", 1));
}

async fn h2_client(
    io: DuplexStream,
) -> (
    hyper::client::conn::http2::SendRequest<Empty<Bytes>>,
    tokio::task::JoinHandle<hyper::Result<()>>,
) {
    let (send, client) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
            .await
            .unwrap();
    (send, tokio::spawn(client))
}

#[tokio::test(start_paused = true)]
async fn http2_is_served_where_tls_agreed_on_it_and_is_told_of_the_drain() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let drain = Drain::new();
    let serving =
        ServeHttp::new(service_fn(hello)).oneshot(conn(far, true).with_drain(drain.watch()));
    let client = async {
        let (mut send, client) = h2_client(near).await;
        let response = send.send_request(Request::new(Empty::new())).await.unwrap();
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "192.0.2.7:5000 Ok(0)"
        );
        drain.advance(Phase::Announced);
        client.await.unwrap().unwrap();
        drop(send);
    };
    let start = Instant::now();
    // The client may hang up first, which is an error of no consequence.
    let (_, ()) = tokio::join!(serving, client);
    assert_eq!(start.elapsed().as_secs(), 0, "an idle HTTP/2 connection need not wait");
}

#[tokio::test]
async fn a_connection_whose_own_drain_is_announced_says_close_and_others_go_on() {
    let (server, own) = (Drain::new(), Drain::new());
    let watches = [server.watch().or(own.watch()), server.watch()];
    let ask = async |io: &mut DuplexStream| {
        io.write_all(GET).await.unwrap();
        read_answer(io).await
    };
    let ends = watches.map(|watch| {
        let (near, far) = tokio::io::duplex(4096);
        (near, ServeHttp::new(service_fn(hello)).oneshot(conn(far, false).with_drain(watch)))
    });
    let [(mut revoked, revoked_serving), (mut other, other_serving)] = ends;
    let client = async {
        for io in [&mut revoked, &mut other] {
            assert!(!ask(io).await.contains("connection: close"));
        }
        own.advance(Phase::Announced);
        assert!(ask(&mut revoked).await.contains("connection: close"));
        assert_eq!(read(&mut revoked).await, "");
        assert!(!ask(&mut other).await.contains("connection: close"));
        server.advance(Phase::Announced);
        assert!(ask(&mut other).await.contains("connection: close"));
    };
    let (revoked_result, other_result, ()) = tokio::join!(revoked_serving, other_serving, client);
    revoked_result.unwrap();
    other_result.unwrap();
}

#[tokio::test]
async fn an_http2_connection_whose_own_drain_is_announced_gets_goaway_and_others_go_on() {
    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    /// The types of the frames that come, up to the first of type `last`.
    async fn frames(io: &mut DuplexStream, last: u8) -> Vec<u8> {
        let mut types = Vec::new();
        while types.last() != Some(&last) {
            let mut head = [0; 9];
            io.read_exact(&mut head).await.unwrap();
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            io.read_exact(&mut vec![0; len as usize]).await.unwrap();
            types.push(head[3]);
        }
        types
    }
    let (server, own) = (Drain::new(), Drain::new());
    let watches = [server.watch().or(own.watch()), server.watch()];
    let ends = watches.map(|watch| {
        let (near, far) = tokio::io::duplex(1 << 16);
        (near, ServeHttp::new(service_fn(hello)).oneshot(conn(far, true).with_drain(watch)))
    });
    let [(mut revoked, revoked_serving), (mut other, other_serving)] = ends;
    let client = async move {
        for io in [&mut revoked, &mut other] {
            let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
            io.write_all(&[&settings[..], PING].concat()).await.unwrap();
            assert!(!frames(io, 6).await.contains(&7));
        }
        own.advance(Phase::Announced);
        frames(&mut revoked, 7).await;
        other.write_all(PING).await.unwrap();
        assert!(!frames(&mut other, 6).await.contains(&7));
        server.advance(Phase::Announced);
        frames(&mut other, 7).await;
    };
    // The clients hang up before all is said, which is an error of no consequence.
    let (_, _, ()) = tokio::join!(revoked_serving, other_serving, client);
}

#[tokio::test(start_paused = true)]
async fn an_idle_http2_connection_is_closed_in_time() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let serving = ServeHttp::new(service_fn(hello)).oneshot(conn(far, true));
    let start = Instant::now();
    let client = async {
        let (mut send, client) = h2_client(near).await;
        tokio::time::sleep(Duration::from_secs(30)).await;
        send.send_request(Request::new(Empty::new()))
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
        client.await.unwrap().unwrap();
        drop(send);
    };
    let (result, ()) = tokio::join!(serving, client);
    result.unwrap();
    let took = start.elapsed().as_secs();
    assert!((90..=150).contains(&took), "{took} s");
}

#[tokio::test]
async fn a_service_that_stays_on_its_thread_serves_both_versions() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let count = Rc::new(());
            let service = service_fn(move |request| {
                let count = Rc::clone(&count);
                async move {
                    let answer = hello(request).await;
                    drop(count);
                    answer
                }
            });
            let (near, far) = tokio::io::duplex(1 << 16);
            let client = async {
                let (mut send, client) = h2_client(near).await;
                assert_eq!(
                    send.send_request(Request::new(Empty::new())).await.unwrap().status(),
                    200
                );
                drop(send);
                client.await.unwrap().unwrap();
            };
            let serving = ServeHttp::new(service).local().oneshot(conn(far, true));
            let (result, ()) = tokio::join!(serving, client);
            result.unwrap();
        })
        .await;
}
