//! Which of several certificates a client is shown.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::path::PathBuf;
use std::time::Duration;

use bartizan_testkit::{HttpBackend, KeyType, Leaf, Minted};
use bartizan_tests::{Http, Proxy, Site, Visitor, eventually, within};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(10);

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A folder of certificates of one authority, and a backend.
struct Scene {
    site: Site,
    backend: HttpBackend,
}

impl Scene {
    async fn new() -> Self {
        Self { site: Site::new(), backend: HttpBackend::start("web").await }
    }

    fn folder(&self) -> PathBuf {
        self.site.dir().join("certs")
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.site.dir().write(format!("certs/{name}"), content)
    }

    /// A bundle in the folder.
    fn put(&self, name: &str, leaf: Leaf) -> Minted {
        let minted = self.site.ca().issue(leaf);
        self.write(name, minted.bundle_pem());
        minted
    }

    fn proxy(&self, flags: &[&str]) -> Proxy {
        self.site.proxy_of(&[&self.folder()], self.backend.addr(), flags)
    }

    fn visitor(&self, name: &str) -> Visitor {
        Visitor::new(self.site.ca(), name)
    }
}

#[tokio::test]
async fn a_folder_is_read_in_the_order_of_its_names_and_the_first_is_the_default() {
    let scene = Scene::new().await;
    // Written in another order, and with names that sort otherwise without regard to case.
    scene.put("b.pem", Leaf::server("x.example").dns("b.example"));
    scene.put("a.pem", Leaf::server("x.example").dns("a.example"));
    let first =
        scene.put("Z.pem", Leaf::server("x.example").dns("z.example").dns("default.example"));
    scene.write(".hidden.pem", "not a certificate");
    scene.write("0.issuer", "not a certificate");
    scene.write("0.ocsp", "not a response");
    scene.write("0.sctl", "not a list");
    scene.write("0.key", "not a key");
    scene.write("deeper/0.pem", "not looked at");
    let proxy = scene.proxy(&[]);
    // The same name three times: who comes first has it.
    assert_eq!(scene.visitor("x.example").shown(&proxy).await, *first.cert_der());
    let nameless = scene.visitor("default.example").without_sni();
    assert_eq!(nameless.shown(&proxy).await, *first.cert_der());
    let refused = scene.visitor("unknown.example").handshake(&proxy, Http::One).await.unwrap_err();
    assert!(refused.contains("not valid for name"), "{refused}");
    let told = |file: &str| proxy.stderr().contains(&format!("Z.pem is served, not {file}"));
    let (a, b) = (scene.folder().join("a.pem"), scene.folder().join("b.pem"));
    let both = || [&a, &b].iter().all(|file| told(file.to_str().unwrap()));
    eventually("lines about the others", both).await;
}

#[tokio::test]
async fn files_come_in_the_order_of_the_flags_and_twice_is_once() {
    let scene = Scene::new().await;
    let second = scene.put("a.pem", Leaf::server("x.example"));
    let first = scene.put("b.pem", Leaf::server("x.example"));
    let (a, b) = (scene.folder().join("a.pem"), scene.folder().join("b.pem"));
    let folder = scene.folder();
    let backend = scene.backend.addr();
    let proxy = scene.site.proxy_of(&[&b, &a, &b, &folder], backend, &[]);
    assert_eq!(scene.visitor("x.example").shown(&proxy).await, *first.cert_der());
    let proxy = scene.site.proxy_of(&[&folder, &b], backend, &[]);
    assert_eq!(scene.visitor("x.example").shown(&proxy).await, *second.cert_der());
}

#[tokio::test]
async fn an_exact_name_comes_before_a_wildcard_of_one_label() {
    let scene = Scene::new().await;
    let default = scene.put("0.pem", Leaf::server("x.example").dns("deep.www.wild.example"));
    let wild = scene.put("1.pem", Leaf::server("*.wild.example"));
    let exact = scene.put("2.pem", Leaf::server("exact.wild.example"));
    for flags in [&[][..], &["--strict-sni"]] {
        let proxy = scene.proxy(flags);
        for (name, shown) in [
            ("exact.wild.example", &exact),
            ("www.wild.example", &wild),
            ("WWW.Wild.EXAMPLE", &wild),
            ("EXACT.wild.example", &exact),
            ("xn--bcher-kva.wild.example", &wild),
        ] {
            assert_eq!(scene.visitor(name).shown(&proxy).await, *shown.cert_der(), "{name}");
        }
    }
    // A wildcard covers neither two labels nor none.
    let proxy = scene.proxy(&[]);
    let deep = scene.visitor("deep.www.wild.example").shown(&proxy).await;
    assert_eq!(deep, *default.cert_der());
}

