use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use bartizan_balance::{Backend, CertificateProbe};
use bartizan_net::clock::{Clock, SystemClock};
use bartizan_net::{DialledStream, ErrorChain, TcpDial, WrongIdentity};
use bartizan_testkit::{Crl, Fault, Leaf, Minted, Misbehaving, TestCa, TestDir, refused_addr};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tower::{ServiceExt, service_fn};

use super::*;
use crate::pem_source::PemSource;
use crate::{CertificateProblem, Identity, Pin, RemoteSigner, SignRequest, Signature};

const NAME: &str = "web.internal";

/// What a server tells of a connection after its handshake.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    resumed: bool,
    sni: Option<String>,
    client: Option<Vec<u8>>,
}

/// A server that sends one byte to whoever completes the handshake, and reads until the end.
struct Server {
    address: Address,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    seen: mpsc::UnboundedReceiver<Result<Seen, String>>,
    connections: Arc<AtomicUsize>,
}

impl Server {
    async fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().into();
        let (tell, seen) = mpsc::unbounded_channel();
        let config = Arc::new(Mutex::new(Arc::new(config)));
        let connections = Arc::new(AtomicUsize::new(0));
        let (current, count) = (Arc::clone(&config), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((io, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let acceptor = TlsAcceptor::from(Arc::clone(&current.lock().unwrap()));
                let tell = tell.clone();
                tokio::spawn(async move {
                    let mut tls = match acceptor.accept(io).await {
                        Ok(tls) => tls,
                        Err(error) => return drop(tell.send(Err(error.to_string()))),
                    };
                    let session = tls.get_ref().1;
                    let _ = tell.send(Ok(Seen {
                        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                        sni: session.server_name().map(str::to_owned),
                        client: session.peer_certificates().map(|chain| chain[0].to_vec()),
                    }));
                    let _ = tls.write_all(b"!").await;
                    let _ = tls.read_to_end(&mut Vec::new()).await;
                });
            }
        });
        Self { address, config, seen, connections }
    }

    fn serve(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
    }

    async fn saw(&mut self) -> Seen {
        self.seen.recv().await.unwrap().unwrap()
    }
}

fn versions(
    only: Option<&'static SupportedProtocolVersion>,
) -> Vec<&'static SupportedProtocolVersion> {
    only.map_or_else(|| vec![&TLS13, &TLS12], |only| vec![only])
}

fn config(
    leaf: &Minted,
    clients: Option<&TestCa>,
    only: Option<&'static SupportedProtocolVersion>,
) -> ServerConfig {
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions(only))
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(ca.roots()), provider)
                .build()
                .unwrap(),
        ),
    };
    builder.with_single_cert(leaf.chain_der(), leaf.key_der()).unwrap()
}

fn trust(ca: &TestCa) -> ServerTrust {
    ServerTrust::builder().roots(memory("ca.pem", &ca.cert_pem())).load().unwrap()
}

fn memory(name: &str, text: &str) -> PemSource {
    PemSource::memory(name, text.as_bytes())
}

fn identity(minted: &Minted) -> Identity {
    Identity::from_pem("client.pem", minted.bundle_pem().as_bytes()).unwrap()
}

fn layer(ca: &TestCa) -> TlsOriginateLayer {
    TlsOriginateLayer::new(trust(ca)).server_name(NAME)
}

async fn dial(
    layer: &TlsOriginateLayer,
    address: &Address,
) -> Result<OriginatedStream<tokio::net::TcpStream>, OriginateError> {
    layer.layer(TcpDial::new()).oneshot(address.clone()).await
}

