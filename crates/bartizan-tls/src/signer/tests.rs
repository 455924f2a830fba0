use std::future::pending;
use std::io;

use bartizan_net::{Conn, ConnInfo};
use bartizan_testkit::{KeyType, Leaf, Minted, TestCa};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::sign::SigningKey;
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsConnector;
use tokio_rustls::server::TlsStream;
use tower::{Layer, ServiceExt, service_fn};

use super::*;
use crate::{CertStore, HandshakeError, HandshakeReason, Identity, LoadProblem, TlsTerminateLayer};

/// Signs with the key of `minted`, as a key server would.
fn signer(minted: &Minted) -> RemoteSigner {
    let key = aws_lc_rs::sign::any_supported_type(&minted.key_der()).unwrap();
    let id = KeyId::of_spki(&key.public_key().unwrap());
    RemoteSigner::new(service_fn(move |request: SignRequest| {
        assert_eq!(request.key, id);
        let signed = sign(&*key, &request);
        async move { signed }
    }))
}

fn sign(key: &dyn SigningKey, request: &SignRequest) -> Result<Signature, rustls::Error> {
    assert!(SignedContent::of(&request.message).is_some());
    Ok(Signature(key.choose_scheme(&[request.scheme]).unwrap().sign(&request.message)?))
}

fn hanging() -> RemoteSigner {
    RemoteSigner::new(service_fn(|_: SignRequest| pending::<Result<_, io::Error>>()))
}

fn identity(minted: &Minted, signer: impl Into<RemoteSigner>) -> Identity {
    Identity::with_signer("chain.pem", minted.chain_pem().as_bytes(), signer).unwrap()
}

fn client(ca: &TestCa, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(ca.roots())
        .with_no_client_auth();
    Arc::new(config)
}

/// A handshake for `host`: what either side says of it.
async fn shake(
    layer: &TlsTerminateLayer,
    client: Arc<ClientConfig>,
    host: &'static str,
) -> (Result<(), HandshakeError>, io::Result<()>) {
    let (near, far) = duplex(65_536);
    let service = layer.layer(service_fn(|conn: Conn<TlsStream<DuplexStream>>| async move {
        let mut stream = conn.into_io();
        stream.write_all(b"hello").await?;
        stream.shutdown().await
    }));
    let addr = "192.0.2.1:443".parse().unwrap();
    let conn = Conn::new(far, ConnInfo::new(addr, addr));
    let client = async {
        let name = ServerName::try_from(host).unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        let mut greeting = String::new();
        stream.read_to_string(&mut greeting).await?;
        assert_eq!(greeting, "hello");
        Ok(())
    };
    tokio::join!(service.oneshot(conn), client)
}

#[tokio::test]
async fn every_kind_of_key_signs_from_elsewhere_in_either_version() {
    let ca = TestCa::new("test root");
    let keys = [KeyType::P256, KeyType::P384, KeyType::P521, KeyType::Ed25519, KeyType::Rsa2048];
    for key in keys {
        let site = ca.issue(Leaf::server("localhost").key(key));
        let layer = TlsTerminateLayer::new(identity(&site, signer(&site)));
        for version in rustls::ALL_VERSIONS {
            let (served, greeted) = shake(&layer, client(&ca, version), "localhost").await;
            greeted.unwrap_or_else(|e| panic!("{key:?} {version:?}: {e}"));
            served.unwrap();
        }
    }
}