#[tokio::test]
async fn names_that_nobody_has_are_refused_under_strict_sni() {
    let scene = Scene::new().await;
    scene.put("0.pem", Leaf::server("x.example").dns("*.wild.example"));
    let proxy = scene.proxy(&["--strict-sni"]);
    let unrecognized = format!("{:?}", AlertDescription::UnrecognisedName);
    for name in ["y.example", "wild.example", "a.b.wild.example", "example", "x.example.org"] {
        for version in VERSIONS {
            let visitor = scene.visitor(name).speaking(version);
            let error = visitor.handshake(&proxy, Http::One).await.unwrap_err();
            assert!(error.contains(&unrecognized), "{name}: {error}");
        }
    }
    let error = scene.visitor("x.example").without_sni().handshake(&proxy, Http::One).await;
    assert!(error.unwrap_err().contains(&unrecognized));
    assert_eq!(scene.visitor("x.example").get(&proxy, Http::Two, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn the_alert_of_strict_sni_is_on_the_wire_and_then_the_end() {
    let scene = Scene::new().await;
    scene.put("0.pem", Leaf::server("x.example"));
    let proxy = scene.proxy(&["--strict-sni"]);
    let mut hello = Vec::new();
    let name = "y.example".try_into().unwrap();
    let tls = scene.visitor("y.example").tls(Http::One);
    rustls::ClientConnection::new(tls, name).unwrap().write_tls(&mut hello).unwrap();
    let mut tcp = TcpStream::connect(proxy.addr()).await.unwrap();
    tcp.write_all(&hello).await.unwrap();
    let mut answer = Vec::new();
    within(SOON, "the end", tcp.read_to_end(&mut answer)).await.unwrap();
    // An alert of TLS: two bytes, fatal, unrecognized_name (RFC 6066 §3).
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 112]);
}

#[tokio::test]
async fn an_empty_folder_is_enough_under_strict_sni() {
    let scene = Scene::new().await;
    std::fs::create_dir(scene.folder()).unwrap();
    let proxy = scene.proxy(&["--strict-sni"]);
    let x = scene.visitor("x.example");
    assert!(x.handshake(&proxy, Http::One).await.is_err());
    let minted = scene.put("0.pem", Leaf::server("x.example"));
    eventually("the certificate", || proxy.stderr().contains("certificates=1")).await;
    assert_eq!(x.shown(&proxy).await, *minted.cert_der());
}

#[tokio::test]
async fn the_kind_of_key_is_the_one_that_the_client_can_check() {
    let scene = Scene::new().await;
    // RSA is the first, so the default, and yet ECDSA is preferred under its own name.
    let rsa = scene.put("0-rsa.pem", Leaf::server("x.example").key(KeyType::Rsa2048));
    let p256 = scene.put("1-p256.pem", Leaf::server("x.example").dns("p256.example"));
    let p384 = scene.put("2-p384.pem", Leaf::server("p384.example").key(KeyType::P384));
    let proxy = scene.proxy(&[]);
    let shown = async |visitor: Visitor| visitor.shown(&proxy).await;
    for version in VERSIONS {
        let x = || scene.visitor("x.example").speaking(version);
        let checks = |shown: CertificateDer<'_>, minted: &Minted, what: &str| {
            assert_eq!(shown, *minted.cert_der(), "{what}, {version:?}");
        };
        checks(shown(x()).await, &p256, "all kinds");
        checks(shown(x().without_sni()).await, &p256, "no name");
        checks(shown(x().announcing("RSA")).await, &rsa, "RSA");
        checks(shown(x().announcing("ECDSA_NISTP256")).await, &p256, "P-256");
        // Nothing fits: the handshake fails, and by an alert.
        let error = x().announcing("ED25519").handshake(&proxy, Http::One).await.unwrap_err();
        assert!(error.contains("alert"), "{version:?}: {error}");
        checks(shown(scene.visitor("p384.example").speaking(version)).await, &p384, "P-384");
    }
    // In TLS 1.2 cipher suites name the kind of key as well.
    let x = || scene.visitor("x.example");
    assert_eq!(shown(x().offering("ECDHE_RSA")).await, *rsa.cert_der());
    assert_eq!(shown(x().offering("ECDHE_ECDSA")).await, *p256.cert_der());
}

#[tokio::test]
async fn haproxy_s_name_of_a_pair_stands_for_both() {
    let scene = Scene::new().await;
    let rsa = scene.put("site.pem.rsa", Leaf::server("x.example").key(KeyType::Rsa2048));
    let ecdsa = scene.put("site.pem.ecdsa", Leaf::server("x.example"));
    let pair = scene.folder().join("site.pem");
    let proxy = scene.site.proxy_of(&[&pair], scene.backend.addr(), &[]);
    let x = || scene.visitor("x.example");
    assert_eq!(x().offering("ECDHE_RSA").shown(&proxy).await, *rsa.cert_der());
    assert_eq!(x().offering("ECDHE_ECDSA").shown(&proxy).await, *ecdsa.cert_der());
    assert_eq!(x().shown(&proxy).await, *ecdsa.cert_der());
}

#[tokio::test]
async fn keys_beside_their_certificates_are_found_in_a_folder() {
    let scene = Scene::new().await;
    for (name, cert, key) in [
        ("a.example", "a.pem", "a.key"),
        ("b.example", "b.crt", "b.crt.key"),
        ("c.example", "c.example", "c.example.key"),
    ] {
        let minted = scene.site.ca().issue(Leaf::server(name));
        scene.write(cert, minted.chain_pem());
        scene.write(key, minted.key_pem());
    }
    let proxy = scene.proxy(&["--strict-sni"]);
    for name in ["a.example", "b.example", "c.example"] {
        let answer = scene.visitor(name).get(&proxy, Http::Two, "/").await.unwrap();
        assert_eq!(answer.text(), "web\n", "{name}");
    }
}

#[tokio::test]
async fn a_chain_with_its_intermediate_out_of_order_is_put_right() {
    let scene = Scene::new().await;
    let top = scene.site.ca().intermediate("top");
    let low = top.intermediate("low");
    let minted = low.issue(Leaf::server("x.example"));
    let parts = [top.cert_pem(), minted.key_pem(), minted.cert_pem(), low.cert_pem()];
    scene.write("0.pem", parts.concat());
    let proxy = scene.proxy(&[]);
    let stream = scene.visitor("x.example").handshake(&proxy, Http::One).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap();
    assert_eq!(shown, minted.chain_der());
    let told = || proxy.stderr().contains("0.pem: the chain was out of order");
    eventually("a line about the order", told).await;
}
