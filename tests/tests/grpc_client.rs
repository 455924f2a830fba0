//! A tonic client over the balancer: no call goes to a dead server while another one lives.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bartizan::http::BackendProtocol;
use bartizan::net::Target;
use bartizan::prelude::*;
use bartizan_tests::eventually;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::{ServiceExt, service_fn};

/// One of gRPC's health services, with threads of its own, so that it can die as a process does.
struct HealthServer {
    // `None` once it is dead.
    runtime: Option<Runtime>,
    addr: SocketAddr,
    calls: Arc<AtomicUsize>,
}

impl HealthServer {
    async fn start(addr: SocketAddr) -> Self {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&calls);
        let serving = async move {
            let listener = TcpListener::bind(addr).await.unwrap();
            let addr = listener.local_addr().unwrap();
            let (_, health) = tonic_health::server::health_reporter();
            let health = tower::util::MapRequest::new(health, move |call| {
                counts.fetch_add(1, Ordering::Relaxed);
                call
            });
            let server = Server::builder().serve_with_incoming(health, TcpIncoming::from(listener));
            tokio::spawn(server);
            addr
        };
        let addr = runtime.spawn(serving).await.unwrap();
        Self { runtime: Some(runtime), addr, calls }
    }

    /// Ends it with all of its connections. They are closed when this returns.
    async fn die(mut self) -> SocketAddr {
        let runtime = self.runtime.take().unwrap();
        let die = move || runtime.shutdown_timeout(Duration::from_secs(30));
        tokio::task::spawn_blocking(die).await.unwrap();
        self.addr
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// A runtime must not wait for its end in another one.
impl Drop for HealthServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[tokio::test]
async fn no_call_goes_to_a_dead_server_while_another_one_lives() {
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(HealthServer::start("127.0.0.1:0".parse().unwrap()).await);
    }
    let mut cluster = Cluster::builder("grpc");
    for (server, name) in servers.iter().zip(["a", "b", "c"]) {
        cluster = cluster.backend(name, &server.addr.to_string());
    }
    let cluster = cluster.build().unwrap();
    let checks = Checks::tcp().every(EVERY).timeout(PATIENT).rise(1).fall(2);
    let _checks = cluster.check(checks);
    let dials = Arc::new(Mutex::new(Vec::new()));
    let dialled = Arc::clone(&dials);
    let dial = service_fn(move |backend: Arc<Backend>| {
        dialled.lock().unwrap().push(backend.address().port());
        TcpDial::new().oneshot(backend)
    });
    let pool = HttpPoolLayer::new().protocol(BackendProtocol::Http2).pool(dial);
    let balance = Balance::new(cluster.clone(), RoundRobin::new(), pool);
    let mut client = HealthClient::with_origin(balance, "http://grpc.internal".parse().unwrap());
    let mut call = async || {
        let answer = client.check(HealthCheckRequest::default()).await.unwrap();
        assert_eq!(answer.into_inner().status, SERVING);
    };

    for _ in 0..30 {
        call().await;
    }
    let calls: Vec<_> = servers.iter().map(HealthServer::calls).collect();
    assert_eq!(calls, [10, 10, 10]);

    let dead = servers.remove(0).die().await;
    // No call fails, whether the checks have found it already or not.
    while cluster.table().eligible_count() == 3 {
        call().await;
    }
    dials.lock().unwrap().clear();
    for _ in 0..30 {
        call().await;
    }
    let dials: Vec<u16> = dials.lock().unwrap().clone();
    assert!(!dials.contains(&dead.port()), "{dials:?}");

    let back = HealthServer::start(dead).await;
    eventually("a server that is up", || cluster.table().eligible_count() == 3).await;
    for _ in 0..30 {
        call().await;
    }
    assert_eq!(back.calls(), 10);
}

const SERVING: i32 = 1;

const EVERY: Duration = Duration::from_millis(20);

/// On a busy machine even a connection on loopback may take its time.
const PATIENT: Duration = Duration::from_secs(10);
