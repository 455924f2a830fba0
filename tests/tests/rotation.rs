//! Authorities, client certificates and backends' certificates change while requests go on.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bartizan::http::{BackendProtocol, RequestBody};
use bartizan::prelude::*;
use bartizan::tls::{ClientCredentials, ServerTrust, TlsOriginateLayer};
use bartizan_testkit::{Leaf, Minted, TestCa, TestDir};
use bartizan_tests::{Presents, SecureBackend, eventually};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;
use tower::{ServiceBuilder, ServiceExt};

const NAME: &str = "web.internal";
const ROTATIONS: usize = 200;

/// Two backends, and what it takes to reach them.
struct Scene {
    dir: TestDir,
    roots: PathBuf,
    client: PathBuf,
    ca: TestCa,
    partners: TestCa,
    shown: Minted,
    leaf: Minted,
    backends: Vec<SecureBackend>,
}

impl Scene {
    async fn new() -> Self {
        let dir = TestDir::new();
        let (ca, partners) = (TestCa::new("backends 0"), TestCa::new("partners 0"));
        let shown = partners.issue(Leaf::client("proxy"));
        let leaf = ca.issue(Leaf::server(NAME));
        let roots = dir.write("roots.pem", ca.cert_pem());
        let client = dir.write("client.pem", shown.bundle_pem());
        let presents = Presents::new(&leaf).requires(&partners);
        let mut backends = Vec::new();
        for name in ["one", "two"] {
            backends.push(SecureBackend::start(name, &presents).await);
        }
        Self { dir, roots, client, ca, partners, shown, leaf, backends }
    }

    fn present(&self, presents: &Presents<'_>) {
        for backend in &self.backends {
            backend.present(presents);
        }
    }

    fn requests_of(&self, client: &Minted) -> u64 {
        self.backends.iter().map(|backend| backend.requests_of(Some(client))).sum()
    }

    /// Everything changes, in the order in which an operator would have it change.
    async fn rotate(&mut self, turn: usize, trust: &ServerTrust, credentials: &ClientCredentials) {
        let ca = TestCa::new(&format!("backends {turn}"));
        let partners = TestCa::new(&format!("partners {turn}"));
        let leaf = ca.issue(Leaf::server(NAME));
        let shown = partners.issue(Leaf::client("proxy"));
        // Both authorities are trusted on both sides, then certificates change, then the old
        // authorities go.
        self.dir.write("roots.pem", self.ca.cert_pem() + &ca.cert_pem());
        trust.reload().unwrap();
        self.present(&Presents::new(&leaf).requires(&self.partners).requires(&partners));
        self.dir.write("client.pem", shown.bundle_pem());
        credentials.reload().unwrap();
        eventually("the new certificate is shown", || self.requests_of(&shown) > 0).await;
        self.dir.write("roots.pem", ca.cert_pem());
        trust.reload().unwrap();
        self.present(&Presents::new(&leaf).requires(&partners));
        (self.ca, self.partners, self.shown, self.leaf) = (ca, partners, shown, leaf);
    }
}

async fn rotates_under_load(protocol: BackendProtocol, alpn: &str, rotations: usize) {
    let mut scene = Scene::new().await;
    let trust = ServerTrust::builder().roots(scene.roots.as_path()).load().unwrap();
    let credentials = ClientCredentials::from_pem_file(&scene.client).unwrap();
    let cluster = scene.backends.iter().fold(Cluster::builder("web"), |cluster, backend| {
        cluster.backend(&backend.addr().to_string(), &backend.addr().to_string())
    });
    let originate = TlsOriginateLayer::new(trust.clone())
        .server_name(NAME)
        .alpn([alpn])
        .client_credentials(credentials.clone());
    let service = ServiceBuilder::new()
        .layer(BalanceLayer::new(cluster.build().unwrap(), RoundRobin::new()))
        .layer_fn(move |dial| HttpPoolLayer::new().protocol(protocol).pool::<_, Full<Bytes>>(dial))
        .layer(originate)
        .service(TcpDial::new());
    let (done, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (service, done, served) = (service.clone(), Arc::clone(&done), Arc::clone(&served));
        load.spawn(async move {
            let mut failed = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let body = Full::new(Bytes::from_static(b"12345"));
                let request = Request::post("/count").header("host", "web").body(body).unwrap();
                match service.clone().oneshot(request).await {
                    Ok(response) => {
                        let body = response.into_body().collect().await;
                        match body.map(http_body_util::Collected::to_bytes) {
                            Ok(text) if text == "5" => _ = served.fetch_add(1, Ordering::Relaxed),
                            other => failed.push(format!("{other:?}")),
                        }
                    }
                    Err(error) => failed.push(format!("{error:?}")),
                }
            }
            failed
        });
    }
    for turn in 1..=rotations {
        scene.rotate(turn, &trust, &credentials).await;
    }
    done.store(true, Ordering::Relaxed);
    let failed: Vec<_> = load.join_all().await.into_iter().flatten().collect();
    let served = served.load(Ordering::Relaxed);
    println!("{rotations} rotations, {served} requests, {} failed", failed.len());
    assert!(failed.is_empty(), "{} of {served}: {:#?}", failed.len(), failed.first());
    assert!(served > rotations as u64);
}

/// Not idempotent, every one of them: none may be lost on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_everything_changes_200_times() {
    rotates_under_load(BackendProtocol::Http1, "http/1.1", ROTATIONS / 2).await;
    rotates_under_load(BackendProtocol::Http2, "h2", ROTATIONS / 2).await;
}

#[tokio::test]
async fn an_old_identity_is_never_used_again() {
    let mut scene = Scene::new().await;
    let trust = ServerTrust::builder().roots(scene.roots.as_path()).load().unwrap();
    let credentials = ClientCredentials::from_pem_file(&scene.client).unwrap();
    let addr = scene.backends[0].addr().to_string();
    let cluster = Cluster::builder("web").backend("one", &addr).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(BalanceLayer::new(cluster, RoundRobin::new()))
        .layer(HttpPoolLayer::new())
        .layer(
            TlsOriginateLayer::new(trust.clone())
                .server_name(NAME)
                .alpn(["http/1.1"])
                .client_credentials(credentials.clone()),
        )
        .service(TcpDial::new());
    let ask = async || {
        let request = Request::get("/").header("host", "web").body(RequestBody::default()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap();
    };
    ask().await;
    ask().await;
    let old = std::mem::replace(&mut scene.shown, scene.partners.issue(Leaf::client("next")));
    assert_eq!((scene.requests_of(&old), scene.backends[0].connections().0), (2, 1));
    scene.dir.write("client.pem", scene.shown.bundle_pem());
    credentials.reload().unwrap();
    ask().await;
    assert_eq!((scene.requests_of(&old), scene.requests_of(&scene.shown)), (2, 1));
    // The connection of the old one is closed without anybody asking for it.
    eventually("it is closed", || scene.backends[0].connections().0 == 1).await;
}
