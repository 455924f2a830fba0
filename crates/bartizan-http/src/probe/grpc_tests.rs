use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bartizan_balance::{Backend, Verdict};
use bartizan_net::TcpDial;
use bartizan_testkit::{Fault, HttpBackend, Misbehaving};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::tests::{ask, backend, listen, reason};
use super::*;
use crate::pool::test_dial::TestDial;
use crate::{BackendProtocol, HttpPoolLayer, RequestBody};

/// What a server answers with.
#[derive(Clone, Default)]
struct Answers {
    status: u16,
    headers: HeaderMap,
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Answers {
    fn grpc(frames: &[&'static [u8]]) -> Self {
        let frames = frames.iter().map(|frame| Bytes::from_static(frame)).collect();
        let headers = map(&[("content-type", "application/grpc")]);
        Self { status: 200, headers, frames, trailers: Some(map(&[("grpc-status", "0")])) }
    }

    fn with(self, name: &'static str, value: &'static str) -> Self {
        let mut headers = self.headers;
        headers.insert(name, http::HeaderValue::from_static(value));
        Self { headers, ..self }
    }

    fn without_trailers(self) -> Self {
        Self { trailers: None, ..self }
    }
}

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| {
        (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
    });
    fields.collect()
}

const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";

type Seen = Arc<Mutex<Vec<(Request<()>, Bytes)>>>;

/// A server that speaks HTTP/2, and answers every request in this way.
async fn server(answers: Answers) -> (Arc<Backend>, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let backend = listen(move |io| {
        let (answers, noted) = (answers.clone(), Arc::clone(&noted));
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (answers, noted) = (answers.clone(), Arc::clone(&noted));
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    noted.lock().unwrap().push((Request::from_parts(head, ()), body));
                    let frames = answers.frames.into_iter().map(Frame::data);
                    let frames = frames.chain(answers.trailers.map(Frame::trailers));
                    let frames = frames.map(Ok::<_, Infallible>);
                    let mut response =
                        Response::new(StreamBody::new(futures_util::stream::iter(frames)));
                    *response.status_mut() = answers.status.try_into().unwrap();
                    *response.headers_mut() = answers.headers;
                    Ok::<_, Infallible>(response)
                }
            });
            let builder = http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(io), service).await;
        }
    })
    .await;
    (backend, seen)
}

fn tcp() -> GrpcProbe<HttpOnce<TcpDial>> {
    GrpcProbe::new(TcpDial::new())
}

#[tokio::test]
async fn what_is_asked_is_the_health_of_a_service_in_grpcs_way() {
    let (backend, seen) = server(Answers::grpc(&[SERVING])).await;
    assert_eq!(ask(&tcp(), &backend).await, Verdict::Pass);
    let named = tcp().service("a.B").host("b.example").unwrap();
    assert_eq!(ask(&named, &backend).await, Verdict::Pass);

    let seen = seen.lock().unwrap();
    let (head, body) = &seen[0];
    assert_eq!(
        (head.method().as_str(), head.uri().path()),
        ("POST", "/grpc.health.v1.Health/Check")
    );
    for (name, value) in
        [("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "bartizan-check")]
    {
        assert_eq!(head.headers()[name], value);
    }
    assert_eq!(&body[..], b"\0\0\0\0\0");
    let (head, body) = &seen[1];
    assert_eq!(head.uri().authority().unwrap(), "b.example");
    assert_eq!(&body[..], b"\0\0\0\0\x05\x0a\x03a.B");
}

#[tokio::test]
async fn an_answer_counts_by_its_status_and_its_message() {
    let only = || Answers { frames: Vec::new(), ..Answers::grpc(&[]) }.without_trailers();
    for (answers, word) in [
        (Answers::grpc(&[SERVING]), ""),
        (Answers::grpc(&[b"\0\0\0", b"\0\x02\x08", b"\x01"]), ""),
        (Answers::grpc(&[b"\0\0\0\0\x02\x08\x02"]), "NOT_SERVING"),
        (Answers::grpc(&[b"\0\0\0\0\x02\x08\x03"]), "SERVICE_UNKNOWN"),
        (Answers::grpc(&[]), "over before its message"),
        (Answers::grpc(&[b"\x01\0\0\0\x02\x08\x01"]), "compressed"),
        (Answers::grpc(&[&[0; 5000]]), "more than 4096 bytes"),
        (Answers::grpc(&[SERVING]).without_trailers(), "no grpc-status"),
        (only().with("grpc-status", "5"), "does not know \"\" (NOT_FOUND)"),
        (only().with("grpc-status", "12"), "no health service"),
        (only().with("grpc-status", "14").with("grpc-message", "a%20b"), "UNAVAILABLE: a b"),
        (only().with("grpc-status", "0"), "over before its message"),
        (Answers { status: 503, ..only() }, "HTTP 503"),
        (only().with("content-type", "text/html"), "\"text/html\""),
    ] {
        let (backend, _) = server(answers).await;
        let verdict = ask(&tcp(), &backend).await;
        match word {
            "" => assert_eq!(verdict, Verdict::Pass),
            word => assert!(reason(&verdict).contains(word), "{word}: {verdict:?}"),
        }
    }
}

#[tokio::test]
async fn what_does_not_speak_http2_fails() {
    let server = HttpBackend::start("a").await;
    reason(&ask(&tcp(), &backend(server.addr())).await);
    let server = Misbehaving::start(Fault::CloseOnAccept).await;
    reason(&ask(&tcp(), &backend(server.addr())).await);
    let dial = TestDial::alpn(b"http/1.1");
    let verdict = ask(&GrpcProbe::new(dial), &backend(server.addr())).await;
    assert!(reason(&verdict).contains("by ALPN"), "{verdict:?}");
}

#[tokio::test]
async fn each_probe_has_its_connection_and_those_over_a_pool_share_one() {
    let (backend, _) = server(Answers::grpc(&[SERVING])).await;
    let dial = TestDial::alpn(b"h2");
    let probe = GrpcProbe::new(dial.clone());
    for n in 1..=2 {
        assert_eq!(ask(&probe, &backend).await, Verdict::Pass);
        assert_eq!(dial.until_gone(n).await, n, "it says goodbye");
    }
    let dial = TestDial::default();
    let pool = HttpPoolLayer::new().protocol(BackendProtocol::Http2);
    let probe = GrpcProbe::over(pool.pool::<_, RequestBody>(dial.clone()));
    for _ in 0..3 {
        assert_eq!(ask(&probe, &backend).await, Verdict::Pass);
    }
    assert_eq!(dial.dialled(), 1);
}