/// Dials, reads what comes and closes in an orderly way.
async fn visit(layer: &TlsOriginateLayer, address: &Address) {
    let mut stream = dial(layer, address).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'!');
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_backend_that_proves_its_name_is_connected_to() {
    let ca = TestCa::new("backends");
    let leaf = ca.issue(Leaf::server(NAME));
    let mut offered = config(&leaf, None, None);
    offered.alpn_protocols = vec![b"h2".to_vec()];
    let mut server = Server::start(offered).await;
    let stream = dial(&layer(&ca).alpn(["h2", "http/1.1"]), &server.address).await.unwrap();
    assert_eq!(stream.alpn(), Some(&b"h2"[..]));
    let peer = stream.peer_identity().unwrap();
    assert!(peer.not_after.unwrap() > SystemTime::UNIX_EPOCH);
    assert_eq!(
        peer.leaf_sha256[..],
        *aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf.cert_der()).as_ref()
    );
    assert!(!stream.validity().is_over());
    assert_eq!(server.saw().await, Seen { resumed: false, sni: Some(NAME.into()), client: None });
}

#[tokio::test]
async fn without_a_name_the_address_has_to_be_in_the_certificate_and_is_not_sent() {
    let ca = TestCa::new("backends");
    let by_ip = ca.issue(Leaf::new("web").ip([127, 0, 0, 1]).for_servers());
    let mut server = Server::start(config(&by_ip, None, None)).await;
    let nameless = TlsOriginateLayer::new(trust(&ca));
    dial(&nameless, &server.address).await.unwrap();
    assert_eq!(server.saw().await.sni, None);
    server.serve(config(&ca.issue(Leaf::server(NAME)), None, None));
    let error = dial(&nameless.resume(false), &server.address).await.unwrap_err();
    assert!(matches!(error.problem(), Some(CertificateProblem::WrongName { .. })), "{error:?}");
}

/// What each kind of fault is told as. The names are those of the table in the guide.
#[tokio::test]
async fn each_fault_of_a_certificate_has_its_own_error() {
    let (ca, other) = (TestCa::new("backends"), TestCa::new("others"));
    let day = Duration::from_secs(86_400);
    let now = SystemClock.now();
    let good = || Leaf::server(NAME);
    let revoked = ca.issue(good());
    let list = ca.crl(Crl::new().revoke(&revoked));
    let cases: [(&str, Minted); 6] = [
        ("Untrusted", other.issue(good())),
        ("WrongName", ca.issue(Leaf::server("else.internal"))),
        ("Expired", ca.issue(good().not_before(now - 2 * day).not_after(now - day))),
        ("NotYetValid", ca.issue(good().not_before(now + day))),
        ("Revoked", revoked),
        ("PinMismatch", ca.issue(good())),
    ];
    let pin = Pin::spki_sha256("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
    for (expected, leaf) in cases {
        let server = Server::start(config(&leaf, None, None)).await;
        let mut trust = ServerTrust::builder().roots(memory("ca.pem", &ca.cert_pem()));
        trust = match expected {
            "Revoked" => trust.crl(memory("ca.crl", &list)),
            "PinMismatch" => trust.pin(pin),
            _ => trust,
        };
        let layer = TlsOriginateLayer::new(trust.load().unwrap()).server_name(NAME);
        let error = dial(&layer, &server.address).await.unwrap_err();
        let problem = error.problem().unwrap_or_else(|| panic!("{expected}: {error:?}"));
        assert!(format!("{problem:?}").starts_with(expected), "{expected}: {problem:?}");
        assert!(WrongIdentity::is_behind(&error), "{expected}");
        let text = ErrorChain(&error).to_string();
        for told in [&server.address.to_string(), NAME, "presented", "issue"] {
            assert!(text.contains(told), "{expected}: {told} is not in: {text}");
        }
    }
}

/// A server that answers a ClientHello as servers of plain HTTP do.
async fn plaintext() -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().into();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let _ = io.read(&mut [0; 4096]).await;
            let _ = io.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    address
}