#[tokio::test]
async fn a_handshake_that_waits_for_its_signature_holds_up_no_other() {
    let ca = TestCa::new("test root");
    let apart = ca.issue(Leaf::server("apart.test"));
    let here = ca.issue(Leaf::server("here.test"));
    let (asked, mut is_asked) = mpsc::unbounded_channel();
    let release = Arc::new(Notify::new());
    let key = aws_lc_rs::sign::any_supported_type(&apart.key_der()).unwrap();
    let slow = {
        let release = Arc::clone(&release);
        service_fn(move |request: SignRequest| {
            let (key, asked, release) = (Arc::clone(&key), asked.clone(), Arc::clone(&release));
            async move {
                asked.send(()).unwrap();
                release.notified().await;
                sign(&*key, &request)
            }
        })
    };
    // Far beyond what the other handshake takes.
    let slow = RemoteSigner::new(slow).timeout(Duration::from_secs(60));
    let store = CertStore::builder()
        .identity(&identity(&apart, slow))
        .pem("here.pem", here.bundle_pem())
        .build()
        .unwrap();
    let layer = TlsTerminateLayer::new(store).handshake_timeout(Duration::from_secs(60));
    let tls13 = &rustls::version::TLS13;
    let others = async {
        is_asked.recv().await.unwrap();
        // On the one thread of this runtime, which would stand still otherwise.
        let (served, greeted) = shake(&layer, client(&ca, tls13), "here.test").await;
        release.notify_one();
        served.and_then(|()| greeted.map_err(HandshakeError::Transport))
    };
    let (waited, other) = tokio::join!(shake(&layer, client(&ca, tls13), "apart.test"), others);
    other.unwrap();
    waited.0.unwrap();
    waited.1.unwrap();
}

#[tokio::test]
async fn a_signer_that_fails_ends_the_handshake_with_a_reason_of_its_own() {
    let ca = TestCa::new("test root");
    let site = ca.issue(Leaf::server("localhost"));
    for version in rustls::ALL_VERSIONS {
        let failing = service_fn(|_: SignRequest| async { Err(io::Error::other("no such key")) });
        let layer = TlsTerminateLayer::new(identity(&site, failing));
        let (served, greeted) = shake(&layer, client(&ca, version), "localhost").await;
        let error = served.unwrap_err();
        let HandshakeError::Signer(SignerError::Failed(why)) = &error else { panic!("{error:?}") };
        assert_eq!(why.to_string(), "no such key");
        greeted.unwrap_err();
        assert_eq!(layer.counts().failed(HandshakeReason::SignerFailed), 1);
        assert_eq!(layer.counts().all_failed(), 1);
    }
}

#[tokio::test]
async fn a_signer_that_is_late_ends_the_handshake_in_its_own_time() {
    let ca = TestCa::new("test root");
    let site = ca.issue(Leaf::server("localhost"));
    let late = hanging().timeout(Duration::from_millis(1));
    let layer =
        TlsTerminateLayer::new(identity(&site, late)).handshake_timeout(Duration::from_secs(60));
    let (served, _) = shake(&layer, client(&ca, &rustls::version::TLS13), "localhost").await;
    let error = served.unwrap_err();
    assert!(matches!(error, HandshakeError::Signer(SignerError::Late { .. })), "{error:?}");
    assert_eq!(layer.counts().failed(HandshakeReason::SignerTimeout), 1);
}

#[tokio::test]
async fn a_signer_that_panics_ends_one_handshake_and_the_next_is_signed() {
    let ca = TestCa::new("test root");
    let site = ca.issue(Leaf::server("localhost"));
    let key = aws_lc_rs::sign::any_supported_type(&site.key_der()).unwrap();
    let panicked = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let once = service_fn(move |request: SignRequest| {
        let signed = sign(&*key, &request);
        let first = !panicked.swap(true, std::sync::atomic::Ordering::SeqCst);
        async move {
            assert!(!first, "this panic belongs to the test");
            signed
        }
    });
    let layer = TlsTerminateLayer::new(identity(&site, once));
    let shake = async || shake(&layer, client(&ca, &rustls::version::TLS13), "localhost").await;
    let error = shake().await.0.unwrap_err();
    assert!(matches!(error, HandshakeError::Signer(SignerError::Panicked)), "{error:?}");
    shake().await.0.unwrap();
}

#[tokio::test]
async fn a_call_that_is_late_is_dropped() {
    let ca = TestCa::new("test root");
    let site = ca.issue(Leaf::server("localhost"));
    let held = Arc::new(());
    let calls = Arc::downgrade(&held);
    let service = service_fn(move |_: SignRequest| {
        let held = Arc::clone(&held);
        async move {
            let _held = held;
            pending::<Result<_, io::Error>>().await
        }
    });
    let late = RemoteSigner::new(service).timeout(Duration::from_millis(1));
    let layer = TlsTerminateLayer::new(identity(&site, late));
    shake(&layer, client(&ca, &rustls::version::TLS13), "localhost").await.0.unwrap_err();
    let dropped = async {
        // The service's own is left, of all its clones and calls.
        while calls.strong_count() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), dropped).await.unwrap();
}

