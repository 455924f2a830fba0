use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bartizan_balance::{Backend, NotSent, Unanswered};
use bartizan_net::{Address, BoxError};
use bytes::Bytes;
use futures_util::future::join_all;
use h2::Reason;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Channel, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tower::ServiceExt;

use crate::pool::test_dial::TestDial;
use crate::pool::{BackendProtocol, HttpPool, HttpPoolLayer, PooledBody};
use crate::{ClientBodyError, SendError, status_of};

type ReqBody = BoxBody<Bytes, Infallible>;
type Pool = HttpPool<TestDial, ReqBody>;
type Answer = Result<Response<PooledBody<ReqBody>>, BoxError>;

/// A server that speaks HTTP/2 and counts.
struct Server {
    connections: AtomicUsize,
    // Connections that ended in order.
    ended: AtomicUsize,
    // The most streams that any connection had at once.
    most: AtomicUsize,
    requests: AtomicUsize,
    seen: Mutex<Vec<Request<()>>>,
    // What the requests for `/hold` wait for.
    release: Semaphore,
    // Makes all connections say GOAWAY.
    goaway: Notify,
}

impl Server {
    async fn start(limit: u32) -> (Arc<Self>, Arc<Backend>) {
        let server = Arc::new(Self {
            connections: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            seen: Mutex::default(),
            release: Semaphore::new(0),
            goaway: Notify::new(),
        });
        let shared = Arc::clone(&server);
        let backend = listen(move |io| Arc::clone(&shared).serve(io, limit)).await;
        (server, backend)
    }

    async fn serve(self: Arc<Self>, io: TcpStream, limit: u32) {
        let number = self.connections.fetch_add(1, Ordering::SeqCst);
        let (server, active) = (Arc::clone(&self), Arc::new(AtomicUsize::new(0)));
        let service = service_fn(move |request| {
            let (server, active) = (Arc::clone(&server), Arc::clone(&active));
            async move {
                let now = active.fetch_add(1, Ordering::SeqCst) + 1;
                server.most.fetch_max(now, Ordering::SeqCst);
                let answer = server.answer(number, request).await;
                active.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Infallible>(answer)
            }
        });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(limit);
        let mut conn = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
        let ended = tokio::select! {
            ended = conn.as_mut() => ended,
            () = self.goaway.notified() => {
                conn.as_mut().graceful_shutdown();
                conn.await
            }
        };
        self.ended.fetch_add(usize::from(ended.is_ok()), Ordering::SeqCst);
    }

    async fn answer(
        &self,
        number: usize,
        request: Request<Incoming>,
    ) -> Response<BoxBody<Bytes, hyper::Error>> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        self.seen.lock().unwrap().push(Request::from_parts(parts, ()));
        self.requests.fetch_add(1, Ordering::SeqCst);
        let full = |text: &'static str| Full::from(text).map_err(|e| match e {}).boxed();
        Response::new(match &*path {
            "/hold" => {
                self.release.acquire().await.unwrap().forget();
                full("held")
            }
            "/number" => Full::from(number.to_string()).map_err(|e| match e {}).boxed(),
            "/echo" => body.boxed(),
            "/stall" => {
                let (mut sender, body) = Channel::<Bytes, hyper::Error>::new(2);
                sender.send_data(Bytes::from_static(b"half")).await.unwrap();
                std::mem::forget(sender);
                body.boxed()
            }
            _ => full("ok"),
        })
    }

    async fn until_requests(&self, count: usize) {
        until(|| self.requests.load(Ordering::SeqCst) >= count).await;
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), met).await.expect("it never came to that");
}

/// Listens for connections, each of which `serve` has in a task.
async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Arc<Backend>
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
    Arc::new(Backend::new("a", Address::from(addr)))
}

/// Serves with the library under hyper, which can do more that is out of the ordinary.
async fn listen_h2<F>(
    answer: impl Fn(usize, h2::server::SendResponse<Bytes>) -> F + Copy + Send + Sync + 'static,
) -> Arc<Backend>
where
    F: Future<Output = ()> + Send + 'static,
{
    listen(move |io| async move {
        let mut conn = h2::server::handshake(io).await.unwrap();
        let mut count = 0;
        while let Some(Ok((_, respond))) = conn.accept().await {
            tokio::spawn(answer(count, respond));
            count += 1;
        }
    })
    .await
}

