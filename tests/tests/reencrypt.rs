//! TLS ends at the proxy and starts again towards backends.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;

use bartizan::http::{PerHost, RequestBody};
use bartizan::net::WrongIdentity;
use bartizan::prelude::*;
use bartizan::tls::PemSource;
use bartizan_testkit::{Leaf, Minted, TestCa};
use bartizan_tests::{
    Client, Http, Presents, Proxy, SecureBackend, Site, empty, eventually, full, request,
    request_as,
};
use base64::Engine as _;
use rustls::ServerConfig;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::{ServiceBuilder, ServiceExt};

const NAME: &str = "web.internal";

/// What re-encryption needs: an authority of the backends, and its file.
struct Inside {
    site: Site,
    ca: TestCa,
    ca_file: String,
}

impl Inside {
    fn new() -> Self {
        let (site, ca) = (Site::new(), TestCa::new("backends"));
        let ca_file = site.dir().write("backends-ca.pem", ca.cert_pem());
        let ca_file = ca_file.to_str().unwrap().to_owned();
        Self { site, ca, ca_file }
    }

    fn leaf(&self) -> Minted {
        self.ca.issue(Leaf::server(NAME))
    }

    fn proxy(&self, backends: &[SocketAddr], flags: &[&str]) -> Proxy {
        let base = ["--mode", "reencrypt", "--backend-ca", &self.ca_file, "--backend-name", NAME];
        self.site.proxy(backends, &[&base[..], flags].concat())
    }
}

#[tokio::test]
async fn requests_go_to_backends_over_tls_in_either_version_of_http() {
    let inside = Inside::new();
    let leaf = inside.leaf();
    for (proto, version) in [
        ("h1", http::Version::HTTP_11),
        ("h2", http::Version::HTTP_2),
        ("auto", http::Version::HTTP_2),
    ] {
        let one = SecureBackend::start("one", &Presents::new(&leaf)).await;
        let two = SecureBackend::start("two", &Presents::new(&leaf)).await;
        let proxy = inside.proxy(&[one.addr(), two.addr()], &["--backend-proto", proto]);
        for http in Http::BOTH {
            let mut client = Client::connect(&inside.site, &proxy, http).await;
            let names = [client.get("/").await, client.get("/").await];
            let mut names = names.map(|answer| answer.text().to_owned());
            names.sort();
            assert_eq!(names, ["one", "two"], "{proto} {http:?}");
            let answer = client.post("/count", full(vec![b'x'; 300_000])).await;
            assert_eq!(answer.text(), "300000");
            assert_eq!(client.get("/big").await.body.len(), 1024 * 1024);
        }
        for (seen, target, fields) in one.heads() {
            assert_eq!(seen, version, "{proto}");
            assert!(fields.contains_key("x-forwarded-for"), "{target}");
        }
    }
}

#[tokio::test]
async fn what_a_backend_prefers_decides_where_both_are_offered() {
    let inside = Inside::new();
    let leaf = inside.leaf();
    let backend = SecureBackend::start("old", &Presents::new(&leaf).only("http/1.1")).await;
    let proxy = inside.proxy(&[backend.addr()], &["--backend-proto", "auto"]);
    let mut client = Client::connect(&inside.site, &proxy, Http::Two).await;
    assert_eq!(client.get("/").await.text(), "old");
    assert_eq!(backend.heads()[0].0, http::Version::HTTP_11);
}

#[tokio::test]
async fn trailers_pass_over_http2_on_both_sides() {
    let inside = Inside::new();
    let leaf = inside.leaf();
    let backend = SecureBackend::start("grpc", &Presents::new(&leaf)).await;
    let proxy = inside.proxy(&[backend.addr()], &["--backend-proto", "h2"]);
    let mut client = Client::connect(&inside.site, &proxy, Http::Two).await;
    let ask = request_as("POST", "/trailers", &[("te", "trailers")], full("question"));
    let answer = client.ask(ask).await.unwrap();
    assert_eq!(answer.trailers.unwrap()["x-trailer"], "yes");
    assert_eq!(backend.heads()[0].2["te"], "trailers");
}

