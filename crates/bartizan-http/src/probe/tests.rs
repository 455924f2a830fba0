use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bartizan_balance::{Backend, Verdict};
use bartizan_net::{Address, BoxError, TcpDial, WrongIdentity};
use bartizan_testkit::{Fault, HttpBackend, Misbehaving, refused_addr};
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Service, ServiceExt};

use super::*;
use crate::pool::test_dial::TestDial;
use crate::{BackendProtocol, HttpPool, HttpPoolLayer};

pub(super) fn backend(addr: SocketAddr) -> Arc<Backend> {
    Arc::new(Backend::new("a", Address::from(addr)))
}

/// The verdict, which no test waits long for.
pub(super) async fn ask<P>(probe: &P, backend: &Arc<Backend>) -> Verdict
where
    P: Service<Arc<Backend>, Response = Verdict, Error = Infallible> + Clone,
{
    let verdict = probe.clone().oneshot(Arc::clone(backend));
    let Ok(verdict) = tokio::time::timeout(LONG, verdict).await.expect("it hangs");
    verdict
}

/// Why it failed.
pub(super) fn reason(verdict: &Verdict) -> &str {
    assert!(matches!(verdict, Verdict::Fail { .. }), "{verdict:?}");
    verdict.reason()
}

const LONG: Duration = Duration::from_secs(10);

fn tcp() -> HttpProbe<HttpOnce<TcpDial>> {
    HttpProbe::new(TcpDial::new())
}

fn at(path: &str) -> HttpProbe<HttpOnce<TcpDial>> {
    tcp().path(path).unwrap()
}

/// Gives each connection to `serve`.
pub(super) async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Arc<Backend>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            tokio::spawn(serve(io));
        }
    });
    backend(addr)
}

#[tokio::test]
async fn what_is_asked_is_a_get_for_the_root_under_the_backends_name() {
    let server = HttpBackend::start("a").await;
    assert_eq!(ask(&tcp(), &backend(server.addr())).await, Verdict::Pass);
    let named = Backend::new("a", server.addr().into()).with_server_name("a.example");
    assert_eq!(ask(&tcp(), &Arc::new(named)).await, Verdict::Pass);

    let seen = server.seen();
    assert_eq!((&seen[0].method, seen[0].uri.to_string()), (&Method::GET, "/".to_owned()));
    assert_eq!(seen[0].header("host"), Some(&*server.addr().to_string()));
    assert_eq!(seen[0].header("user-agent"), Some("bartizan-check"));
    assert_eq!(seen[1].header("host"), Some("a.example"));
}

#[tokio::test]
async fn whatever_is_to_be_asked_is_asked() {
    let server = HttpBackend::start("a").await;
    let probe = at("/echo?deep=1")
        .method(Method::POST)
        .host("b.example:8080")
        .unwrap()
        .header(USER_AGENT, HeaderValue::from_static("me"))
        .body("are you well?")
        .expect(Expect::body("well?"));
    assert_eq!(ask(&probe, &backend(server.addr())).await, Verdict::Pass);
    let seen = &server.seen()[0];
    assert_eq!((&seen.method, seen.uri.to_string()), (&Method::POST, "/echo?deep=1".to_owned()));
    assert_eq!(seen.header("host"), Some("b.example:8080"));
    assert_eq!(seen.header("user-agent"), Some("me"));
    assert_eq!(seen.header("content-length"), Some("13"));
}

#[tokio::test]
async fn a_host_that_is_set_as_a_field_is_that_of_the_request() {
    let server = HttpBackend::start("a").await;
    let named = Backend::new("a", server.addr().into()).with_server_name("a.example");
    let probe = tcp().header(http::header::HOST, HeaderValue::from_static("b.example"));
    assert_eq!(ask(&probe, &Arc::new(named)).await, Verdict::Pass);
    assert_eq!(server.seen()[0].header("host"), Some("b.example"));
}