fn pool(dial: &TestDial) -> Pool {
    pool_with(dial, HttpPoolLayer::new())
}

fn pool_with(dial: &TestDial, layer: HttpPoolLayer) -> Pool {
    HttpPool::with_settings(dial.clone(), layer.protocol(BackendProtocol::Http2).settings)
}

fn request(method: &str, path: &str, body: ReqBody) -> Request<ReqBody> {
    Request::builder().method(method).uri(path).header("host", "test:1").body(body).unwrap()
}

async fn get(pool: &Pool, backend: &Arc<Backend>, path: &str) -> Answer {
    let conn = pool.clone().oneshot(Arc::clone(backend)).await?;
    conn.oneshot(request("GET", path, Empty::new().boxed())).await
}

async fn text(answer: Answer) -> String {
    let bytes = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.into()).unwrap()
}

#[tokio::test]
async fn the_backends_limit_of_streams_holds_and_no_more_is_dialled_than_it_takes() {
    for (limit, connections) in [(1, 50), (2, 25), (100, 1)] {
        let (server, backend) = Server::start(limit).await;
        let dial = TestDial::default();
        let pool = pool(&dial);
        let answers =
            join_all((0..50).map(|_| async { text(get(&pool, &backend, "/hold").await).await }));
        let release = async {
            server.until_requests(50).await;
            server.release.add_permits(50);
        };
        let (answers, ()) = tokio::join!(answers, release);
        assert!(answers.iter().all(|answer| answer == "held"));
        assert!(server.most.load(Ordering::SeqCst) <= limit as usize, "limit {limit}");
        assert_eq!(dial.dialled(), connections, "limit {limit}");
        text(get(&pool, &backend, "/").await).await;
        assert_eq!(dial.dialled(), connections, "room is given back");
    }
}

#[tokio::test]
async fn the_connection_with_the_least_room_is_used_so_that_others_may_expire() {
    let (server, backend) = Server::start(3).await;
    let dial = TestDial::default();
    let pool = pool(&dial);
    let hold = || {
        let (pool, backend) = (pool.clone(), Arc::clone(&backend));
        tokio::spawn(async move { text(get(&pool, &backend, "/hold").await).await })
    };
    let mut held = Vec::new();
    for count in 1..=4 {
        held.push(hold());
        server.until_requests(count).await;
    }
    assert_eq!(dial.dialled(), 2);
    // Those who came first are released first: then two are on the first connection.
    server.release.add_permits(1);
    held.remove(0).await.unwrap();
    assert_eq!(text(get(&pool, &backend, "/number").await).await, "0");
    server.release.add_permits(2);
    for first in held.drain(..2) {
        first.await.unwrap();
    }
    assert_eq!(text(get(&pool, &backend, "/number").await).await, "1");
}

#[tokio::test]
async fn a_request_whose_client_breaks_off_is_the_clients_fault() {
    let (_server, backend) = Server::start(1).await;
    let layer = HttpPoolLayer::new().protocol(BackendProtocol::Http2);
    let pool: HttpPool<TestDial, Channel<Bytes, ClientBodyError>> =
        HttpPool::with_settings(TestDial::default(), layer.settings);
    for path in ["/hold", "/echo"] {
        let conn = pool.clone().oneshot(Arc::clone(&backend)).await.unwrap();
        let (sender, body) = Channel::new(1);
        let request = Request::post(path).header("host", "test").body(body).unwrap();
        sender.abort(ClientBodyError::Broken("it went away".into()));
        let error = match conn.oneshot(request).await {
            Err(error) => error,
            Ok(response) => response.into_body().collect().await.unwrap_err().into(),
        };
        assert_eq!(status_of(&*error), 400, "{error:?}");
    }
}

#[tokio::test]
async fn a_backend_that_takes_no_streams_is_an_error_for_all_who_wait() {
    let (_server, backend) = Server::start(0).await;
    let dial = TestDial::default();
    let pool = pool(&dial);
    let answers = join_all((0..5).map(|_| get(&pool, &backend, "/"))).await;
    assert_eq!(dial.dialled(), 1);
    for answer in answers {
        let error = answer.unwrap_err();
        assert!(is_behind(&*error, |e| matches!(e, SendError::NoStreams)), "{error:?}");
        assert_eq!(status_of(&*error), 502);
    }
}