#[tokio::test]
async fn many_requests_at_once_share_connections_of_http2() {
    let inside = Inside::new();
    let leaf = inside.leaf();
    let backend = SecureBackend::start("one", &Presents::new(&leaf)).await;
    let flags = ["--backend-proto", "h2", "--workers", "1"];
    let proxy = inside.proxy(&[backend.addr()], &flags);
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(&inside.site, &proxy, Http::One).await);
    }
    let asks = clients.iter_mut().map(|client| client.get("/big"));
    for answer in futures_util::future::join_all(asks).await {
        assert_eq!(answer.body.len(), 1024 * 1024);
    }
    assert_eq!(backend.connections().1, 1, "the most at once");
}

#[tokio::test]
async fn backends_that_require_a_certificate_are_shown_one() {
    let inside = Inside::new();
    let (leaf, partners) = (inside.leaf(), TestCa::new("partners"));
    let own = partners.issue(Leaf::client("proxy"));
    let dir = inside.site.dir();
    let bundle = dir.write("client.pem", own.bundle_pem());
    let (cert, key) = (dir.write("own.crt", own.chain_pem()), dir.write("own.key", own.key_pem()));
    let [bundle, cert, key] = [bundle, cert, key].map(|path| path.to_str().unwrap().to_owned());
    for version in [&TLS12, &TLS13] {
        let presents = Presents::new(&leaf).requires(&partners).version(version);
        for flags in
            [&["--backend-cert", &bundle][..], &["--backend-cert", &cert, "--backend-key", &key]]
        {
            let backend = SecureBackend::start("mutual", &presents).await;
            let proxy = inside.proxy(&[backend.addr()], flags);
            let mut client = Client::connect(&inside.site, &proxy, Http::One).await;
            assert_eq!(client.get("/").await.text(), "mutual");
            assert_eq!(backend.requests_of(Some(&own)), 1);
        }
        let backend = SecureBackend::start("mutual", &presents).await;
        let proxy = inside.proxy(&[backend.addr()], &["--retries", "0"]);
        let mut client = Client::connect(&inside.site, &proxy, Http::One).await;
        let answer = client.post("/", full("x")).await;
        assert_eq!(answer.status, 502, "{version:?}");
        eventually("the log says why", || proxy.stderr().contains("requires a client certificate"))
            .await;
    }
}

#[tokio::test]
async fn each_backend_may_have_a_name_of_its_own() {
    let inside = Inside::new();
    let leaves = ["web1.internal", "web2.internal"].map(|name| inside.ca.issue(Leaf::server(name)));
    let one = SecureBackend::start("one", &Presents::new(&leaves[0])).await;
    let two = SecureBackend::start("two", &Presents::new(&leaves[1])).await;
    let certs = inside.site.certs().to_str().unwrap();
    let backends = [format!("one={}", one.addr()), format!("two={},sni=web2.internal", two.addr())];
    let proxy = Proxy::start(&[
        "--mode",
        "reencrypt",
        "--certs",
        certs,
        "--backend-ca",
        &inside.ca_file,
        "--backend",
        &backends[0],
        "--backend",
        &backends[1],
        "--backend-name",
        "web1.internal",
        "--retries",
        "0",
    ]);
    let mut client = Client::connect(&inside.site, &proxy, Http::One).await;
    for _ in 0..4 {
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test]
async fn a_route_may_be_reencrypted_beside_others() {
    let inside = Inside::new();
    let leaf = inside.leaf();
    let plain = bartizan_testkit::HttpBackend::start("plain").await;
    let secure = SecureBackend::start("secure", &Presents::new(&leaf)).await;
    let route = format!("localhost=reencrypt:{}", secure.addr());
    let flags = ["--route", &route, "--backend-ca", &inside.ca_file, "--backend-name", NAME];
    let proxy = inside.site.proxy(&[plain.addr()], &flags);
    let mut client = Client::connect(&inside.site, &proxy, Http::Two).await;
    assert_eq!(client.get("/").await.backend(), "secure");
    assert_eq!(plain.requests(), 0);
}

#[tokio::test]
async fn pins_are_asked_for_as_well_as_the_chain_or_in_its_place() {
    let inside = Inside::new();
    let (leaf, stranger) = (inside.leaf(), TestCa::new("stranger").issue(Leaf::server("else")));
    let good = SecureBackend::start("good", &Presents::new(&leaf)).await;
    let strange = SecureBackend::start("strange", &Presents::new(&stranger)).await;
    let status = async |backend: &SecureBackend, flags: &[&str], verified: bool| {
        let proxy = if verified {
            inside.proxy(&[backend.addr()], flags)
        } else {
            inside.site.proxy(&[backend.addr()], &[&["--mode", "reencrypt"], flags].concat())
        };
        let mut client = Client::connect(&inside.site, &proxy, Http::One).await;
        client.get("/").await.status.as_u16()
    };
    let (own, other) = (pin(&leaf), pin(&stranger));
    assert_eq!(status(&good, &["--backend-pin", &own], true).await, 200);
    assert_eq!(status(&good, &["--backend-pin", &other, "--backend-pin", &own], true).await, 200);
    assert_eq!(status(&good, &["--backend-pin", &other], true).await, 502);
    assert_eq!(status(&strange, &["--backend-pin", &other], true).await, 502, "its chain");
    let no_verify = "--dangerous-no-verify";
    assert_eq!(status(&strange, &[no_verify], false).await, 200);
    assert_eq!(status(&strange, &[no_verify, "--backend-pin", &other], false).await, 200);
    assert_eq!(status(&strange, &[no_verify, "--backend-pin", &own], false).await, 502);
}

/// The key's digest, as pins are written.
fn pin(minted: &Minted) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &minted.spki_der());
    format!("sha256:{}", base64::engine::general_purpose::STANDARD.encode(digest))
}

