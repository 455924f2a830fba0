use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bartizan_balance::{Backend, NotSent, Unanswered};
use bartizan_net::{Address, BoxError, TcpDial};
use bartizan_testkit::{Fault, HttpBackend, Misbehaving};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Channel, Full};
use tokio::task::coop::consume_budget;
use tower::{Layer, Service, ServiceExt};

use super::{HttpPool, HttpPoolLayer, PooledBody};
use crate::SendError;

type Answer = Result<Response<PooledBody<Full<Bytes>>>, BoxError>;

fn pool(layer: HttpPoolLayer) -> HttpPool<TcpDial, Full<Bytes>> {
    HttpPool::with_settings(TcpDial::new(), layer.settings)
}

fn backend(addr: std::net::SocketAddr) -> Arc<Backend> {
    Arc::new(Backend::new("a", Address::from(addr)))
}

async fn send(
    pool: &HttpPool<TcpDial, Full<Bytes>>,
    backend: &Arc<Backend>,
    method: &str,
    path: &str,
) -> Answer {
    let conn = pool.clone().oneshot(Arc::clone(backend)).await?;
    let request = Request::builder().method(method).uri(path).header("host", "test");
    conn.oneshot(request.body(Full::default()).unwrap()).await
}

async fn text(answer: Answer) -> String {
    let bytes = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.into()).unwrap()
}

#[tokio::test]
async fn requests_in_turn_share_a_connection_and_requests_at_once_do_not() {
    let server = HttpBackend::start("a").await;
    let (pool, backend) = (pool(HttpPoolLayer::new()), backend(server.addr()));
    for path in ["/", "/b/100000", "/chunked/100000", "/status/204", "/", "/"] {
        text(send(&pool, &backend, "GET", path).await).await;
    }
    assert_eq!(server.connections(), 1);

    let first = send(&pool, &backend, "GET", "/").await;
    let second = send(&pool, &backend, "GET", "/").await;
    assert_eq!(server.connections(), 2);
    drop((text(first).await, text(second).await));
    let (first, second) =
        tokio::join!(send(&pool, &backend, "GET", "/"), send(&pool, &backend, "GET", "/"));
    drop((text(first).await, text(second).await));
    assert_eq!(server.connections(), 2, "both had come back");
}

#[tokio::test]
async fn an_answer_is_heard_by_a_task_at_the_end_of_its_turn() {
    let server = HttpBackend::start("a").await;
    let (pool, backend) = (pool(HttpPoolLayer::new()), backend(server.addr()));
    // Whatever is left of a turn, as by busy siblings in the same task: it may end between the
    // connection's part of the work and ours.
    for left in 1..16 {
        let mut answer = pin!(async { text(send(&pool, &backend, "GET", "/").await).await });
        let mut tired = false;
        let answer = poll_fn(|cx| {
            tired = !tired;
            for _ in left..if tired { TURN } else { left } {
                let _ = pin!(consume_budget()).poll(cx);
            }
            answer.as_mut().poll(cx)
        });
        let heard = tokio::time::timeout(Duration::from_secs(5), answer).await;
        assert_eq!(heard.expect("it was never woken"), "a\n");
    }
}

/// tokio's budget of a task's turn.
const TURN: usize = 128;