#[tokio::test]
async fn what_is_wrong_with_the_handshake_has_its_own_error() {
    let ca = TestCa::new("backends");
    let leaf = ca.issue(Leaf::server(NAME));
    let plain = plaintext().await;
    let closes = Misbehaving::start(Fault::CloseOnAccept).await;
    let hangs = Misbehaving::start(Fault::Hang).await;
    let mut speaks_other = config(&leaf, None, None);
    speaks_other.alpn_protocols = vec![b"imap".to_vec()];
    let other_protocol = Server::start(speaks_other).await;
    let old = Server::start(config(&leaf, None, Some(&TLS12))).await;
    let layer = layer(&ca).alpn(["h2"]).handshake_timeout(Duration::from_millis(200));
    let fails = async |layer: &TlsOriginateLayer, address: Address| {
        let error = dial(layer, &address).await.unwrap_err();
        assert!(!WrongIdentity::is_behind(&error), "{error:?}");
        assert!(ErrorChain(&error).to_string().contains(&address.to_string()), "{error}");
        error
    };
    use OriginateError as E;
    let error = fails(&layer, plain).await;
    assert!(matches!(error, E::NotTls { .. }), "{error:?}");
    let error = fails(&layer, closes.addr().into()).await;
    assert!(matches!(error, E::Closed { .. } | E::Handshake { .. }), "{error:?}");
    let error = fails(&layer, hangs.addr().into()).await;
    assert!(matches!(error, E::Timeout { .. }), "{error:?}");
    let error = fails(&layer, refused_addr().into()).await;
    assert!(matches!(error, E::Dial { .. }), "{error:?}");
    let error = fails(&layer, other_protocol.address.clone()).await;
    assert!(
        matches!(&error, E::Refused { alert, .. } if alert == "no_application_protocol"),
        "{error:?}"
    );
    let error = fails(&layer.clone().tls13_only(), old.address.clone()).await;
    assert!(matches!(error, E::Refused { .. } | E::Incompatible { .. }), "{error:?}");
    dial(&layer, &old.address).await.unwrap();
}

#[tokio::test]
async fn a_refused_client_certificate_is_a_failed_dial_in_both_versions() {
    let (ca, partners, strangers) =
        (TestCa::new("backends"), TestCa::new("partners"), TestCa::new("strangers"));
    let leaf = ca.issue(Leaf::server(NAME));
    for version in [&TLS12, &TLS13] {
        let mut server = Server::start(config(&leaf, Some(&partners), Some(version))).await;
        let error = dial(&layer(&ca), &server.address).await.unwrap_err();
        assert!(
            matches!(error, OriginateError::ClientCertificate { shown: false, .. }),
            "{version:?}: {error:?}"
        );
        let stranger = identity(&strangers.issue(Leaf::client("stranger")));
        let error =
            dial(&layer(&ca).client_credentials(stranger), &server.address).await.unwrap_err();
        assert!(
            matches!(error, OriginateError::ClientCertificate { shown: true, .. }),
            "{version:?}: {error:?}"
        );
        for _ in 0..2 {
            server.seen.recv().await.unwrap().unwrap_err();
        }
        let minted = partners.issue(Leaf::client("proxy"));
        let own = layer(&ca).client_credentials(identity(&minted));
        dial(&own, &server.address).await.unwrap();
        assert_eq!(server.saw().await.client.as_deref(), Some(&minted.cert_der()[..]));
        let elsewhere = layer(&ca).client_credentials_of(refused_addr().into(), identity(&minted));
        dial(&elsewhere, &server.address).await.unwrap_err();
    }
}

/// Reconnecting costs a resumed handshake: with client certificates too, in both versions.
#[tokio::test]
async fn over_99_percent_of_reconnects_resume() {
    const RECONNECTS: usize = 150;
    let (ca, partners) = (TestCa::new("backends"), TestCa::new("partners"));
    let leaf = ca.issue(Leaf::server(NAME));
    let own = identity(&partners.issue(Leaf::client("proxy")));
    for version in [&TLS12, &TLS13] {
        for mutual in [false, true] {
            let clients = mutual.then_some(&partners);
            let mut server = Server::start(config(&leaf, clients, Some(version))).await;
            let layer = layer(&ca).client_credentials(own.clone());
            visit(&layer, &server.address).await;
            assert!(!server.saw().await.resumed);
            let mut resumed = 0;
            for _ in 0..RECONNECTS {
                visit(&layer, &server.address).await;
                let seen = server.saw().await;
                resumed += usize::from(seen.resumed);
                assert_eq!(seen.client.is_some(), mutual);
            }
            println!("{:?}, mutual {mutual}: {resumed} of {RECONNECTS} resumed", version.version);
            assert!(resumed * 100 > RECONNECTS * 99, "{resumed}");
        }
    }
}