#[test]
fn a_chain_needs_no_key_and_no_order() {
    let root = TestCa::new("test root");
    let site = root.intermediate("between").issue(Leaf::server("localhost"));
    let sections: Vec<String> =
        site.chain_pem().split_inclusive("-----END CERTIFICATE-----\n").map(Into::into).collect();
    let backwards: String = sections.into_iter().rev().collect();
    assert!(backwards.starts_with("-----BEGIN"));
    let identity = Identity::with_signer("chain.pem", backwards.as_bytes(), hanging()).unwrap();
    assert!(identity.has_remote_key());
    assert_eq!(identity.chain(), site.chain_der());
    let local = Identity::from_pem("site.pem", site.bundle_pem().as_bytes()).unwrap();
    assert!(!local.has_remote_key());
}

#[test]
fn a_key_beside_the_chain_is_refused() {
    let site = TestCa::new("test root").issue(Leaf::server("localhost"));
    let load = |pem: String| {
        let error = Identity::with_signer("chain.pem", pem.as_bytes(), hanging()).unwrap_err();
        (error.section(), error.into_problem())
    };
    let (section, problem) = load(site.bundle_pem());
    assert!(matches!(problem, LoadProblem::KeyBesideSigner), "{problem}");
    assert_eq!(section, Some(2));
    let (_, problem) = load(site.bundle_pem().replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"));
    assert!(matches!(problem, LoadProblem::KeyBesideSigner), "{problem}");
    let (_, problem) = load(String::new());
    assert!(matches!(problem, LoadProblem::NoCertificate), "{problem}");
}

#[test]
fn a_remote_key_offers_what_a_local_one_does() {
    use rustls::SignatureScheme as S;
    let ca = TestCa::new("test root");
    let all = [
        S::ECDSA_NISTP256_SHA256,
        S::ECDSA_NISTP384_SHA384,
        S::ECDSA_NISTP521_SHA512,
        S::ED25519,
        S::RSA_PKCS1_SHA256,
        S::RSA_PKCS1_SHA384,
        S::RSA_PKCS1_SHA512,
        S::RSA_PSS_SHA256,
        S::RSA_PSS_SHA384,
        S::RSA_PSS_SHA512,
        S::RSA_PKCS1_SHA1,
    ];
    for key in [KeyType::P256, KeyType::P384, KeyType::P521, KeyType::Ed25519, KeyType::Rsa2048] {
        let site = ca.issue(Leaf::server("localhost").key(key));
        let local = aws_lc_rs::sign::any_supported_type(&site.key_der()).unwrap();
        let spki = local.public_key().unwrap();
        let remote = RemoteKey::new(&spki, hanging()).unwrap();
        assert_eq!(remote.public_key(), Some(spki.clone()));
        assert_eq!(remote.algorithm(), local.algorithm());
        let chosen = |key: &dyn SigningKey, offered: &[S]| {
            key.choose_scheme(offered).map(|signer| signer.scheme())
        };
        assert_eq!(chosen(&remote, &all), chosen(&*local, &all), "{key:?}");
        for scheme in all {
            assert_eq!(chosen(&remote, &[scheme]), chosen(&*local, &[scheme]), "{key:?}");
        }
    }
    assert!(matches!(RemoteKey::new(b"none", hanging()), Err(SignerError::UnsupportedKey)));
}

#[cfg(unix)]
#[test]
fn a_key_server_that_is_late_counts_as_late() {
    let failed = |error: UnixSignerError| SignerError::Failed(Arc::new(error));
    let limit = Duration::from_secs(1);
    assert!(failed(UnixSignerError::Late { limit }).is_late());
    assert!(!failed(UnixSignerError::Refused(SigningRefused::Busy)).is_late());
}