fn is_behind(error: &(dyn std::error::Error + 'static), is: impl Fn(&SendError) -> bool) -> bool {
    let mut chain = std::iter::successors(Some(error), |error| error.source());
    chain.any(|error| error.downcast_ref().is_some_and(&is))
}

#[tokio::test]
async fn a_backend_that_never_settles_is_a_timeout_for_all_who_wait() {
    let backend = listen(|mut io| async move {
        // Takes everything and says nothing.
        let _ = io.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let dial = TestDial::default();
    let layer = HttpPoolLayer::new().settings_timeout(Duration::from_millis(50));
    let pool = pool_with(&dial, layer);
    let answers = join_all((0..5).map(|_| get(&pool, &backend, "/"))).await;
    assert_eq!(dial.dialled(), 1);
    for answer in answers {
        assert_eq!(status_of(&*answer.unwrap_err()), 504);
    }
    dial.until_gone(1).await;
}

#[tokio::test]
async fn what_speaks_no_http2_is_a_failed_dial() {
    for text in [&b""[..], b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"] {
        let backend = listen(move |mut io| async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut io, text).await;
        })
        .await;
        let pool = pool(&TestDial::default());
        let error = pool.oneshot(backend).await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(SendError::Connection(_))), "{error:?}");
    }
}