#[tokio::test]
async fn backends_of_one_name_keep_their_sessions_apart() {
    let ca = TestCa::new("backends");
    let leaf = ca.issue(Leaf::server(NAME));
    let mut one = Server::start(config(&leaf, None, None)).await;
    let mut two = Server::start(config(&leaf, None, None)).await;
    let layer = layer(&ca);
    for turn in 0..5 {
        for server in [&mut one, &mut two] {
            visit(&layer, &server.address).await;
            assert_eq!(server.saw().await.resumed, turn > 0, "turn {turn}");
        }
    }
}

#[tokio::test]
async fn a_new_identity_ends_sessions_and_connections_of_the_one_before() {
    let (ca, partners) = (TestCa::new("backends"), TestCa::new("partners"));
    let dir = TestDir::new();
    let (first, second) =
        (partners.issue(Leaf::client("first")), partners.issue(Leaf::client("second")));
    let path = dir.write("client.pem", first.bundle_pem());
    let credentials = ClientCredentials::from_pem_file(path).unwrap();
    let mut server =
        Server::start(config(&ca.issue(Leaf::server(NAME)), Some(&partners), None)).await;
    let layer = layer(&ca).client_credentials(credentials.clone());
    visit(&layer, &server.address).await;
    server.saw().await;
    let open = dial(&layer, &server.address).await.unwrap();
    assert!(server.saw().await.resumed && !open.validity().is_over());
    dir.write("client.pem", second.bundle_pem());
    assert_eq!(credentials.reload().unwrap(), 2);
    assert!(open.validity().is_over());
    visit(&layer, &server.address).await;
    let seen = server.saw().await;
    assert!(!seen.resumed);
    assert_eq!(seen.client.as_deref(), Some(&second.cert_der()[..]));
    dir.write("client.pem", "-----BEGIN CERTIFICATE-----\n");
    assert!(credentials.reload().is_err());
    visit(&layer, &server.address).await;
    assert!(server.saw().await.resumed, "the last good one stays");
}

#[tokio::test]
async fn new_roots_end_sessions_and_connections_of_the_ones_before() {
    let (ca, next) = (TestCa::new("backends"), TestCa::new("next"));
    let dir = TestDir::new();
    let path = dir.write("ca.pem", ca.cert_pem());
    let trust = ServerTrust::builder().roots(path.as_path()).load().unwrap();
    let layer = TlsOriginateLayer::new(trust.clone()).server_name(NAME);
    let server = Server::start(config(&ca.issue(Leaf::server(NAME)), None, None)).await;
    visit(&layer, &server.address).await;
    let open = dial(&layer, &server.address).await.unwrap();
    dir.write("ca.pem", next.cert_pem());
    trust.reload().unwrap();
    assert!(open.validity().is_over());
    let error = dial(&layer, &server.address).await.unwrap_err();
    assert!(error.problem().is_some(), "resumed under roots that are gone: {error:?}");
}

/// A clock that is set.
#[derive(Clone, Debug)]
struct Set(Arc<Mutex<SystemTime>>);

