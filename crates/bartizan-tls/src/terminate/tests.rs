use std::io;

use bartizan_net::{ConnInfo, Drain, Phase, TlsInfo};
use bartizan_testkit::{Leaf, TestCa, Trickle};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, SupportedProtocolVersion,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_test::{assert_pending, assert_ready_err, assert_ready_ok};
use tower::service_fn;
use tower_test::mock;

use super::*;
use crate::Identity;

type Tls<IO = DuplexStream> = Conn<TlsStream<IO>>;
type Inner = mock::Handle<Tls, &'static str>;
type Stack = mock::Spawn<TlsTerminate<mock::Mock<Tls, &'static str>>>;

/// A layer that serves `localhost` and 127.0.0.1, and whom its clients have to trust.
fn layer() -> (TlsTerminateLayer, TestCa) {
    let ca = TestCa::new("test root");
    let site = ca.issue(Leaf::server("localhost").ip([127, 0, 0, 1]));
    let identity = Identity::from_pem("site.pem", site.bundle_pem().as_bytes()).unwrap();
    (TlsTerminateLayer::new(identity), ca)
}

fn stack() -> (Stack, Inner, TestCa) {
    let (layer, ca) = layer();
    let (stack, inner) = mock::spawn_layer(layer);
    (stack, inner, ca)
}

fn conn<IO>(io: IO) -> Conn<IO> {
    Conn::new(
        io,
        ConnInfo::new("192.0.2.1:5000".parse().unwrap(), "192.0.2.2:443".parse().unwrap()),
    )
}

fn client_of(ca: &TestCa, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(ca.roots())
        .with_no_client_auth();
    Arc::new(config)
}

fn name(name: &'static str) -> ServerName<'static> {
    name.try_into().unwrap()
}

/// A handshake of `client` with a server of this layer: what either side says of it.
///
/// The server greets after the handshake, so that the client has its tickets when this returns.
async fn shake<C, S>(
    layer: &TlsTerminateLayer,
    client: Arc<ClientConfig>,
    host: &'static str,
    (near, far): (C, S),
) -> (Result<TlsInfo, HandshakeError>, io::Result<()>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stack = layer.layer(service_fn(|conn: Tls<S>| async move {
        let info = conn.info().tls().cloned().unwrap();
        let mut stream = conn.into_io();
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        Ok::<_, io::Error>(info)
    }));
    let client = async {
        let mut stream = TlsConnector::from(client).connect(name(host), near).await?;
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting).await?;
        assert_eq!(greeting, "hello");
        Ok(())
    };
    tokio::join!(stack.call(conn(far)), client)
}

/// [`shake`] over a wire that holds a whole flight.
async fn info(layer: &TlsTerminateLayer, client: Arc<ClientConfig>, host: &'static str) -> TlsInfo {
    let (served, greeted) = shake(layer, client, host, duplex(65_536)).await;
    greeted.unwrap();
    served.unwrap()
}

