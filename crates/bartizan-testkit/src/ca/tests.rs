use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::server::WebPkiClientVerifier;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ProtocolVersion, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Crl, KeyType, Leaf, Minted, Ocsp, TestCa, provider};

/// What both sides know after a handshake, or why the client (first) or the server failed.
struct Session {
    alpn: Option<Vec<u8>>,
    version: Option<ProtocolVersion>,
    server_chain: Vec<CertificateDer<'static>>,
    client_chain: Vec<CertificateDer<'static>>,
}

async fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &'static str,
) -> Result<Session, rustls::Error> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let connect = TlsConnector::from(client).connect(ServerName::try_from(name).unwrap(), near);
    let (client, server) = tokio::join!(connect, TlsAcceptor::from(server).accept(far));
    let reason = |e: std::io::Error| e.downcast::<rustls::Error>().unwrap();
    let (client, server) = (client.map_err(reason)?, server.map_err(reason)?);
    let chain = |certs: Option<&[CertificateDer<'static>]>| certs.unwrap_or_default().to_vec();
    Ok(Session {
        alpn: client.get_ref().1.alpn_protocol().map(<[u8]>::to_vec),
        version: client.get_ref().1.protocol_version(),
        server_chain: chain(client.get_ref().1.peer_certificates()),
        client_chain: chain(server.get_ref().1.peer_certificates()),
    })
}