#[tokio::test]
async fn a_dial_that_nobody_waits_for_any_more_is_given_up() {
    let backend = listen(|mut io| async move {
        let _ = io.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let dial = TestDial::default();
    let pool = pool(&dial);
    {
        let mut first = tokio_test::task::spawn(pool.clone().oneshot(Arc::clone(&backend)));
        let mut second = tokio_test::task::spawn(pool.clone().oneshot(Arc::clone(&backend)));
        assert!(first.poll().is_pending() && second.poll().is_pending());
        until(|| dial.dialled() == 1).await;
        drop(first);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(second.poll().is_pending(), "it goes on for the other");
    }
    drop(tokio::time::timeout(Duration::from_millis(50), get(&pool, &backend, "/")).await);
    assert_eq!(dial.dialled(), 2, "the first dial is not waited for");
}

#[tokio::test]
async fn a_backend_that_says_goaway_loses_no_request() {
    let (server, backend) = Server::start(100).await;
    let dial = TestDial::default();
    let pool = pool(&dial);
    let held = join_all((0..5).map(|_| async { text(get(&pool, &backend, "/hold").await).await }));
    let more = async {
        server.until_requests(5).await;
        server.goaway.notify_waiters();
        until(|| pool.shared.lines.take(backend.id()).is_none()).await;
        let more = join_all((0..5).map(|_| async { text(get(&pool, &backend, "/").await).await }));
        assert!(more.await.iter().all(|answer| answer == "ok"));
        server.release.add_permits(5);
    };
    let (held, ()) = tokio::join!(held, more);
    assert!(held.iter().all(|answer| answer == "held"));
    assert_eq!(dial.dialled(), 2);
    until(|| server.ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_refused_stream_is_opened_again_with_all_of_the_body_and_another_reset_is_not() {
    let backend = listen(|io| async move {
        let mut conn = h2::server::handshake(io).await.unwrap();
        let mut count = 0;
        while let Some(Ok((request, mut respond))) = conn.accept().await {
            count += 1;
            tokio::spawn(async move {
                let path = request.uri().path().to_owned();
                let mut body = request.into_body();
                let mut length = 0;
                while let Some(Ok(data)) = body.data().await {
                    length += data.len();
                }
                match &*path {
                    "/broken" => respond.send_reset(Reason::INTERNAL_ERROR),
                    _ if count <= 3 => respond.send_reset(Reason::REFUSED_STREAM),
                    _ => {
                        let mut send = respond.send_response(Response::new(()), false).unwrap();
                        send.send_data(length.to_string().into(), true).unwrap();
                    }
                }
            });
        }
    })
    .await;
    let (dial, body) = (TestDial::default(), || Full::from("12345").boxed());
    let pool = pool(&dial);
    let conn = pool.clone().oneshot(Arc::clone(&backend)).await.unwrap();
    let answer = conn.oneshot(request("POST", "/", body())).await;
    assert_eq!(text(answer).await, "5", "refused three times");
    let conn = pool.clone().oneshot(Arc::clone(&backend)).await.unwrap();
    let error = conn.oneshot(request("POST", "/broken", body())).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(SendError::Connection(_))), "{error:?}");
    assert_eq!(dial.dialled(), 1, "the connection stays");
}

#[tokio::test]
async fn a_stream_that_is_refused_all_the_time_is_given_back_or_unanswered() {
    let backend =
        listen_h2(|_, mut respond| async move { respond.send_reset(Reason::REFUSED_STREAM) }).await;
    let pool = pool(&TestDial::default());
    let error = get(&pool, &backend, "/").await.unwrap_err();
    assert!(error.is::<NotSent<Request<ReqBody>>>(), "{error:?}");
    let conn = pool.oneshot(backend).await.unwrap();
    let error = conn.oneshot(request("POST", "/", Full::from("12345").boxed())).await.unwrap_err();
    assert!(error.is::<Unanswered>(), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_closes_without_an_answer_is_unanswered() {
    let backend = listen(|io| async move {
        let mut conn = h2::server::handshake(io).await.unwrap();
        drop(conn.accept().await);
    })
    .await;
    let error = get(&pool(&TestDial::default()), &backend, "/").await.unwrap_err();
    assert!(error.is::<Unanswered>(), "{error:?}");
}

#[tokio::test]
async fn an_answer_that_is_reset_in_the_middle_is_an_error() {
    // The last is no error for hyper.
    const REASONS: [Reason; 3] = [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR];
    let backend = listen_h2(|count, mut respond| async move {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"half"), false).unwrap();
        // The client takes the half before it is told of the reset.
        tokio::time::sleep(Duration::from_millis(20)).await;
        body.send_reset(REASONS[count]);
    })
    .await;
    let pool = pool(&TestDial::default());
    for reason in REASONS {
        let mut body = get(&pool, &backend, "/").await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        let error = body.frame().await.unwrap_or_else(|| panic!("{reason:?} ends it"));
        assert!(matches!(error, Err(SendError::Connection(_))), "{reason:?}: {error:?}");
    }
}

#[tokio::test]
async fn an_answer_to_half_a_request_is_whole_although_the_stream_is_reset_then() {
    let backend = listen_h2(|_, mut respond| async move {
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        body.send_data(Bytes::from_static(b"whole"), true).unwrap();
        // Nobody reads the rest of the request: with that, the stream is reset with NO_ERROR.
    })
    .await;
    let pool = pool(&TestDial::default());
    let conn = pool.oneshot(backend).await.unwrap();
    let (_more, body) = Channel::<Bytes, Infallible>::new(1);
    let answer = conn.oneshot(request("POST", "/", body.boxed())).await;
    assert_eq!(text(answer).await, "whole");
}

#[tokio::test]
async fn requests_have_an_absolute_target_and_trailers_pass_both_ways() {
    let (server, backend) = Server::start(10).await;
    for (dial, scheme) in [(TestDial::default(), "http"), (TestDial::alpn(b"h2"), "https")] {
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
        let sent = trailers.clone();
        let body = Full::from("body").with_trailers(async move { Some(Ok(sent)) }).boxed();
        let mut request = request("POST", "/echo?a", body);
        request.headers_mut().insert("te", "trailers".parse().unwrap());
        request.headers_mut().insert("connection", "te".parse().unwrap());
        let conn = pool(&dial).oneshot(Arc::clone(&backend)).await.unwrap();
        let answer = conn.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(answer.trailers(), Some(&trailers));
        assert_eq!(answer.to_bytes(), "body");
        let seen = server.seen.lock().unwrap().pop().unwrap();
        assert_eq!(seen.uri().to_string(), format!("{scheme}://test:1/echo?a"));
        assert_eq!(seen.headers()["te"], "trailers");
        assert!(!seen.headers().contains_key("host"));
    }
}

#[tokio::test]
async fn a_dropped_answer_frees_its_stream_even_while_the_request_is_sent() {
    let (_server, backend) = Server::start(1).await;
    let dial = TestDial::default();
    let pool = pool(&dial);
    drop(get(&pool, &backend, "/stall").await.unwrap());
    assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");

    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    sender.send(Frame::data(Bytes::from_static(b"part"))).await.unwrap();
    let conn = pool.clone().oneshot(Arc::clone(&backend)).await.unwrap();
    let mut echo = conn.oneshot(request("POST", "/echo", body.boxed())).await.unwrap().into_body();
    assert_eq!(echo.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
    assert!(pool.shared.lines.take(backend.id()).is_none());
    drop(echo);
    until(|| pool.shared.lines.take(backend.id()).is_some()).await;
    assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");
    assert_eq!(dial.dialled(), 1);
}

#[tokio::test]
async fn a_silent_stream_is_a_timeout_and_does_not_take_the_connection_with_it() {
    let (_server, backend) = Server::start(10).await;
    let dial = TestDial::default();
    let pool = pool_with(&dial, HttpPoolLayer::new().response_timeout(Duration::from_millis(200)));
    for path in ["/hold", "/stall"] {
        let others = async {
            loop {
                assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");
            }
        };
        tokio::select! {
            error = silence(&pool, &backend, path) => assert!(matches!(error, SendError::Timeout { .. })),
            () = others => {}
        }
    }
    assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");
    assert_eq!(dial.dialled(), 1);
}

async fn silence(pool: &Pool, backend: &Arc<Backend>, path: &str) -> SendError {
    match get(pool, backend, path).await {
        Err(error) => *error.downcast().unwrap(),
        Ok(response) => response.into_body().collect().await.unwrap_err(),
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_came_for_too_long_gets_no_more_requests() {
    let (_server, backend) = Server::start(2).await;
    let dial = TestDial::default();
    let pool = pool_with(&dial, HttpPoolLayer::new().response_timeout(Duration::from_millis(50)));
    assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");
    let error = silence(&pool, &backend, "/stall").await;
    assert!(matches!(error, SendError::Timeout { .. }), "{error:?}");
    assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");
    assert_eq!(dial.dialled(), 2);
}

#[tokio::test]
async fn an_invalid_connection_ends_its_streams_and_takes_no_new_ones() {
    let (server, backend) = Server::start(10).await;
    let dial = TestDial::default();
    let pool = pool(&dial);
    let other = async {
        server.until_requests(1).await;
        dial.supersede();
        assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");
        server.release.add_permits(1);
    };
    let (held, ()) = tokio::join!(get(&pool, &backend, "/hold"), other);
    assert_eq!(text(held).await, "held");
    assert_eq!(dial.until_gone(1).await, 1);
    assert_eq!(dial.dialled(), 2);
    until(|| server.ended.load(Ordering::SeqCst) == 1).await;

    dial.supersede();
    assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");
    assert_eq!(dial.dialled(), 3, "it became invalid while idle");
    let conn = pool.clone().oneshot(Arc::clone(&backend)).await.unwrap();
    dial.supersede();
    let answer = conn.oneshot(request("GET", "/", Empty::new().boxed())).await;
    assert_eq!(text(answer).await, "ok");
    assert_eq!(dial.dialled(), 4, "it became invalid between checkout and call");
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_order_in_time() {
    let (server, backend) = Server::start(10).await;
    let dial = TestDial::default();
    let pool = pool_with(&dial, HttpPoolLayer::new().idle_timeout(Duration::from_millis(40)));
    assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");
    assert_eq!(dial.until_gone(1).await, 1);
    until(|| server.ended.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn auto_speaks_what_was_agreed_on() {
    let (server, backend) = Server::start(10).await;
    let dial = TestDial::alpn(b"h2");
    let layer = HttpPoolLayer::new().protocol(BackendProtocol::Auto);
    let pool: Pool = HttpPool::with_settings(dial.clone(), layer.settings);
    for _ in 0..3 {
        assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");
    }
    assert_eq!((dial.dialled(), server.requests.load(Ordering::SeqCst)), (1, 3));
}

#[tokio::test]
async fn what_becomes_invalid_while_it_is_dialled_is_replaced() {
    let (server, backend) = Server::start(100).await;
    let dial = TestDial::default();
    let pool = pool(&dial);
    dial.supersede_next(2);
    assert_eq!(text(get(&pool, &backend, "/").await).await, "ok");
    assert_eq!((dial.dialled(), server.requests.load(Ordering::SeqCst)), (3, 1));
    assert_eq!(dial.until_gone(2).await, 2, "they were closed in order");
}