/// The first flight of a client.
fn hello(ca: &TestCa) -> Vec<u8> {
    let mut client = ClientConnection::new(ca.client_config(&[]), name("localhost")).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[tokio::test]
async fn hands_the_decrypted_stream_to_the_ready_service() {
    let (mut stack, mut inner, ca) = stack();
    // Twice: `Mock` panics when called through a handle that was not polled ready, and this task
    // runs the server, so that such a panic fails the test at once.
    for _ in 0..2 {
        let (near, far) = duplex(4096);
        assert_ready_ok!(stack.poll_ready());
        let peer = async {
            let connect =
                TlsConnector::from(ca.client_config(&[])).connect(name("localhost"), near);
            let mut tls = connect.await.unwrap();
            tls.write_all(b"ping").await.unwrap();
            tls.flush().await.unwrap();
            let (conn, respond) = inner.next_request().await.unwrap();
            let mut got = [0; 4];
            conn.into_io().read_exact(&mut got).await.unwrap();
            respond.send_response("done");
            got
        };
        let (served, got) = tokio::join!(stack.call(conn(far)), peer);
        assert_eq!(&got, b"ping");
        assert_eq!(served.unwrap(), "done");
    }
}

#[tokio::test]
async fn addresses_and_drain_stay_with_the_connection() {
    let (mut stack, mut inner, ca) = stack();
    let (near, far) = duplex(4096);
    let drain = Drain::new();
    assert_ready_ok!(stack.poll_ready());
    let peer = async {
        let connect = TlsConnector::from(ca.client_config(&[])).connect(name("localhost"), near);
        let _tls = connect.await.unwrap();
        let (conn, respond) = inner.next_request().await.unwrap();
        assert_eq!((conn.info().peer().port(), conn.info().local().port()), (5000, 443));
        drain.advance(Phase::Stopped);
        assert_eq!(conn.drain().phase(), Phase::Stopped);
        respond.send_response("done");
    };
    let served = stack.call(conn(far).with_drain(drain.watch()));
    tokio::join!(served, peer).0.unwrap();
}

#[tokio::test]
async fn is_not_ready_while_the_inner_service_is_not() {
    let (mut stack, mut inner, _) = stack();
    inner.allow(0);
    assert_pending!(stack.poll_ready());
    inner.allow(1);
    assert_ready_ok!(stack.poll_ready());
}

#[tokio::test]
async fn an_inner_service_that_fails_is_a_handler_error() {
    let (mut stack, mut inner, ca) = stack();
    let (near, far) = duplex(4096);
    assert_ready_ok!(stack.poll_ready());
    let peer = async {
        let connect = TlsConnector::from(ca.client_config(&[])).connect(name("localhost"), near);
        let _tls = connect.await.unwrap();
        let (_conn, respond) = inner.next_request().await.unwrap();
        respond.send_error("no route");
    };
    let (served, ()) = tokio::join!(stack.call(conn(far)), peer);
    let HandshakeError::Handler(error) = served.unwrap_err() else { panic!("a handler error") };
    assert_eq!(error.to_string(), "no route");

    inner.send_error("no licence");
    let error = assert_ready_err!(stack.poll_ready());
    let HandshakeError::Handler(error) = error else { panic!("{error:?}") };
    assert_eq!(error.to_string(), "no licence");
}

#[tokio::test]
async fn tls_1_3_is_spoken_with_a_post_quantum_key_exchange() {
    let (layer, ca) = layer();
    let info = info(&layer, ca.client_config(&["h2", "http/1.1"]), "localhost").await;
    assert_eq!(info.sni.as_deref(), Some("localhost"));
    assert_eq!(info.version, Some("TLSv1.3"));
    assert_eq!(info.cipher, Some("TLS13_AES_128_GCM_SHA256"));
    assert_eq!(info.group, Some("X25519MLKEM768"));
    assert!(info.is_h2() && !info.resumed);
}

#[tokio::test]
async fn tls_1_2_is_spoken() {
    let (layer, ca) = layer();
    let client = client_of(&ca, &rustls::version::TLS12);
    let first = info(&layer, client.clone(), "localhost").await;
    assert_eq!(first.version, Some("TLSv1.2"));
    assert_eq!(first.cipher, Some("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"));
    assert_eq!(first.group, Some("X25519"));
    assert!(!first.resumed);
    assert!(info(&layer, client, "localhost").await.resumed);
}

#[tokio::test]
async fn a_second_connection_resumes_the_session() {
    let (layer, ca) = layer();
    let client = client_of(&ca, &rustls::version::TLS13);
    assert!(!info(&layer, client.clone(), "localhost").await.resumed);
    let again = info(&layer, client, "localhost").await;
    assert!(again.resumed);
    assert_eq!(again.sni.as_deref(), Some("localhost"));
    // Another client has nothing to resume.
    assert!(!info(&layer, client_of(&ca, &rustls::version::TLS13), "localhost").await.resumed);
}

#[tokio::test]
async fn a_client_that_names_no_server_is_served() {
    let (layer, ca) = layer();
    assert_eq!(info(&layer, ca.client_config(&[]), "127.0.0.1").await.sni, None);
}

#[tokio::test]
async fn protocols_are_agreed_on_in_the_servers_order() {
    let (layer, ca) = layer();
    for (offered, agreed) in [
        (&["h2"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["spdy/3", "http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let info = info(&layer, ca.client_config(offered), "localhost").await;
        assert_eq!(info.alpn.as_deref(), agreed.map(str::as_bytes), "{offered:?}");
    }
    let site = ca.issue(Leaf::server("localhost"));
    let store = CertStore::builder().pem("site.pem", site.bundle_pem()).alpn(["http/1.1"]);
    let layer = TlsTerminateLayer::new(store.build().unwrap());
    let info = info(&layer, ca.client_config(&["h2", "http/1.1"]), "localhost").await;
    assert_eq!(info.alpn.as_deref(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn a_client_that_offers_only_other_protocols_is_refused() {
    let (layer, ca) = layer();
    let client = ca.client_config(&["spdy/3"]);
    let (served, greeted) = shake(&layer, client, "localhost", duplex(65_536)).await;
    let error = served.unwrap_err();
    assert!(
        matches!(error, HandshakeError::Tls(rustls::Error::NoApplicationProtocol)),
        "{error:?}"
    );
    let told = greeted.unwrap_err().downcast::<rustls::Error>().unwrap();
    assert_eq!(told, rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol));
}

#[tokio::test]
async fn a_configuration_of_ones_own_is_served_as_it_is() {
    let ca = TestCa::new("test root");
    let site = ca.issue(Leaf::server("localhost"));
    let layer = TlsTerminateLayer::from_config(site.server_config(&["http/1.1"]));
    let info = info(&layer, ca.client_config(&["h2", "http/1.1"]), "localhost").await;
    assert_eq!(info.alpn.as_deref(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn a_handshake_byte_by_byte_succeeds() {
    let (layer, ca) = layer();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (near, far) = duplex(16);
        let wire = (Trickle::new(near, 1), Trickle::new(far, 1));
        let (served, greeted) = shake(&layer, client_of(&ca, version), "localhost", wire).await;
        greeted.unwrap();
        assert_eq!(served.unwrap().sni.as_deref(), Some("localhost"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_is_given_up_wherever_it_stalls() {
    let (layer, ca) = layer();
    let hello = hello(&ca);
    for sent in [0, 3, hello.len() / 2, hello.len() - 1, hello.len()] {
        for (layer, limit) in
            [(layer.clone(), 10), (layer.clone().handshake_timeout(Duration::from_secs(3)), 3)]
        {
            let never = service_fn(|_: Tls| std::future::pending::<Result<(), io::Error>>());
            let (mut near, far) = duplex(65_536);
            near.write_all(&hello[..sent]).await.unwrap();
            let start = Instant::now();
            let error = layer.layer(never).call(conn(far)).await.unwrap_err();
            let HandshakeError::Timeout { limit: told } = error else { panic!("{error:?}") };
            assert_eq!((told.as_secs(), start.elapsed().as_secs()), (limit, limit), "{sent} bytes");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_deadline_covers_all_flights() {
    let (layer, ca) = layer();
    let never = service_fn(|_: Tls| std::future::pending::<Result<(), io::Error>>());
    let (mut near, far) = duplex(65_536);
    let hello = hello(&ca);
    let start = Instant::now();
    let slow = async {
        // A byte each second, which a limit per read would put up with.
        for part in hello.chunks(hello.len() / 7 + 1) {
            sleep(Duration::from_secs(1)).await;
            near.write_all(part).await.unwrap();
        }
        let mut answer = [0; 1];
        near.read_exact(&mut answer).await.unwrap();
        assert_eq!(
            (answer[0], start.elapsed().as_secs()),
            (22, 7),
            "the server's handshake record"
        );
        near
    };
    let (served, _near) = tokio::join!(layer.layer(never).call(conn(far)), slow);
    assert!(matches!(served, Err(HandshakeError::Timeout { .. })));
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_given_up_too() {
    let (layer, ca) = layer();
    let never = service_fn(|_: Tls<_>| std::future::pending::<Result<(), io::Error>>());
    // Room for no more than a part of the server's answer.
    let (near, far) = duplex(16);
    let (_read, mut write) = tokio::io::split(near);
    let start = Instant::now();
    let write = async {
        write.write_all(&hello(&ca)).await.unwrap();
    };
    let (served, ()) = tokio::join!(layer.layer(never).call(conn(far)), write);
    assert!(matches!(served, Err(HandshakeError::Timeout { .. })));
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn after_the_handshake_there_is_no_deadline() {
    let (layer, ca) = layer();
    let day = Duration::from_secs(86_400);
    let mut stack = layer.layer(service_fn(move |_conn: Tls| async move {
        sleep(day).await;
        Ok::<_, io::Error>("done")
    }));
    let (near, far) = duplex(65_536);
    let client = TlsConnector::from(ca.client_config(&[])).connect(name("localhost"), near);
    let (served, _client) = tokio::join!(stack.call(conn(far)), client);
    assert_eq!(served.unwrap(), "done");
}

#[tokio::test]
async fn plaintext_is_a_tls_error_and_is_answered_with_an_alert() {
    let (mut stack, _inner, _) = stack();
    let (mut near, far) = duplex(4096);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_ready_ok!(stack.poll_ready());

    let error = stack.call(conn(far)).await.unwrap_err();

    assert!(matches!(error, HandshakeError::Tls(_)), "{error:?}");
    let mut alert = Vec::new();
    near.read_to_end(&mut alert).await.unwrap();
    assert_eq!(alert.first(), Some(&21), "content type 21 is `alert`");
}

#[tokio::test]
async fn a_client_that_trusts_nobody_is_a_tls_error_with_its_reason() {
    let (layer, _) = layer();
    let stranger = TestCa::new("test root").client_config(&[]);
    let (served, greeted) = shake(&layer, stranger, "localhost", duplex(65_536)).await;
    greeted.unwrap_err();
    let error = served.unwrap_err();
    let HandshakeError::Tls(rustls::Error::AlertReceived(_)) = error else { panic!("{error:?}") };
}

#[tokio::test]
async fn hanging_up_is_a_transport_error_wherever_it_happens() {
    let (layer, ca) = layer();
    let hello = hello(&ca);
    for sent in [0, hello.len() / 2, hello.len()] {
        let (mut stack, _inner) = mock::spawn_layer::<Tls, &'static str, _>(layer.clone());
        let (mut near, far) = duplex(65_536);
        near.write_all(&hello[..sent]).await.unwrap();
        drop(near);
        assert_ready_ok!(stack.poll_ready());

        let error = stack.call(conn(far)).await.unwrap_err();

        let HandshakeError::Transport(io) = error else { panic!("after {sent} bytes: {error:?}") };
        // Nobody reads the server's answer to a whole hello.
        let kinds = [io::ErrorKind::UnexpectedEof, io::ErrorKind::BrokenPipe];
        assert!(kinds.contains(&io.kind()), "after {sent} bytes: {io:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_writes_as_far_ahead_as_it_may() {
    let (layer, ca) = layer();
    for (limit, written) in [(4 * 1024, false), (1024 * 1024, true)] {
        let layer = layer.clone().send_buffer_limit(NonZeroUsize::new(limit).unwrap());
        // 32 KiB fit into the default of 64 KiB, and 512 KiB do not.
        let bytes = vec![0; if written { 512 } else { 32 } * 1024];
        let mut stack = layer.layer(service_fn(move |conn: Tls| {
            let bytes = bytes.clone();
            async move {
                let mut stream = conn.into_io();
                let write = timeout(Duration::from_secs(1), stream.write_all(&bytes)).await;
                Ok::<_, io::Error>(write.is_ok())
            }
        }));
        let (near, far) = duplex(4096);
        let client = TlsConnector::from(ca.client_config(&[])).connect(name("localhost"), near);
        let (served, _client) = tokio::join!(stack.call(conn(far)), client);
        assert_eq!(served.unwrap(), written, "{limit} bytes");
    }
}

#[derive(Debug)]
struct Rotating(std::sync::Mutex<Arc<rustls::sign::CertifiedKey>>);

impl rustls::client::ResolvesClientCert for Rotating {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.lock().unwrap().clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct SetClock(std::sync::Mutex<std::time::SystemTime>);

impl bartizan_net::clock::Clock for SetClock {
    fn now(&self) -> std::time::SystemTime {
        *self.0.lock().unwrap()
    }
}

fn certified(minted: &bartizan_testkit::Minted) -> Arc<rustls::sign::CertifiedKey> {
    let key = aws_lc_rs::sign::any_supported_type(&minted.key_der()).unwrap();
    Arc::new(rustls::sign::CertifiedKey::new(minted.chain_der(), key))
}

#[tokio::test]
async fn a_client_with_a_renewed_certificate_gets_in_although_it_has_a_ticket() {
    use bartizan_net::clock::{Clock, SystemClock};

    let hour = Duration::from_secs(3_600);
    let now = SystemClock.now();
    let ca = TestCa::new("test root");
    let site = ca.issue(Leaf::server("localhost"));
    let clients = TestCa::new("clients");
    let old = clients.issue(Leaf::client("svc").not_after(now + hour));
    let new = clients.issue(Leaf::client("svc").not_after(now + hour * 20));
    let clock = Arc::new(SetClock(std::sync::Mutex::new(now)));
    let roots = crate::PemSource::memory("clients", clients.cert_pem().into_bytes());
    let store = CertStore::builder()
        .pem("site", site.bundle_pem())
        .client_auth(crate::ClientAuth::required(roots))
        .clock(Arc::clone(&clock))
        .build()
        .unwrap();
    let layer = TlsTerminateLayer::new(store);
    let resolver = Arc::new(Rotating(std::sync::Mutex::new(certified(&old))));
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(ca.roots())
        .with_client_cert_resolver(resolver.clone());
    let config = Arc::new(config);
    assert!(!info(&layer, config.clone(), "localhost").await.resumed);
    assert!(info(&layer, config.clone(), "localhost").await.resumed);
    // The client renews its certificate in time; then the old one ends.
    *resolver.0.lock().unwrap() = certified(&new);
    *clock.0.lock().unwrap() = now + hour * 2;
    let served = info(&layer, config.clone(), "localhost").await;
    assert!(!served.resumed);
    let client = served.client.unwrap();
    assert_eq!(client.chain[0], new.cert_der().as_ref());
    assert!(info(&layer, config, "localhost").await.resumed);
}

#[tokio::test]
async fn a_certificate_is_chosen_that_the_servers_own_suites_can_serve() {
    let ca = TestCa::new("test root");
    let ec = ca.issue(Leaf::server("localhost"));
    let rsa = ca.issue(Leaf::server("localhost").key(bartizan_testkit::KeyType::Rsa2048));
    let settings = crate::TlsSettings::new()
        .tls12_only()
        .cipher_suites(["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"])
        .unwrap();
    let store = CertStore::builder()
        .pem("ec", ec.bundle_pem())
        .pem("rsa", rsa.bundle_pem())
        .settings(settings)
        .build()
        .unwrap();
    let layer = TlsTerminateLayer::new(store);
    let client = client_of(&ca, &rustls::version::TLS12);
    let (served, _) = shake(&layer, client, "localhost", duplex(65_536)).await;
    assert!(served.is_ok(), "{:?}", served.unwrap_err());
}

/// A client that offers these cipher suites, in this order.
fn client_with_suites(ca: &TestCa, suites: &[CipherSuite]) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    let all = mem::take(&mut provider.cipher_suites);
    let find = |suite: &CipherSuite| *all.iter().find(|s| s.suite() == *suite).unwrap();
    provider.cipher_suites = suites.iter().map(find).collect();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(ca.roots())
        .with_no_client_auth();
    Arc::new(config)
}

#[tokio::test]
async fn the_order_of_suites_is_the_servers_but_chacha_first_is_heeded() {
    use CipherSuite::{
        TLS13_AES_128_GCM_SHA256 as AES_128, TLS13_AES_256_GCM_SHA384 as AES_256,
        TLS13_CHACHA20_POLY1305_SHA256 as CHACHA,
    };
    let (layer, ca) = layer();
    let site = ca.issue(Leaf::server("localhost"));
    let store = CertStore::builder().pem("site.pem", site.bundle_pem());
    let store = store.settings(crate::TlsSettings::new().client_order()).build().unwrap();
    let clients_order = TlsTerminateLayer::new(store);
    for (offered, agreed, in_clients_order) in [
        (&[AES_256, CHACHA, AES_128][..], AES_128, AES_256),
        (&[AES_256, CHACHA], AES_256, AES_256),
        (&[CHACHA, AES_128], CHACHA, CHACHA),
        (&[CHACHA, AES_256, AES_128], CHACHA, CHACHA),
        (&[AES_128, CHACHA], AES_128, AES_128),
    ] {
        for (layer, agreed) in [(&layer, agreed), (&clients_order, in_clients_order)] {
            let info = info(layer, client_with_suites(&ca, offered), "localhost").await;
            assert_eq!(info.cipher, agreed.as_str(), "{offered:?}");
        }
    }
}