/// The reason for which the client did not accept what the server showed.
async fn refusal(ca: &TestCa, leaf: Leaf, name: &'static str) -> CertificateError {
    let result = handshake(ca.issue(leaf).server_config(&[]), ca.client_config(&[]), name).await;
    match result.err().expect("the handshake succeeded") {
        rustls::Error::InvalidCertificate(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn epoch_plus(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

#[tokio::test]
async fn a_client_of_the_authority_accepts_its_leaf_for_each_of_its_names() {
    let ca = TestCa::new("root");
    let leaf = Leaf::server("one.test").dns("*.two.test").ip([127, 0, 0, 1]);
    let server = ca.issue(leaf).server_config(&[]);

    for name in ["one.test", "any.two.test", "127.0.0.1"] {
        let session = handshake(server.clone(), ca.client_config(&[]), name).await.unwrap();
        assert_eq!(session.version, Some(ProtocolVersion::TLSv1_3), "{name}");
    }
    let other = handshake(server, ca.client_config(&[]), "three.test").await;
    assert!(other.is_err(), "a name that is not in it was accepted");
}

#[tokio::test]
async fn a_server_named_by_its_address_has_the_address_in_it() {
    let ca = TestCa::new("root");
    let server = ca.issue(Leaf::server("::1")).server_config(&[]);
    handshake(server, ca.client_config(&[]), "::1").await.unwrap();
}

#[tokio::test]
async fn an_authority_of_the_same_name_is_another_authority() {
    let (ours, theirs) = (TestCa::new("root"), TestCa::new("root"));
    let server = ours.issue(Leaf::server("one.test")).server_config(&[]);

    let result = handshake(server, theirs.client_config(&[]), "one.test").await;

    assert!(matches!(result, Err(rustls::Error::InvalidCertificate(_))));
}

#[tokio::test]
async fn a_chain_over_two_intermediates_leads_to_the_root() {
    let root = TestCa::new("root");
    let lower = root.intermediate("upper").intermediate("lower");
    let minted = lower.issue(Leaf::server("one.test"));

    let session = handshake(minted.server_config(&[]), root.client_config(&[]), "one.test").await;

    assert_eq!(session.unwrap().server_chain, minted.chain_der());
    assert_eq!(minted.chain_der().len(), 3);
    assert_eq!(&minted.chain_der()[1], lower.cert_der(), "the issuing authority comes next");

    let beside = root.issue(Leaf::server("one.test"));
    let above = handshake(beside.server_config(&[]), lower.client_config(&[]), "one.test").await;
    assert!(above.is_ok(), "an intermediate trusts its root");
}

#[tokio::test]
async fn expired_and_not_yet_valid_leaves_can_be_minted() {
    let ca = TestCa::new("root");
    let (past, future) = (epoch_plus(1_000_000_000), epoch_plus(32_000_000_000));

    let expired = refusal(&ca, Leaf::server("a.test").not_after(past), "a.test").await;
    let early = refusal(&ca, Leaf::server("a.test").not_before(future), "a.test").await;

    // The context also says since when, which is the moment that was asked for.
    let secs = |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let CertificateError::ExpiredContext { not_after, .. } = expired else { panic!("{expired:?}") };
    assert_eq!(not_after.as_secs(), secs(past));
    let CertificateError::NotValidYetContext { not_before, .. } = early else {
        panic!("{early:?}")
    };
    assert_eq!(not_before.as_secs(), secs(future));
}

#[tokio::test]
async fn a_clients_leaf_is_no_good_for_a_server() {
    let ca = TestCa::new("root");
    let reason = refusal(&ca, Leaf::client("alice").dns("a.test"), "a.test").await;
    assert!(
        matches!(
            reason,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }
        ),
        "{reason:?}"
    );
}

#[tokio::test]
async fn a_client_shows_the_identity_that_it_was_given() {
    let ca = TestCa::new("root");
    let alice = ca.intermediate("people").issue(Leaf::client("alice").uri("spiffe://test/alice"));
    let server = asking_for_clients(&ca);

    let shown = handshake(server.clone(), ca.client_config_as(&alice, &[]), "a.test").await;
    assert_eq!(shown.unwrap().client_chain, alice.chain_der());

    let nobody = handshake(server, ca.client_config(&[]), "a.test").await;
    assert!(matches!(
        nobody.err(),
        Some(
            rustls::Error::NoCertificatesPresented
                | rustls::Error::AlertReceived(AlertDescription::CertificateRequired)
        )
    ));
}

fn asking_for_clients(ca: &TestCa) -> Arc<ServerConfig> {
    let minted = ca.issue(Leaf::server("a.test"));
    let verifier = WebPkiClientVerifier::builder_with_provider(ca.roots().into(), provider());
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(minted.chain_der(), minted.key_der());
    Arc::new(config.unwrap())
}

#[tokio::test]
async fn a_leaf_for_both_serves_both() {
    let ca = TestCa::new("root");
    let both = ca.issue(Leaf::server("a.test").for_clients());

    let server = handshake(both.server_config(&[]), ca.client_config(&[]), "a.test").await;
    let client =
        handshake(asking_for_clients(&ca), ca.client_config_as(&both, &[]), "a.test").await;

    assert!(server.is_ok() && client.is_ok());
}

#[tokio::test]
async fn each_kind_of_key_is_what_it_says() {
    let kinds = [
        (KeyType::P256, SignatureScheme::ECDSA_NISTP256_SHA256),
        (KeyType::P384, SignatureScheme::ECDSA_NISTP384_SHA384),
        (KeyType::Rsa2048, SignatureScheme::RSA_PSS_SHA256),
    ];
    let ca = TestCa::new("root");
    for (kind, scheme) in kinds {
        let minted = ca.issue(Leaf::server("a.test").key(kind));
        let key = provider().key_provider.load_private_key(minted.key_der()).unwrap();
        assert!(key.choose_scheme(&[scheme]).is_some(), "{kind:?}");
        handshake(minted.server_config(&[]), ca.client_config(&[]), "a.test").await.unwrap();
    }
}

#[tokio::test]
async fn the_server_chooses_the_protocol_in_its_own_order() {
    let ca = TestCa::new("root");
    let server = ca.issue(Leaf::server("a.test")).server_config(&["h2", "http/1.1"]);

    let client = ca.client_config(&["http/1.1", "h2"]);
    let session = handshake(server, client, "a.test").await.unwrap();

    assert_eq!(session.alpn.as_deref(), Some(&b"h2"[..]));
}

#[test]
fn pem_and_der_are_the_same_things() {
    let ca = TestCa::new("root").intermediate("middle");
    let minted = ca.issue(Leaf::server("a.test").key(KeyType::Rsa2048));
    let certs = |pem: &str| -> Vec<_> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
    };
    let key = |pem: &str| PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();

    assert_eq!(certs(&minted.cert_pem()), [minted.cert_der().clone()]);
    assert_eq!(certs(&minted.chain_pem()), minted.chain_der());
    assert_eq!(certs(&minted.bundle_pem()), minted.chain_der());
    assert_eq!(key(&minted.bundle_pem()), minted.key_der());
    assert_eq!(key(&minted.key_pem()), minted.key_der());
    assert!(minted.key_pem().starts_with("-----BEGIN PRIVATE KEY-----"), "PKCS#8");
    assert_eq!(certs(&ca.cert_pem()), [ca.cert_der().clone()]);
}

/// What a server that looks `minted` up in `crl` says of it at the time `now`.
fn looked_up(ca: &TestCa, crl: Crl, minted: &Minted, now: u64) -> Result<(), rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(ca.roots().into(), provider())
        .with_crls([ca.crl_der(crl)])
        .enforce_revocation_expiration()
        .build()
        .unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    verifier.verify_client_cert(minted.cert_der(), &[], now).map(drop)
}

#[test]
fn a_list_revokes_whom_it_names_until_its_next_update() {
    let ca = TestCa::new("root");
    let (alice, bob) = (ca.issue(Leaf::client("alice")), ca.issue(Leaf::client("bob")));
    let crl = || Crl::new().revoke(&alice).next_update(epoch_plus(2_000_000_000));
    let revoked = rustls::Error::InvalidCertificate(CertificateError::Revoked);
    assert_eq!(looked_up(&ca, crl(), &alice, 1_999_999_999), Err(revoked));
    assert_eq!(looked_up(&ca, crl(), &bob, 1_999_999_999), Ok(()));
    let late = looked_up(&ca, crl(), &bob, 2_000_000_000);
    assert!(
        matches!(
            late,
            Err(rustls::Error::InvalidCertificate(
                CertificateError::ExpiredRevocationListContext { .. }
            ))
        ),
        "{late:?}"
    );
    assert!(ca.crl(crl()).starts_with("-----BEGIN X509 CRL-----"));
}

#[test]
fn serial_numbers_differ_and_can_be_chosen() {
    let ca = TestCa::new("root");
    let chosen = ca.issue(Leaf::client("alice").serial(&[0x81, 2, 3]));
    assert_eq!(chosen.serial(), [0x81, 2, 3]);
    // As an INTEGER, with the zero that makes it positive.
    assert!(chosen.cert_der().windows(6).any(|w| w == [2, 4, 0, 0x81, 2, 3]));
    assert_ne!(ca.issue(Leaf::client("a")).serial(), ca.issue(Leaf::client("a")).serial());
}

#[test]
fn an_authority_ends_when_it_is_told_to_and_keeps_its_key_when_renewed() {
    let ca = TestCa::lasting("root", epoch_plus(1_000_000_000));
    assert!(ca.cert_der().windows(13).any(|w| w == b"010909014640Z"));
    let renewed = ca.renewed("root", epoch_plus(1_100_000_000));
    assert_ne!(ca.cert_der(), renewed.cert_der());
    assert_eq!(ca.roots().roots, renewed.roots().roots, "name and key are the same");
}

/// Writes an authority, a leaf, a responder and responses into `$OCSP_DIR`, to be shown to OpenSSL.
#[test]
#[ignore = "for a look at the responses by hand; needs OCSP_DIR"]
fn ocsp_responses_for_openssl() {
    let dir = std::path::PathBuf::from(std::env::var("OCSP_DIR").unwrap());
    let ca = TestCa::new("root");
    let site = ca.issue(Leaf::server("a.test"));
    let responder = ca.issue(Leaf::new("responder").for_ocsp());
    std::fs::write(dir.join("ca.pem"), ca.cert_pem()).unwrap();
    std::fs::write(dir.join("site.pem"), site.cert_pem()).unwrap();
    std::fs::write(dir.join("ca.crl"), ca.crl(Crl::new().revoke(&site))).unwrap();
    for (name, ocsp) in [
        ("good", Ocsp::good()),
        ("delegated", Ocsp::good().by(&responder)),
        ("sha256", Ocsp::good().hash(super::OcspHash::Sha256)),
        ("revoked", Ocsp::revoked(epoch_plus(1_000_000_000))),
        ("unknown", Ocsp::unknown()),
    ] {
        std::fs::write(dir.join(name), ca.ocsp(&site, ocsp)).unwrap();
    }
}

#[test]
fn what_is_self_signed_has_issued_itself_and_a_renewal_may_keep_its_key() {
    let anchored = |root: &CertificateDer<'_>, leaf: &CertificateDer<'_>| {
        let anchor = webpki::anchor_from_trusted_cert(root).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(2_000_000_000));
        let usage = webpki::KeyUsage::server_auth();
        let all = provider().signature_verification_algorithms.all;
        let leaf = webpki::EndEntityCert::try_from(leaf).unwrap();
        leaf.verify_for_usage(all, &[anchor], &[], now, usage, None, None).map(drop)
    };
    let own = Leaf::server("a.test").self_signed();
    assert_eq!(anchored(own.cert_der(), own.cert_der()), Ok(()));
    let marked = Leaf::server("a.test").marked_as_authority().self_signed();
    let refused = anchored(marked.cert_der(), marked.cert_der());
    assert_eq!(refused, Err(webpki::Error::CaUsedAsEndEntity));
    let pretender = TestCa::pretender("pretender");
    let issued = pretender.issue(Leaf::server("a.test"));
    assert_eq!(anchored(pretender.cert_der(), issued.cert_der()), Ok(()), "webpki does not ask");

    let ca = TestCa::new("root");
    let leaf = ca.issue(Leaf::server("a.test"));
    let renewed = ca.issue_with_key_of(Leaf::server("b.test"), &leaf);
    assert_eq!(renewed.key_der(), leaf.key_der());
    assert_ne!(renewed.cert_der(), leaf.cert_der());
}
