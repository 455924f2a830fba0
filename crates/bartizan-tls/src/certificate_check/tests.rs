use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bartizan_balance::{Backend, Checks, Cluster, DialProbe, InitState};
use bartizan_net::{ErrorChain, TcpDial, WrongIdentity};
use bartizan_testkit::{Fault, Leaf, Minted, Misbehaving, TestCa, refused_addr};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::*;
use crate::pem_source::PemSource;
use crate::{Fingerprint, ServerRoots};

const NAME: &str = "shop.example.test";

/// A server whose certificate can be changed, and which tells how each connection ended.
struct Server {
    addr: SocketAddr,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    handshakes: Arc<AtomicUsize>,
    ends: mpsc::UnboundedReceiver<Result<HandshakeKind, String>>,
}

impl Server {
    async fn start(config: Arc<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, ends) = mpsc::unbounded_channel();
        let config = Arc::new(Mutex::new(config));
        let handshakes = Arc::new(AtomicUsize::new(0));
        let (current, count) = (Arc::clone(&config), Arc::clone(&handshakes));
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(Arc::clone(&current.lock().unwrap()));
                let end = async {
                    let mut tls = acceptor.accept(io).await?;
                    count.fetch_add(1, Ordering::Relaxed);
                    tls.read_to_end(&mut Vec::new()).await?;
                    Ok(tls.get_ref().1.handshake_kind().unwrap())
                };
                let end: std::io::Result<_> = end.await;
                let _ = tell.send(end.map_err(|error| error.to_string()));
            }
        });
        Self { addr, config, handshakes, ends }
    }

    async fn of(leaf: &Minted) -> Self {
        Self::start(leaf.server_config(&["h2", "http/1.1"])).await
    }

    fn show(&self, leaf: &Minted) {
        *self.config.lock().unwrap() = leaf.server_config(&["h2"]);
    }
}

fn roots(ca: &TestCa) -> ServerRoots {
    ServerRoots::from_pem(PemSource::memory("ca.pem", ca.cert_pem().into_bytes())).unwrap()
}

fn layer(ca: &TestCa) -> CertificateCheckLayer {
    CertificateCheckLayer::new(roots(ca)).name(NAME)
}

async fn check(
    layer: &CertificateCheckLayer,
    addr: SocketAddr,
) -> Result<CheckedCertificate, CertificateCheckError> {
    layer.layer(TcpDial::new()).oneshot(Address::from(addr)).await
}

/// The problem of a certificate, which has to be marked as one.
async fn problem(layer: &CertificateCheckLayer, leaf: &Minted) -> CertificateProblem {
    let error = check(layer, Server::of(leaf).await.addr).await.unwrap_err();
    assert!(WrongIdentity::is_behind(&error), "{}", ErrorChain(&error));
    error.problem().unwrap().clone()
}

fn day(number: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(number * 86_400)
}

#[tokio::test]
async fn tells_what_was_presented_and_closes_politely() {
    let ca = TestCa::new("root");
    let leaf = Leaf::server(NAME).dns("*.Example.test").not_before(day(1)).not_after(day(30_100));
    let leaf = ca.intermediate("between").issue(leaf);
    let mut server = Server::of(&leaf).await;
    let found = check(&layer(&ca).clock(day(30_000)), server.addr).await.unwrap();
    assert_eq!((found.not_before, found.not_after, found.days_left), (day(1), day(30_100), 100));
    assert_eq!(found.names, [NAME, "*.example.test"]);
    assert!(found.is_h2());
    assert_eq!(found.leaf, Fingerprint::of(leaf.cert_der()));
    let chain: Vec<u8> = leaf.chain_der().iter().flat_map(|cert| cert.to_vec()).collect();
    assert_eq!(found.chain, Fingerprint::of(&chain));
    assert_ne!(found.spki, found.leaf);
    assert_eq!(server.ends.recv().await.unwrap(), Ok(HandshakeKind::Full));
}

