//! Sessions are resumed as long as nothing has changed that would let a client in.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use bartizan_testkit::{Crl, HttpBackend, Leaf, TestCa};
use bartizan_tests::{Http, Proxy, Site, Visitor, eventually};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A site whose clients need certificates of another authority, and its files.
struct Scene {
    site: Site,
    clients: TestCa,
    backend: HttpBackend,
}

impl Scene {
    async fn new() -> Self {
        let (site, clients) = (Site::new(), TestCa::new("clients"));
        site.dir().write("clients.pem", clients.cert_pem());
        site.dir().write("clients.crl", clients.crl(Crl::new()));
        Self { site, clients, backend: HttpBackend::start("web").await }
    }

    fn file(&self, name: &str) -> String {
        self.site.dir().join(name).to_str().unwrap().to_owned()
    }

    /// A proxy that wants certificates of the clients, unless `flags` say otherwise.
    fn proxy(&self, mode: &str, flags: &[&str]) -> Proxy {
        let (ca, crl) = (self.file("clients.pem"), self.file("clients.crl"));
        let trust = ["--client-auth", mode, "--client-ca", &ca, "--client-crl", &crl];
        self.site.proxy(&[self.backend.addr()], &[&trust[..], flags].concat())
    }

    fn known(&self, version: &'static SupportedProtocolVersion) -> Visitor {
        let identity = self.clients.issue(Leaf::client("alice"));
        Visitor::new(self.site.ca(), "localhost").showing(&identity).speaking(version)
    }
}

/// Has the proxy load again, and waits until it has.
async fn reload(proxy: &Proxy) {
    let loaded = || proxy.stderr().matches("certificates loaded").count();
    let before = loaded();
    proxy.signal("HUP");
    eventually("a new generation", || loaded() > before).await;
}

#[tokio::test]
async fn a_session_outlives_new_certificates() {
    for version in VERSIONS {
        let scene = Scene::new().await;
        let proxy = scene.proxy("required", &["--workers", "3"]);
        let visitor = scene.known(version);
        assert!(!visitor.resumes(&proxy).await);
        for _ in 0..5 {
            let renewed = scene.site.ca().issue(Leaf::server("localhost"));
            scene.site.dir().write("site.pem", renewed.bundle_pem());
            reload(&proxy).await;
            assert!(visitor.resumes(&proxy).await, "{version:?}");
            assert_eq!(scene.known(version).shown(&proxy).await, *renewed.cert_der());
        }
    }
}

#[tokio::test]
async fn a_session_ends_with_any_change_of_trust_and_the_client_is_served_all_the_same() {
    for version in VERSIONS {
        let scene = Scene::new().await;
        let proxy = scene.proxy("required", &[]);
        let visitor = scene.known(version);
        assert!(!visitor.resumes(&proxy).await);
        assert!(visitor.resumes(&proxy).await);
        let other = scene.clients.issue(Leaf::client("mallory"));
        let more = scene.clients.cert_pem() + &TestCa::new("more").cert_pem();
        for (file, content) in [
            ("clients.crl", scene.clients.crl(Crl::new().revoke(&other))),
            ("clients.crl", scene.clients.crl(Crl::new())),
            ("clients.pem", more),
            ("clients.pem", scene.clients.cert_pem()),
        ] {
            scene.site.dir().write(file, content);
            reload(&proxy).await;
            assert!(!visitor.resumes(&proxy).await, "{version:?}, {file}");
            assert!(visitor.resumes(&proxy).await, "{version:?}, {file}");
        }
    }
}

#[tokio::test]
async fn a_revoked_client_does_not_come_back_by_its_session() {
    for version in VERSIONS {
        let scene = Scene::new().await;
        let proxy = scene.proxy("required", &[]);
        let identity = scene.clients.issue(Leaf::client("alice"));
        let visitor =
            Visitor::new(scene.site.ca(), "localhost").showing(&identity).speaking(version);
        assert!(!visitor.resumes(&proxy).await);
        assert!(visitor.resumes(&proxy).await);
        let crl = scene.clients.crl(Crl::new().revoke(&identity));
        scene.site.dir().write("clients.crl", crl);
        reload(&proxy).await;
        for _ in 0..3 {
            let refused = visitor.visit(&proxy).await.unwrap_err();
            assert!(refused.contains("CertificateRevoked"), "{version:?}: {refused}");
        }
    }
}

/// A client that sends a session of one name along with the handshake for another: rustls keeps
/// sessions by name, this one forgets the names.
mod forged {
    use std::sync::Arc;

