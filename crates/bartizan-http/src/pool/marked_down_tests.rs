use std::sync::Arc;
use std::time::Duration;

use bartizan_balance::{
    Balance, BalanceError, Cluster, First, Leased, OnMarkedDown, SessionEnded, State,
};
use bartizan_testkit::{Fault, HttpBackend, Misbehaving};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower::ServiceExt;

use super::test_dial::TestDial;
use super::{BackendProtocol, HttpPool, HttpPoolLayer, PooledBody};
use crate::status_of;

type Stack = Balance<First, HttpPool<TestDial, Full<Bytes>>>;
type Answer = Result<Response<Leased<PooledBody<Full<Bytes>>>>, BalanceError>;

/// A cluster of two that ends sessions, and a pool over it that goes to the first one.
fn stack(first: &str, second: &str, layer: HttpPoolLayer, dial: &TestDial) -> (Cluster, Stack) {
    let web = Cluster::builder("web").backend("a", first).backend("b", second);
    let web = web.on_marked_down(OnMarkedDown::ShutdownSessions).build().unwrap();
    let pool = layer.pool(dial.clone());
    (web.clone(), Balance::new(web, First::new(), pool))
}

fn send(stack: &Stack, method: &str, path: &str) -> JoinHandle<Answer> {
    let request = Request::builder().method(method).uri(path).header("host", "test");
    tokio::spawn(stack.clone().oneshot(request.body(Full::default()).unwrap()))
}

async fn soon<T>(task: JoinHandle<T>) -> T {
    timeout(SOON, task).await.expect("it hangs").unwrap()
}

async fn text(answer: Answer) -> String {
    let bytes = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.into()).unwrap()
}

/// Marks a backend down, as checks or an operator would.
fn mark_down(web: &Cluster, name: &str) {
    web.update(|change| change.set_state(name, State::Maintenance)).unwrap();
}

#[tokio::test]
async fn requests_that_hang_at_a_backend_end_when_it_is_marked_down() {
    let (hangs, works) = (Misbehaving::start(Fault::Hang).await, HttpBackend::start("b").await);
    let dial = TestDial::default();
    let (first, second) = (hangs.addr().to_string(), works.addr().to_string());
    let (web, stack) = stack(&first, &second, HttpPoolLayer::new(), &dial);
    let gets = [(); 5].map(|()| send(&stack, "GET", "/"));
    let post = send(&stack, "POST", "/");
    hangs.until(|counts| counts.requests == 6).await;
    mark_down(&web, "a");
    for get in gets {
        assert_eq!(text(soon(get).await).await, "b\n");
    }
    let error = soon(post).await.unwrap_err();
    assert_eq!(status_of(&error).as_u16(), 502, "{error:?}");
    assert_eq!(works.requests(), 5);
    hangs.until(|counts| counts.open == 0).await;
}

#[tokio::test]
async fn a_body_in_the_middle_is_cut() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello".to_vec();
    let slow = Misbehaving::start(Fault::RawKeepAlive(head)).await;
    let dial = TestDial::default();
    let addr = slow.addr().to_string();
    let (web, stack) = stack(&addr, &addr, HttpPoolLayer::new(), &dial);
    let mut body = soon(send(&stack, "GET", "/")).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
    let rest = tokio::spawn(async move { body.frame().await });
    tokio::task::yield_now().await;
    mark_down(&web, "a");
    let error = soon(rest).await.unwrap().unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&SessionEnded::MarkedDown));
    slow.until(|counts| counts.open == 0).await;
}

#[tokio::test]
async fn connections_from_before_a_mark_are_used_no_more() {
    let server = HttpBackend::start("a").await;
    let (addr, dial) = (server.addr().to_string(), TestDial::default());
    // Sessions go on here: it holds for all.
    let web = Cluster::builder("web").backend("a", &addr).build().unwrap();
    let layer = HttpPoolLayer::new().idle_timeout(Duration::from_secs(600));
    let stack: Stack = Balance::new(web.clone(), First::new(), layer.pool(dial.clone()));
    let in_use = soon(send(&stack, "GET", "/b/100000")).await;
    text(soon(send(&stack, "GET", "/")).await).await;
    assert_eq!(dial.dialled(), 2);
    mark_down(&web, "a");
    assert_eq!(text(in_use).await.len(), 100_000, "its session goes on");
    web.update(|change| change.set_state("a", State::Ready)).unwrap();
    text(soon(send(&stack, "GET", "/")).await).await;
    assert_eq!(dial.dialled(), 3);
    assert_eq!(dial.until_gone(2).await, 2, "both were closed in order");
    text(soon(send(&stack, "GET", "/")).await).await;
    assert_eq!(dial.dialled(), 3, "the new one is kept");
}

/// A server of HTTP/2 that takes requests and answers none.
struct Silent {
    requests: Semaphore,
    closed: Semaphore,
}

impl Silent {
    async fn start() -> (String, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let server = Arc::new(Self { requests: Semaphore::new(0), closed: Semaphore::new(0) });
        let shared = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let server = Arc::clone(&shared);
                tokio::spawn(async move {
                    let _ = server.serve(io).await;
                    server.closed.add_permits(1);
                });
            }
        });
        (addr, server)
    }

    async fn serve(&self, mut io: TcpStream) -> std::io::Result<()> {
        io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
        io.read_exact(&mut [0; PREFACE]).await?;
        loop {
            let mut head = [0; 9];
            io.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            io.read_exact(&mut vec![0; length]).await?;
            self.requests.add_permits(usize::from(head[3] == HEADERS));
        }
    }
}

#[tokio::test]
async fn a_shared_connection_ends_with_its_sessions() {
    let (addr, silent) = Silent::start().await;
    let dial = TestDial::default();
    let layer = HttpPoolLayer::new().protocol(BackendProtocol::Http2);
    let (web, stack) = stack(&addr, &addr, layer, &dial);
    let posts = [(); 3].map(|()| send(&stack, "POST", "/"));
    let requests = timeout(SOON, silent.requests.acquire_many(3)).await;
    drop(requests.expect("they do not come").unwrap());
    assert_eq!(dial.dialled(), 1);
    mark_down(&web, "a");
    for post in posts {
        assert!(soon(post).await.is_err());
    }
    drop(timeout(SOON, silent.closed.acquire()).await.expect("it stays").unwrap());
}

const SOON: Duration = Duration::from_secs(5);

/// The length of what a client begins with (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// The type of the frame that begins a request (§6.2).
const HEADERS: u8 = 1;