#[tokio::test]
async fn a_certificate_that_is_wrong_is_marked_and_says_how() {
    use CertificateProblem as P;
    let ca = TestCa::new("root");
    let layer = layer(&ca).clock(day(20_000));
    let issue = |leaf: Leaf| ca.issue(leaf);
    let named = || Leaf::server(NAME);

    let found = problem(&layer, &issue(Leaf::server("other.test"))).await;
    assert!(
        matches!(&found, P::WrongName { expected, names }
        if expected == NAME && names.concat().contains("other.test")),
        "{found:?}"
    );
    // Another authority, also if it has the same name.
    for other in ["other", "root"] {
        let leaf = TestCa::new(other).issue(named());
        assert_eq!(problem(&layer, &leaf).await, P::Untrusted, "{other}");
    }
    let found = problem(&layer, &issue(named().not_after(day(19_999)))).await;
    assert!(matches!(&found, P::Expired { since: Some(_) }), "{found:?}");
    let found = problem(&layer, &issue(named().not_before(day(20_001)))).await;
    assert!(matches!(&found, P::NotYetValid { until: Some(_) }), "{found:?}");
}

#[tokio::test]
async fn too_few_days_left_are_wrong_only_if_that_is_set() {
    let ca = TestCa::new("root");
    let leaf = ca.issue(Leaf::server(NAME).not_after(day(20_010)));
    let layer = layer(&ca).clock(day(20_000));
    let server = Server::of(&leaf).await;
    assert_eq!(check(&layer, server.addr).await.unwrap().days_left, 10);
    assert!(check(&layer.clone().min_days_left(10), server.addr).await.is_ok());
    let found = problem(&layer.min_days_left(11), &leaf).await;
    assert!(matches!(found, CertificateProblem::TooFewDays { left: 10, least: 11, .. }));
}

fn asking_config(ca: &TestCa, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
    let provider = Arc::new(default_provider());
    let roots = Arc::new(ca.roots());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let leaf = ca.issue(Leaf::server(NAME));
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(leaf.chain_der(), leaf.key_der());
    Arc::new(config.unwrap())
}

#[tokio::test]
async fn a_server_that_demands_a_certificate_has_shown_its_own() {
    let ca = TestCa::new("root");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut server = Server::start(asking_config(&ca, version)).await;
        let found = check(&layer(&ca), server.addr).await.unwrap();
        assert_eq!(found.names, [NAME], "{version:?}");
        assert!(server.ends.recv().await.unwrap().is_err(), "it did demand one");
        let wrong = check(&layer(&ca).name("other.test"), server.addr).await.unwrap_err();
        assert!(WrongIdentity::is_behind(&wrong), "{version:?}");
    }
}

#[tokio::test]
async fn tls_1_2_alone_will_do() {
    let ca = TestCa::new("root");
    let leaf = ca.issue(Leaf::server(NAME));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(leaf.chain_der(), leaf.key_der());
    let server = Server::start(Arc::new(config.unwrap())).await;
    assert_eq!(check(&layer(&ca), server.addr).await.unwrap().alpn, None);
    assert_eq!(rustls::version::TLS12.version, ProtocolVersion::TLSv1_2);
}

