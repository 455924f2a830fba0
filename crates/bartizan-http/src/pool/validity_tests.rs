use std::sync::Arc;
use std::time::Duration;

use bartizan_balance::Backend;
use bartizan_net::Address;
use bartizan_testkit::HttpBackend;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Service, ServiceExt};

use super::test_dial::TestDial;
use super::{BackendProtocol, HttpPool, HttpPoolLayer, PooledBody};
use crate::SendError;

type Pool = HttpPool<TestDial, Full<Bytes>>;

fn pool(dial: &TestDial, layer: HttpPoolLayer) -> Pool {
    HttpPool::with_settings(dial.clone(), layer.settings)
}

fn backend(server: &HttpBackend) -> Arc<Backend> {
    Arc::new(Backend::new("a", Address::from(server.addr())))
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "test").body(Full::default()).unwrap()
}

async fn send(
    pool: &Pool,
    backend: &Arc<Backend>,
    path: &str,
) -> Response<PooledBody<Full<Bytes>>> {
    let conn = pool.clone().oneshot(Arc::clone(backend)).await.unwrap();
    conn.oneshot(get(path)).await.unwrap()
}

async fn read(response: Response<PooledBody<Full<Bytes>>>) -> usize {
    response.into_body().collect().await.unwrap().to_bytes().len()
}

#[tokio::test]
async fn what_became_invalid_while_idle_gets_no_request() {
    let (server, dial) = (HttpBackend::start("a").await, TestDial::default());
    let (pool, backend) = (pool(&dial, HttpPoolLayer::new()), backend(&server));
    read(send(&pool, &backend, "/").await).await;
    read(send(&pool, &backend, "/").await).await;
    assert_eq!(dial.dialled(), 1);
    dial.supersede();
    read(send(&pool, &backend, "/").await).await;
    assert_eq!(dial.dialled(), 2);
    assert_eq!(dial.until_gone(1).await, 1, "it was closed in order");
}

#[tokio::test]
async fn what_became_invalid_between_checkout_and_call_gets_no_request() {
    let (server, dial) = (HttpBackend::start("a").await, TestDial::default());
    let (mut pool, backend) = (pool(&dial, HttpPoolLayer::new()), backend(&server));
    // A new one the first time, then one out of the pool.
    for dialled in [2, 3] {
        let conn = pool.call(Arc::clone(&backend)).await.unwrap();
        dial.supersede();
        read(conn.oneshot(get("/")).await.unwrap()).await;
        assert_eq!(dial.dialled(), dialled);
    }
    assert_eq!(dial.until_gone(2).await, 2);
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn an_answer_under_way_ends_normally_and_its_connection_is_closed_then() {
    let (server, dial) = (HttpBackend::start("a").await, TestDial::default());
    let (pool, backend) = (pool(&dial, HttpPoolLayer::new()), backend(&server));
    let response = send(&pool, &backend, "/b/3000000").await;
    dial.supersede();
    assert_eq!(read(response).await, 3_000_000);
    assert_eq!(dial.until_gone(1).await, 1);
    assert!(pool.shared.idle.take(backend.id()).is_none());
}

#[tokio::test]
async fn idle_connections_are_closed_in_order_by_the_sweep_and_with_the_pool() {
    let (server, dial) = (HttpBackend::start("a").await, TestDial::default());
    let backend = backend(&server);
    let short = pool(&dial, HttpPoolLayer::new().idle_timeout(Duration::from_millis(40)));
    read(send(&short, &backend, "/").await).await;
    assert_eq!(dial.until_gone(1).await, 1);

    let long = pool(&dial, HttpPoolLayer::new());
    read(send(&long, &backend, "/").await).await;
    dial.supersede();
    assert_eq!(dial.until_gone(2).await, 2, "the sweep does not wait for the idle timeout");

    read(send(&long, &backend, "/").await).await;
    drop(long);
    assert_eq!(dial.until_gone(3).await, 3);
}

#[tokio::test]
async fn what_a_full_shelf_does_not_take_is_closed_in_order() {
    let (server, dial) = (HttpBackend::start("a").await, TestDial::default());
    let layer = HttpPoolLayer::new().max_idle_per_backend(0);
    read(send(&pool(&dial, layer), &backend(&server), "/").await).await;
    assert_eq!(dial.until_gone(1).await, 1);
}

#[tokio::test]
async fn a_stream_that_agreed_on_another_protocol_is_a_typed_error() {
    let server = HttpBackend::start("a").await;
    for (protocol, alpn) in
        [(BackendProtocol::Http1, &b"h2"[..]), (BackendProtocol::Http2, b"http/1.1")]
    {
        let dial = TestDial::alpn(alpn);
        let pool: Pool = pool(&dial, HttpPoolLayer::new().protocol(protocol));
        let error = pool.oneshot(backend(&server)).await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(SendError::WrongProtocol { .. })), "{error:?}");
        assert_eq!(dial.until_gone(1).await, 1);
    }
    let layer = HttpPoolLayer::new().protocol(BackendProtocol::Auto);
    for dial in [TestDial::default(), TestDial::alpn(b"http/1.1")] {
        let pool = pool(&dial, layer);
        read(send(&pool, &backend(&server), "/").await).await;
    }
}