#[test]
fn what_cannot_stand_in_a_request_is_refused_at_once() {
    for path in ["/\u{fc}", "", "health", "http://a/", "/a b", "/a#b", "/\n", "*"] {
        assert!(matches!(tcp().path(path), Err(HttpProbeError::Path { .. })), "{path:?}");
    }
    for host in ["", "a b", "a/b", "u@a", "a\n", ":80"] {
        assert!(matches!(tcp().host(host), Err(HttpProbeError::Host { .. })), "{host:?}");
    }
    for host in ["a", "a.example:80", "[::1]:80", "127.0.0.1"] {
        assert!(tcp().host(host).is_ok(), "{host}");
    }
}

#[tokio::test]
async fn an_answer_passes_if_all_is_as_expected() {
    let server = HttpBackend::start("a").await;
    let backend = backend(server.addr());
    let name = HeaderName::from_static("x-backend");
    let is = |value| Expect::header_is(name.clone(), HeaderValue::from_static(value));
    for (probe, word) in [
        (at("/status/302"), ""),
        (at("/status/503"), "503 Service Unavailable"),
        (at("/status/503").expect_status(500..=599), ""),
        (at("/").expect_status(204..=204), "200 OK"),
        (at("/").expect(is("a")).expect(Expect::body_matches("^a\n$").unwrap()), ""),
        (at("/").expect(is("b")), "x-backend: \"b\""),
        (at("/").expect(is("a")).expect(!Expect::body("a")), "no \"a\" in the body"),
        (at("/chunked/70000").expect(Expect::body("no such")), "first 65536 bytes"),
        (at("/chunked/70000").max_body(70_000).expect(!Expect::body("no such")), ""),
        (at("/b/20").max_body(20).expect(Expect::body_matches("^(?s:.{20})$").unwrap()), ""),
        (at("/b/20").max_body(19).expect(Expect::body_matches("^(?s:.{20})$").unwrap()), "19"),
    ] {
        let verdict = ask(&probe, &backend).await;
        match word {
            "" => assert_eq!(verdict, Verdict::Pass),
            word => assert!(reason(&verdict).contains(word), "{word}: {verdict:?}"),
        }
    }
}

#[tokio::test]
async fn a_404_stops_only_if_it_is_to_and_whatever_else_is_expected() {
    let server = HttpBackend::start("a").await;
    let backend = backend(server.addr());
    reason(&ask(&at("/none"), &backend).await);
    let stopping = at("/none").disable_on_404().expect(Expect::body("never"));
    let verdict = ask(&stopping, &backend).await;
    assert!(matches!(verdict, Verdict::Stop { .. }), "{verdict:?}");
    reason(&ask(&at("/status/410").disable_on_404(), &backend).await);
    assert_eq!(ask(&at("/").disable_on_404(), &backend).await, Verdict::Pass);
}

#[tokio::test]
async fn each_probe_has_its_connection_and_says_goodbye() {
    let server = HttpBackend::start("a").await;
    let backend = backend(server.addr());
    let dial = TestDial::default();
    let probe = HttpProbe::new(dial.clone());
    for (n, path) in ["/", "/status/204", "/status/503", "/none"].into_iter().enumerate() {
        ask(&probe.clone().path(path).unwrap(), &backend).await;
        let body = Expect::body("a");
        ask(&probe.clone().path(path).unwrap().expect(body), &backend).await;
        assert_eq!(dial.until_gone(2 * n + 2).await, 2 * n + 2, "{path}");
    }
    assert_eq!(server.connections(), 8);
}

#[tokio::test]
async fn over_a_pool_probes_use_the_connections_of_the_traffic() {
    let server = HttpBackend::start("a").await;
    let backend = backend(server.addr());
    let pool: HttpPool<TcpDial> = HttpPool::new(TcpDial::new());
    let conn = pool.clone().oneshot(Arc::clone(&backend)).await.unwrap();
    let request = Request::get("/").body(crate::RequestBody::default()).unwrap();
    conn.oneshot(request).await.unwrap().into_body().collect().await.unwrap();

    let probe = HttpProbe::over(pool);
    for expected in [Expect::status(..), Expect::body("a"), !Expect::body("a")] {
        ask(&probe.clone().expect(expected), &backend).await;
    }
    ask(&probe.clone().method(Method::HEAD), &backend).await;
    assert_eq!((server.connections(), server.requests()), (1, 5));
}