#[tokio::test]
async fn every_handshake_is_a_full_one() {
    let ca = TestCa::new("root");
    let mut server = Server::of(&ca.issue(Leaf::server(NAME))).await;
    let check = layer(&ca).layer(TcpDial::new());
    for _ in 0..3 {
        check.clone().oneshot(Address::from(server.addr)).await.unwrap();
        assert_eq!(server.ends.recv().await.unwrap(), Ok(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn offers_the_protocols_that_are_set() {
    let ca = TestCa::new("root");
    let server = Server::of(&ca.issue(Leaf::server(NAME))).await;
    let h1 = check(&layer(&ca).alpn(["http/1.1"]), server.addr).await.unwrap();
    assert_eq!(h1.alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert!(!h1.is_h2());
    let none: [&str; 0] = [];
    assert_eq!(check(&layer(&ca).alpn(none), server.addr).await.unwrap().alpn, None);
    // A server that refuses what is offered says nothing against its certificate.
    let error = check(&layer(&ca).alpn(["smtp"]), server.addr).await.unwrap_err();
    assert!(matches!(error, CertificateCheckError::Handshake(_)), "{error:?}");
}

#[tokio::test]
async fn what_is_not_about_the_certificate_is_not_marked() {
    let layer = layer(&TestCa::new("root"));
    let refused = check(&layer, refused_addr()).await.unwrap_err();
    assert!(matches!(refused, CertificateCheckError::Dial(_)), "{refused:?}");
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_addr = plain.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut io, _) = plain.accept().await.unwrap();
        io.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        io.read_to_end(&mut Vec::new()).await
    });
    let closing = Misbehaving::start(Fault::CloseOnAccept).await;
    let resetting = Misbehaving::start(Fault::ResetOnAccept).await;
    for addr in [plain_addr, closing.addr(), resetting.addr()] {
        let error = check(&layer, addr).await.unwrap_err();
        assert!(matches!(error, CertificateCheckError::Handshake(_)), "{error:?}");
        assert!(!WrongIdentity::is_behind(&error));
    }
}

#[tokio::test]
async fn the_name_comes_from_the_target_and_has_to_be_one() {
    let ca = TestCa::new("root");
    let server = Server::of(&ca.issue(Leaf::server(NAME))).await;
    let check = |name: Option<&str>| {
        let backend = Backend::new("web1", server.addr.into());
        let backend = match name {
            Some(name) => backend.with_server_name(name),
            None => backend,
        };
        CertificateCheckLayer::new(roots(&ca)).layer(TcpDial::new()).oneshot(Arc::new(backend))
    };
    assert!(check(Some(NAME)).await.is_ok());
    let wrong = check(Some("other.test")).await.unwrap_err();
    assert!(wrong.problem().is_some());
    let none = check(None).await.unwrap_err();
    assert!(matches!(none, CertificateCheckError::NoName { .. }), "{none:?}");
    let bad = check(Some("no name")).await.unwrap_err();
    assert!(matches!(bad, CertificateCheckError::BadName { .. }), "{bad:?}");
}

#[tokio::test]
async fn one_that_differs_fails_and_passes_again_when_the_others_are_gone() {
    let ca = TestCa::new("root");
    let leaf = |from| ca.issue(Leaf::server(NAME).not_before(day(from)));
    let (new, old) = (Server::of(&leaf(20)).await, Server::of(&leaf(10)).await);
    let layer = layer(&ca).same_certificate(SameCertificate::enforce());
    for _ in 0..3 {
        check(&layer, new.addr).await.unwrap();
    }
    let error = check(&layer, old.addr).await.unwrap_err();
    assert!(matches!(error.problem(), Some(CertificateProblem::Different { .. })), "{error:?}");
    new.show(&TestCa::new("root").issue(Leaf::server(NAME)));
    assert!(check(&layer, new.addr).await.is_err());
    check(&layer, old.addr).await.unwrap();
}

async fn until(cluster: &Cluster, position: usize, is: bool) {
    let wait = async {
        while cluster.table().is_eligible(position) != is {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it never is");
}

#[tokio::test]
async fn a_cluster_never_picks_a_wrong_certificate_and_drops_one_after_a_single_check() {
    let ca = TestCa::new("root");
    let right = ca.issue(Leaf::server(NAME));
    let wrong = ca.issue(Leaf::server("other.test"));
    let (good, bad) = (Server::of(&right).await, Server::of(&wrong).await);
    let silent = Misbehaving::start(Fault::Hang).await;
    let web = Cluster::builder("web")
        .backend("good", &good.addr.to_string())
        .backend("bad", &bad.addr.to_string())
        .backend("silent", &silent.addr().to_string())
        .build()
        .unwrap();
    let probe = DialProbe::new(layer(&ca).layer(TcpDial::new()));
    let checks = Checks::new(probe).every(Duration::from_millis(20)).fall(u32::MAX).rise(2);
    let checks = checks.timeout(Duration::from_secs(2)).init_state(InitState::Down);
    let _checks = web.check(checks);
    assert_eq!(web.table().eligible_count(), 0);
    until(&web, 0, true).await;

    // Whatever `fall` is, the first check that sees another certificate takes it out.
    good.show(&wrong);
    until(&web, 0, false).await;
    assert!(!web.table().is_eligible(1) && !web.table().is_eligible(2));
    let before = good.handshakes.load(Ordering::Relaxed);
    good.show(&right);
    until(&web, 0, true).await;
    assert!(good.handshakes.load(Ordering::Relaxed) >= before + 2, "`rise` passes");
    assert_eq!(bad.handshakes.load(Ordering::Relaxed), 0);
}