impl Clock for Set {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

#[tokio::test]
async fn a_session_is_not_resumed_beyond_the_end_of_its_certificate() {
    let ca = TestCa::new("backends");
    let end = SystemClock.now() + Duration::from_secs(1_000);
    let server =
        Server::start(config(&ca.issue(Leaf::server(NAME).not_after(end)), None, None)).await;
    let clock = Set(Arc::new(Mutex::new(SystemClock.now())));
    let layer = layer(&ca).clock(clock.clone());
    visit(&layer, &server.address).await;
    *clock.0.lock().unwrap() = end + Duration::from_secs(5);
    let error = dial(&layer, &server.address).await.unwrap_err();
    assert!(matches!(error.problem(), Some(CertificateProblem::Expired { .. })), "{error:?}");
}

#[tokio::test]
async fn a_session_is_not_resumed_beyond_the_end_of_a_revocation_list() {
    let ca = TestCa::new("backends");
    let end = SystemClock.now() + Duration::from_secs(1_000);
    let crl = memory("ca.crl", &ca.crl(Crl::new().next_update(end)));
    let trust =
        ServerTrust::builder().roots(memory("ca.pem", &ca.cert_pem())).crl(crl).load().unwrap();
    let server = Server::start(config(&ca.issue(Leaf::server(NAME)), None, None)).await;
    let clock = Set(Arc::new(Mutex::new(SystemClock.now())));
    let layer = TlsOriginateLayer::new(trust).server_name(NAME).clock(clock.clone());
    visit(&layer, &server.address).await;
    *clock.0.lock().unwrap() = end + Duration::from_secs(5);
    let error = dial(&layer, &server.address).await.unwrap_err();
    assert!(error.problem().is_some(), "{error:?}");
}

#[tokio::test]
async fn a_session_is_not_resumed_beyond_the_end_of_an_intermediate() {
    let ca = TestCa::new("backends");
    let end = SystemClock.now() + Duration::from_secs(1_000);
    let below = ca.intermediate_lasting("below", end);
    let server = Server::start(config(&below.issue(Leaf::server(NAME)), None, None)).await;
    let clock = Set(Arc::new(Mutex::new(SystemClock.now())));
    let layer = layer(&ca).clock(clock.clone());
    visit(&layer, &server.address).await;
    *clock.0.lock().unwrap() = end + Duration::from_secs(5);
    let error = dial(&layer, &server.address).await.unwrap_err();
    assert!(matches!(error.problem(), Some(CertificateProblem::Expired { .. })), "{error:?}");
    server.serve(config(&ca.issue(Leaf::server(NAME)), None, None));
    dial(&layer, &server.address).await.unwrap();
}

/// Two backends behind one address, of which one has been given a new certificate.
#[tokio::test]
async fn a_session_is_not_resumed_beyond_the_end_of_a_certificate_that_another_one_outlives() {
    let ca = TestCa::new("backends");
    let end = SystemClock.now() + Duration::from_secs(1_000);
    let old = Arc::new(config(&ca.issue(Leaf::server(NAME).not_after(end)), None, Some(&TLS13)));
    let renewed = Arc::new(config(&ca.issue(Leaf::server(NAME)), None, Some(&TLS13)));
    let mut server = Server::start(config(&ca.issue(Leaf::server(NAME)), None, None)).await;
    let clock = Set(Arc::new(Mutex::new(SystemClock.now())));
    let layer = layer(&ca).clock(clock.clone()).expiry(ConnectionExpiry::never());
    for config in [&old, &renewed] {
        *server.config.lock().unwrap() = Arc::clone(config);
        visit(&layer, &server.address).await;
        assert!(!server.saw().await.resumed);
    }
    *clock.0.lock().unwrap() = end + Duration::from_secs(5);
    *server.config.lock().unwrap() = old;
    // Each takes a ticket, those of the renewed certificate first, and reads no new one.
    for _ in 0..8 {
        let error = dial(&layer, &server.address).await.map(|stream| {
            let kind = stream.get_ref().1.handshake_kind();
            let expired = stream.peer_identity().and_then(|peer| peer.not_after) <= Some(end);
            (kind, expired)
        });
        let problem = error.as_ref().map_err(OriginateError::problem);
        assert!(matches!(problem, Err(Some(CertificateProblem::Expired { .. }))), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_retired_before_its_certificate_ends_and_cut_at_the_end() {
    let ca = TestCa::new("backends");
    let now = SystemClock.now();
    let leaf = ca.issue(Leaf::server(NAME).not_after(now + Duration::from_secs(1_000)));
    let acceptor = TlsAcceptor::from(Arc::new(config(&leaf, None, None)));
    let connect = async |expiry| {
        let (near, far) = duplex(64 * 1024);
        let acceptor = acceptor.clone();
        let serve = tokio::spawn(async move { acceptor.accept(far).await.unwrap() });
        let near = Arc::new(Mutex::new(Some(near)));
        let dial = service_fn(move |_: Address| {
            let near = near.lock().unwrap().take().unwrap();
            async move { Ok::<_, std::io::Error>(near) }
        });
        let layer = layer(&ca).expiry(expiry).clock(now);
        let stream = layer.layer(dial).oneshot(refused_addr().into()).await.unwrap();
        (stream, serve.await.unwrap())
    };
    let (mut stream, _server) = connect(ConnectionExpiry::default()).await;
    tokio::time::advance(Duration::from_secs(890)).await;
    assert!(!stream.validity().is_over(), "earlier than by a tenth");
    let mut byte = [0];
    let cut = tokio::spawn(async move { stream.read(&mut byte).await.unwrap_err() });
    let error = cut.await.unwrap();
    assert!(error.get_ref().unwrap().is::<CertificateEnded>(), "{error:?}");
    let (stream, _server) = connect(ConnectionExpiry::default().without_cut()).await;
    let (lasting, _server) = connect(ConnectionExpiry::never()).await;
    tokio::time::advance(Duration::from_secs(1_002)).await;
    assert!(stream.validity().is_over() && !lasting.validity().is_over());
}

#[tokio::test]
async fn a_backend_without_tickets_is_waited_for_a_few_times_only() {
    let (ca, partners) = (TestCa::new("backends"), TestCa::new("partners"));
    let mut silent = config(&ca.issue(Leaf::server(NAME)), Some(&partners), Some(&TLS13));
    silent.send_tls13_tickets = 0;
    silent.session_storage = Arc::new(NoServerSessionStorage {});
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = listener.local_addr().unwrap().into();
    let acceptor = TlsAcceptor::from(Arc::new(silent));
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((io, _)) = listener.accept().await {
            open.push(acceptor.accept(io).await.unwrap());
        }
    });
    let own = identity(&partners.issue(Leaf::client("proxy")));
    let layer = layer(&ca).client_credentials(own);
    let start = tokio::time::Instant::now();
    for _ in 0..6 {
        dial(&layer, &address).await.unwrap();
    }
    let waits = 3 * Duration::from_millis(300);
    assert!(start.elapsed() >= waits, "{:?}", start.elapsed());
    let prepared = layer.shared.prepared(&address, &ServerName::try_from(NAME).unwrap()).unwrap();
    assert!(prepared.sends_no_tickets());
    assert_eq!(prepared.silences.load(Ordering::Relaxed), 3, "not waited for again");
}

/// One slow handshake does not tell that tickets never come.
#[tokio::test]
async fn a_backend_that_was_slow_once_is_waited_for_again() {
    let (ca, partners, strangers) =
        (TestCa::new("backends"), TestCa::new("partners"), TestCa::new("strangers"));
    let leaf = ca.issue(Leaf::server(NAME));
    let server = Server::start(config(&leaf, Some(&partners), Some(&TLS13))).await;
    let own = identity(&partners.issue(Leaf::client("proxy")));
    let layer = layer(&ca).client_credentials(own);
    let name = ServerName::try_from(NAME).unwrap();
    let prepared = layer.shared.prepared(&server.address, &name).unwrap();
    // As waits do that were in vain.
    prepared.silences.store(3, Ordering::Relaxed);
    assert!(prepared.sends_no_tickets());
    visit(&layer, &server.address).await;
    // Other sessions, so that the next handshake is a whole one.
    server.serve(config(&leaf, Some(&strangers), Some(&TLS13)));
    let error = dial(&layer, &server.address).await.unwrap_err();
    assert!(matches!(error, OriginateError::ClientCertificate { .. }), "{error:?}");
}

#[tokio::test]
async fn a_dropped_dial_closes_its_connection() {
    let hangs = Misbehaving::start(Fault::Hang).await;
    let ca = TestCa::new("backends");
    let layer = layer(&ca);
    let address = Address::from(hangs.addr());
    {
        let mut dial = std::pin::pin!(dial(&layer, &address));
        tokio::select! {
            done = &mut dial => panic!("{done:?}"),
            _ = hangs.until(|counts| counts.open == 1) => {}
        }
    }
    hangs.until(|counts| counts.open == 0).await;
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_before_anything_is_dialled() {
    let ca = TestCa::new("backends");
    let server = Server::start(config(&ca.issue(Leaf::server(NAME)), None, None)).await;
    let layer = layer(&ca).server_name("not a name");
    let error = dial(&layer, &server.address).await.unwrap_err();
    assert!(matches!(error, OriginateError::BadName { .. }), "{error:?}");
    assert_eq!(server.connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_client_certificate_may_have_its_key_elsewhere() {
    let (ca, partners) = (TestCa::new("backends"), TestCa::new("partners"));
    let minted = partners.issue(Leaf::client("proxy"));
    let key = default_provider().key_provider.load_private_key(minted.key_der()).unwrap();
    let sign = move |request: SignRequest| {
        let signer = key.choose_scheme(&[request.scheme]).unwrap();
        let signature = signer.sign(&request.message).map(Signature);
        async move { signature }
    };
    let remote =
        Identity::with_signer("client.pem", minted.chain_pem().as_bytes(), service_fn(sign))
            .unwrap();
    let hangs = service_fn(|_: SignRequest| std::future::pending::<Result<Signature, String>>());
    let hangs = RemoteSigner::new(hangs).timeout(Duration::from_millis(50));
    let hanging =
        Identity::with_signer("client.pem", minted.chain_pem().as_bytes(), hangs).unwrap();
    for version in [&TLS12, &TLS13] {
        let leaf = ca.issue(Leaf::server(NAME));
        let mut server = Server::start(config(&leaf, Some(&partners), Some(version))).await;
        let layer = layer(&ca);
        visit(&layer.clone().client_credentials(remote.clone()), &server.address).await;
        assert_eq!(server.saw().await.client.as_deref(), Some(&minted.cert_der()[..]));
        let late = layer.client_credentials(hanging.clone());
        let error = dial(&late, &server.address).await.unwrap_err();
        assert!(
            matches!(&error, OriginateError::Signer { source, .. } if source.is_late()),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_probe_knows_how_long_the_certificate_is_good() {
    let ca = TestCa::new("backends");
    let days = Duration::from_secs(3 * 86_400 + 3600);
    let leaf = ca.issue(Leaf::server(NAME).not_after(SystemClock.now() + days));
    let server = Server::start(config(&leaf, None, None)).await;
    let probe = CertificateProbe::new(layer(&ca).layer(TcpDial::new()));
    let (certificates, backend) =
        (probe.certificates(), Arc::new(Backend::new("a", server.address.clone())));
    for (required, passes) in [(3, true), (4, false)] {
        let verdict = probe.clone().require_days(required).oneshot(Arc::clone(&backend)).await;
        assert_eq!(verdict.unwrap().is_pass(), passes, "{required} days");
        assert_eq!(certificates.of(&backend).unwrap().days_left, 3);
    }
    let stranger = layer(&TestCa::new("others")).layer(TcpDial::new());
    let verdict = CertificateProbe::new(stranger).oneshot(backend).await.unwrap();
    assert!(!verdict.is_pass());
}