    use rustls::client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    };
    use rustls::{ClientConfig, NamedGroup};
    use rustls_pki_types::ServerName;

    /// A client that offers whatever session it has, to whomever.
    pub(super) fn careless(tls: &ClientConfig) -> Arc<ClientConfig> {
        let mut tls = tls.clone();
        let store = Careless(ClientSessionMemoryCache::new(8));
        tls.resumption = Resumption::store(Arc::new(store));
        Arc::new(tls)
    }

    #[derive(Debug)]
    struct Careless(ClientSessionMemoryCache);

    fn one() -> ServerName<'static> {
        "any.example".try_into().unwrap()
    }

    impl ClientSessionStore for Careless {
        fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
            self.0.set_kx_hint(one(), group);
        }

        fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
            self.0.kx_hint(&one())
        }

        fn set_tls12_session(&self, _: ServerName<'static>, session: Tls12ClientSessionValue) {
            self.0.set_tls12_session(one(), session);
        }

        fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
            self.0.tls12_session(&one())
        }

        fn remove_tls12_session(&self, _: &ServerName<'static>) {
            self.0.remove_tls12_session(&one());
        }

        fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
            self.0.insert_tls13_ticket(one(), ticket);
        }

        fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
            self.0.take_tls13_ticket(&one())
        }
    }
}

#[tokio::test]
async fn a_session_of_an_open_name_does_not_open_a_guarded_one() {
    for version in VERSIONS {
        let scene = Scene::new().await;
        let names = Leaf::server("open.example").dns("guarded.example").dns("other.example");
        let minted = scene.site.ca().issue(names);
        scene.site.dir().write("site.pem", minted.bundle_pem());
        let proxy = scene.proxy("required", &["--client-auth-names", "guarded.example"]);
        let visitor = Visitor::new(scene.site.ca(), "open.example").speaking(version);
        let tls = forged::careless(&visitor.tls(Http::One));
        let addr = proxy.addr();
        // Whether a handshake for `name` has resumed, and what came then.
        let ask = async |name: &'static str| {
            let tcp = TcpStream::connect(addr).await.unwrap();
            let connector = TlsConnector::from(tls.clone());
            let mut stream = connector
                .connect(name.try_into().unwrap(), tcp)
                .await
                .map_err(|error| error.to_string())?;
            let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
            // If it is refused, the alert can still be read.
            let _ = stream.write_all(request.as_bytes()).await;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
            let kind = stream.get_ref().1.handshake_kind();
            Ok::<_, String>((kind == Some(HandshakeKind::Resumed), answer))
        };
        assert!(!ask("open.example").await.unwrap().0);
        assert!(ask("open.example").await.unwrap().0, "the forged store does keep sessions");
        let refused = ask("guarded.example").await.unwrap_err();
        assert!(refused.contains("CertificateRequired"), "{version:?}: {refused}");
        // Nor another open one: a session is of its name.
        ask("open.example").await.unwrap();
        let (resumed, answer) = ask("other.example").await.unwrap();
        assert!(!resumed && answer.starts_with("HTTP/1.1 200 "), "{version:?}: {answer}");
    }
}

#[tokio::test]
async fn processes_with_one_secret_resume_each_others_sessions() {
    let scene = Scene::new().await;
    scene.site.dir().write("same", "a secret of thirty-two bytes, or more\n");
    scene.site.dir().write("also-same", "  a secret of thirty-two bytes, or more");
    scene.site.dir().write("other", "another secret of thirty-two bytes...");
    let secret = |name: &str| {
        let flags = ["--ticket-secret".to_owned(), scene.file(name)];
        scene.proxy("required", &[&flags[0], &flags[1]])
    };
    let (one, two, other) = (secret("same"), secret("also-same"), secret("other"));
    let (random, again) = (scene.proxy("required", &[]), scene.proxy("required", &[]));
    for version in VERSIONS {
        let visitor = scene.known(version);
        assert!(!visitor.resumes(&one).await);
        for _ in 0..3 {
            assert!(visitor.resumes(&two).await, "{version:?}");
            assert!(visitor.resumes(&one).await, "{version:?}");
        }
        assert!(!visitor.resumes(&other).await, "{version:?}");
        assert!(!visitor.resumes(&random).await, "{version:?}");
        assert!(!visitor.resumes(&again).await, "{version:?}");
    }
    // The secret is read again, as certificates are.
    let visitor = scene.known(&TLS13);
    assert!(!visitor.resumes(&other).await);
    scene.site.dir().write("other", "a secret of thirty-two bytes, or more");
    reload(&other).await;
    assert!(!visitor.resumes(&other).await);
    assert!(visitor.resumes(&one).await);
}

#[tokio::test]
async fn processes_that_trust_others_do_not_resume_each_others_sessions() {
    let scene = Scene::new().await;
    scene.site.dir().write("secret", "a secret of thirty-two bytes, or more");
    let secret = scene.file("secret");
    let flags = ["--ticket-secret", secret.as_str()];
    let (required, optional) = (scene.proxy("required", &flags), scene.proxy("optional", &flags));
    let off = scene.site.proxy(&[scene.backend.addr()], &flags);
    for version in VERSIONS {
        let visitor = scene.known(version);
        for proxy in [&off, &optional, &required, &off, &required, &optional] {
            assert!(!visitor.resumes(proxy).await, "{version:?}");
        }
    }
    // A session that was made without a certificate, where one may be missing.
    for version in VERSIONS {
        let nobody = Visitor::new(scene.site.ca(), "localhost").speaking(version);
        assert!(!nobody.resumes(&optional).await);
        assert!(nobody.resumes(&optional).await);
        assert!(nobody.visit(&required).await.is_err(), "{version:?}");
    }
}