#[tokio::test]
async fn a_connection_that_was_taken_and_not_used_goes_back() {
    let server = HttpBackend::start("a").await;
    let (mut pool, backend) = (pool(HttpPoolLayer::new()), backend(server.addr()));
    drop(pool.call(Arc::clone(&backend)).await.unwrap());
    text(send(&pool, &backend, "GET", "/").await).await;
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_body_dropped_before_its_end_closes_the_connection() {
    let server = HttpBackend::start("a").await;
    let (pool, backend) = (pool(HttpPoolLayer::new()), backend(server.addr()));
    drop(send(&pool, &backend, "GET", "/b/100000000").await.unwrap());
    server.until(|counts| counts.open == 0).await;
    text(send(&pool, &backend, "GET", "/").await).await;
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_request() {
    let server = Misbehaving::start(Fault::CloseAfterEachKeepAlive).await;
    let (pool, backend) = (pool(HttpPoolLayer::new()), backend(server.addr()));
    for n in 1..20 {
        text(send(&pool, &backend, "POST", "/").await).await;
        // The race proper is `Fault::CloseOnReuse`; here the close has been seen.
        server.until(|counts| counts.open == 0).await;
        assert_eq!(server.requests(), n);
    }
}

#[tokio::test]
async fn what_took_the_request_and_said_nothing_is_unanswered() {
    for fault in [Fault::CloseAfterRequest, Fault::ResetAfterRequest] {
        let server = Misbehaving::start(fault).await;
        let error = send(&pool(HttpPoolLayer::new()), &backend(server.addr()), "POST", "/")
            .await
            .unwrap_err();
        assert!(error.is::<Unanswered>(), "{error:?}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_but_was_answered() {
    for fault in [Fault::Garbage, Fault::Unasked101] {
        let server = Misbehaving::start(fault).await;
        let error = send(&pool(HttpPoolLayer::new()), &backend(server.addr()), "GET", "/")
            .await
            .unwrap_err();
        assert!(error.is::<SendError>(), "{error:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error_and_its_connection_is_not_kept() {
    for fault in [Fault::CloseMidBody { after: 10 }, Fault::ResetMidBody { after: 10 }] {
        let server = Misbehaving::start(fault).await;
        let (pool, backend) = (pool(HttpPoolLayer::new()), backend(server.addr()));
        // A reset may overtake the head; then there is no body to break off.
        if let Ok(response) = send(&pool, &backend, "GET", "/").await {
            let error = response.into_body().collect().await.unwrap_err();
            assert!(matches!(error, SendError::Connection(_)), "{error:?}");
        }
        assert!(pool.shared.idle.take(backend.id()).is_none());
    }
}

#[tokio::test]
async fn a_backend_that_says_nothing_in_time_is_a_timeout() {
    let server = Misbehaving::start(Fault::Hang).await;
    let pool = pool(HttpPoolLayer::new().response_timeout(Duration::from_millis(30)));
    let error = send(&pool, &backend(server.addr()), "GET", "/").await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(SendError::Timeout { .. })), "{error:?}");
    server.until(|counts| counts.open == 0).await;
}

#[tokio::test]
async fn silence_within_an_answer_is_a_timeout() {
    let raw = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    let server = Misbehaving::start(Fault::RawKeepAlive(raw.to_vec())).await;
    let pool = pool(HttpPoolLayer::new().response_timeout(Duration::from_millis(30)));
    let response = send(&pool, &backend(server.addr()), "GET", "/").await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert!(matches!(error, SendError::Timeout { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_that_takes_its_time_is_not_the_backends_silence() {
    let server = HttpBackend::start("a").await;
    let layer = HttpPoolLayer::new().response_timeout(Duration::from_millis(30));
    let pool: HttpPool<TcpDial, Channel<Bytes>> =
        HttpPool::with_settings(TcpDial::new(), layer.settings);
    let conn = pool.oneshot(backend(server.addr())).await.unwrap();
    let (mut sender, body) = Channel::<Bytes>::new(1);
    let request = Request::post("/count").header("host", "test").body(body).unwrap();
    let slow = async move {
        for _ in 0..5 {
            sender.send(Frame::data(Bytes::from_static(b"1234"))).await.unwrap();
            // Longer than the backend may be silent: the time is what is tested.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (response, ()) = tokio::join!(conn.oneshot(request), slow);
    let count = response.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(count.starts_with(b"20"), "{count:?}");
}

#[tokio::test]
async fn what_nobody_uses_is_closed_in_time() {
    let server = HttpBackend::start("a").await;
    let pool = pool(HttpPoolLayer::new().idle_timeout(Duration::from_millis(40)));
    text(send(&pool, &backend(server.addr()), "GET", "/").await).await;
    server.until(|counts| counts.open == 0).await;
}

#[tokio::test]
async fn only_so_many_are_kept_per_backend() {
    let server = HttpBackend::start("a").await;
    let (pool, backend) =
        (pool(HttpPoolLayer::new().max_idle_per_backend(2)), backend(server.addr()));
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(send(&pool, &backend, "GET", "/").await);
    }
    for answer in answers {
        text(answer).await;
    }
    server.until(|counts| counts.open == 2).await;
}

#[tokio::test]
async fn a_request_that_cannot_be_sent_comes_back_whole() {
    // The kept connection is closed by its first reuse, and nothing listens any more by then.
    let server = Misbehaving::start(Fault::CloseAfterEachKeepAlive).await;
    let addr = server.addr();
    let (mut pool, backend) = (pool(HttpPoolLayer::new()), backend(addr));
    text(send(&pool, &backend, "GET", "/").await).await;
    let stale = pool.call(Arc::clone(&backend)).await;
    server.stop().await;
    let Ok(stale) = stale else { return };
    let request = Request::post("/x?y").header("host", "test").body(Full::default()).unwrap();
    match stale.oneshot(request).await.unwrap_err().downcast::<NotSent<Request<Full<Bytes>>>>() {
        Ok(unsent) => assert_eq!(unsent.into_parts().0.uri(), "/x?y"),
        // It was written before the close was seen: then it is not known what became of it.
        Err(error) => assert!(error.is::<Unanswered>(), "{error:?}"),
    }
}

#[tokio::test]
async fn the_layer_is_named_and_makes_a_pool() {
    let server = HttpBackend::start("a").await;
    let pool = HttpPoolLayer::default().layer(TcpDial::new());
    let conn = pool.oneshot(backend(server.addr())).await.unwrap();
    let response = conn.oneshot(Request::new(crate::RequestBody::default())).await.unwrap();
    assert_eq!(response.headers()["x-backend"], "a");
    assert_eq!(server.seen()[0].header("host"), Some(server.addr().to_string().as_str()));
}