#[tokio::test]
async fn what_is_no_answer_fails_with_what_is_wrong() {
    let huge = |field: &str, times| {
        let fields = field.repeat(times);
        Fault::Raw(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes())
    };
    let long = format!("x: {}\r\n", "y".repeat(1 << 20));
    for (fault, word) in [
        (Fault::CloseOnAccept, ""),
        (Fault::ResetOnAccept, ""),
        (Fault::CloseAfterRequest, "connection"),
        (Fault::ResetAfterRequest, ""),
        (Fault::Garbage, "HTTP"),
        (Fault::Unasked101, "switched protocols"),
        (huge("x: y\r\n", 1000), "too large"),
        (huge(&long, 1), "too large"),
        (Fault::CloseMidBody { after: 10 }, "broke off within its body"),
        (Fault::ResetMidBody { after: 10 }, ""),
        (Fault::Raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".into()), ""),
    ] {
        let server = Misbehaving::start(fault).await;
        let verdict = ask(&tcp().expect(Expect::body("never")), &backend(server.addr())).await;
        assert!(reason(&verdict).contains(word), "{word}: {verdict:?}");
        assert!(reason(&verdict).len() < 500, "{verdict:?}");
    }
    reason(&ask(&tcp(), &backend(refused_addr())).await);
}

/// A server that answers with `head`, and then with `again` for as long as anybody takes it.
async fn endless(head: &'static str, again: &'static str) -> Arc<Backend> {
    listen(move |mut io| async move {
        let mut request = [0; 1024];
        let _ = io.read(&mut request).await;
        let mut written = io.write_all(head.as_bytes()).await;
        while written.is_ok() {
            written = io.write_all(again.as_bytes()).await;
        }
    })
    .await
}

#[tokio::test]
async fn what_never_ends_is_left_at_some_point() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = endless(chunked, "4\r\nwell\r\n").await;
    assert_eq!(ask(&tcp(), &body).await, Verdict::Pass, "nothing is expected of the body");
    assert_eq!(ask(&tcp().expect(Expect::body("llwe")), &body).await, Verdict::Pass);
    let verdict = ask(&tcp().expect(Expect::body("ill")).max_body(1000), &body).await;
    assert!(reason(&verdict).contains("first 1000 bytes"), "{verdict:?}");

    let interim = endless("", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n").await;
    let verdict = ask(&tcp(), &interim).await;
    assert!(reason(&verdict).contains("interim"), "{verdict:?}");
}

#[tokio::test]
async fn a_few_interim_answers_do_no_harm() {
    let early = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(3);
    let answer = format!("{early}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let server = Misbehaving::start(Fault::Raw(answer.into_bytes())).await;
    assert_eq!(ask(&tcp(), &backend(server.addr())).await, Verdict::Pass);
}

#[tokio::test]
async fn a_probe_that_is_dropped_closes_its_connection() {
    let server = Misbehaving::start(Fault::Hang).await;
    let backend = backend(server.addr());
    let probe = tokio::spawn(async move { ask(&tcp(), &backend).await });
    server.until(|counts| counts.open == 1).await;
    probe.abort();
    server.until(|counts| counts.open == 0).await;
}

#[tokio::test]
async fn who_is_not_who_it_has_to_be_is_unfit() {
    let dial = tower::service_fn(|_: Arc<Backend>| async {
        let wrong: BoxError = std::io::Error::other(WrongIdentity::new("expired")).into();
        Err::<TcpStream, _>(wrong)
    });
    let backend = backend(refused_addr());
    let over = HttpProbe::over(HttpPoolLayer::new().pool::<_, crate::RequestBody>(dial));
    for verdict in [
        ask(&HttpProbe::new(dial), &backend).await,
        ask(&HttpProbe::new(dial).protocol(BackendProtocol::Http2), &backend).await,
        ask(&GrpcProbe::new(dial), &backend).await,
        ask(&over, &backend).await,
    ] {
        let Verdict::Unfit { reason } = verdict else { panic!("{verdict:?}") };
        assert!(reason.ends_with("expired"), "{reason}");
    }
}

/// A service of connections that is broken; called all the same, it panics.
#[derive(Clone)]
struct Broken;

impl Service<Arc<Backend>> for Broken {
    type Response = <HttpOnce<TcpDial> as Service<Arc<Backend>>>::Response;
    type Error = BoxError;
    type Future = std::future::Pending<Result<Self::Response, BoxError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Err("out of sockets".into()))
    }

    fn call(&mut self, _: Arc<Backend>) -> Self::Future {
        panic!("it was not ready");
    }
}