/// Answers each request with a body that ends with the connection, which ends with or without
/// close_notify.
async fn close_delimited(config: Arc<ServerConfig>, orderly: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut tls = acceptor.accept(tcp).await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && tls.read_buf(&mut head).await.unwrap() > 0 {}
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of").await;
                let _ = tls.flush().await;
                if orderly {
                    let _ = tls.shutdown().await;
                } else {
                    let _ = tls.get_mut().0.shutdown().await;
                }
                let _ = tls.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    addr
}

/// HAProxy and nginx pass both on as complete.
#[tokio::test]
async fn an_answer_that_ends_without_close_notify_is_not_complete() {
    let inside = Inside::new();
    let config = inside.leaf().server_config(&["http/1.1"]);
    let whole = close_delimited(Arc::clone(&config), true).await;
    let cut = close_delimited(config, false).await;
    for http in Http::BOTH {
        let proxy = inside.proxy(&[whole], &[]);
        let mut client = Client::connect(&inside.site, &proxy, http).await;
        assert_eq!(client.get("/").await.text(), "half of", "{http:?}");
        let proxy = inside.proxy(&[cut], &[]);
        let mut client = Client::connect(&inside.site, &proxy, http).await;
        client.ask(request("GET", "/", empty())).await.unwrap_err();
    }
}

/// HAProxy's `sni-auto`: the backend's name follows the request's host, and so does what is verified.
#[tokio::test]
async fn the_name_may_follow_the_requests_host() {
    let ca = TestCa::new("backends");
    let leaf = ca.issue(Leaf::server("a.internal"));
    let backend = SecureBackend::start("one", &Presents::new(&leaf)).await;
    let roots = PemSource::memory("ca.pem", ca.cert_pem().into_bytes());
    let originate = TlsOriginateLayer::new(ServerTrust::from_pem(roots).unwrap());
    let addr = backend.addr().to_string();
    let cluster = Cluster::builder("web").backend("one", &addr).build().unwrap();
    let policy = Arc::new(RoundRobin::new());
    let by_host = PerHost::new(10, move |host: &str| {
        ServiceBuilder::new()
            .layer(BalanceLayer::new(cluster.clone(), Arc::clone(&policy)).retries(0))
            .layer(HttpPoolLayer::new())
            .layer(originate.clone().server_name(host))
            .service(TcpDial::new())
    });
    let ask = async |host: &str| {
        let request = http::Request::get("/").header("host", host);
        by_host.clone().oneshot(request.body(RequestBody::default()).unwrap()).await
    };
    for host in ["a.internal", "A.Internal:8443", "a.internal."] {
        assert_eq!(ask(host).await.unwrap().status(), 200, "{host}");
    }
    // A connection that is kept for another name is not for this one.
    let error = ask("b.internal").await.unwrap_err();
    assert!(WrongIdentity::is_behind(&*error), "{error:?}");
    assert_eq!(backend.handshakes().0, 1);
}