#[tokio::test]
async fn a_service_that_does_not_become_ready_fails_and_is_not_called() {
    let verdict = ask(&HttpProbe::over(Broken), &backend(refused_addr())).await;
    assert_eq!(verdict, Verdict::fail("out of sockets"));
    let verdict = ask(&GrpcProbe::over(Broken), &backend(refused_addr())).await;
    assert_eq!(verdict, Verdict::fail("out of sockets"));
}

/// A server of HTTP/2 that answers with the version, except for `/hold`, which it never answers.
async fn h2(open: tokio::sync::watch::Sender<usize>) -> Arc<Backend> {
    listen(move |io| {
        let open = open.clone();
        async move {
            let asked = open.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let asked = asked.clone();
                async move {
                    if request.uri().path() == "/hold" {
                        asked.send_modify(|open| *open += 1);
                        std::future::pending::<()>().await;
                    }
                    let text = format!("{:?} {}", request.version(), request.uri());
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
                }
            });
            let builder = http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(io), service).await;
            open.send_modify(|open| *open = 0);
        }
    })
    .await
}

#[tokio::test]
async fn http2_is_spoken_when_it_is_to_be_or_was_agreed_on() {
    let backend = h2(tokio::sync::watch::Sender::new(0)).await;
    let expected = Expect::body_matches("^HTTP/2.0 http://127.0.0.1:[0-9]+/health$").unwrap();
    let plain = at("/health").protocol(BackendProtocol::Http2).expect(expected);
    assert_eq!(ask(&plain, &backend).await, Verdict::Pass);

    let dial = TestDial::alpn(b"h2");
    let probe = HttpProbe::new(dial.clone()).expect(Expect::body("HTTP/2.0 https://"));
    let agreed = probe.clone().protocol(BackendProtocol::Auto);
    assert_eq!(ask(&agreed, &backend).await, Verdict::Pass);
    assert_eq!(dial.until_gone(1).await, 1, "it says goodbye");
    let verdict = ask(&probe, &backend).await;
    assert!(reason(&verdict).contains("\"h2\" by ALPN"), "{verdict:?}");
    reason(&ask(&tcp(), &backend).await);
}

#[tokio::test]
async fn http2_connections_of_a_pool_are_shared_with_probes() {
    let backend = h2(tokio::sync::watch::Sender::new(0)).await;
    let dial = TestDial::default();
    let pool = HttpPoolLayer::new().protocol(BackendProtocol::Http2);
    let probe = HttpProbe::over(pool.pool::<_, crate::RequestBody>(dial.clone()));
    let expected = probe.clone().expect(Expect::body("HTTP/2.0"));
    for _ in 0..3 {
        assert_eq!(ask(&probe, &backend).await, Verdict::Pass);
        assert_eq!(ask(&expected, &backend).await, Verdict::Pass);
    }
    assert_eq!(dial.dialled(), 1);
}

#[tokio::test]
async fn a_probe_over_http2_that_is_dropped_closes_its_connection() {
    let open = tokio::sync::watch::Sender::new(0);
    let mut seen = open.subscribe();
    let backend = h2(open).await;
    let probe = at("/hold").protocol(BackendProtocol::Http2);
    let probe = tokio::spawn(async move { ask(&probe, &backend).await });
    let seen = async move {
        seen.wait_for(|open| *open == 1).await.unwrap();
        probe.abort();
        seen.wait_for(|open| *open == 0).await.unwrap();
    };
    tokio::time::timeout(LONG, seen).await.expect("the connection stays");
}
