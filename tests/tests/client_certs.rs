//! Who has to show a certificate, which ones are good, and what backends are told of them.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::{Duration, SystemTime};

use bartizan_testkit::{Crl, HttpBackend, Leaf, Minted, TestCa};
use bartizan_tests::{Http, Proxy, Site, Visitor, empty, request_to};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

struct Scene {
    site: Site,
    clients: TestCa,
    backend: HttpBackend,
}

impl Scene {
    async fn new() -> Self {
        let site = Site::new();
        let names = ["guarded.site.example", "*.site.example", "plain.test"];
        let leaf = names.into_iter().fold(Leaf::server("localhost"), Leaf::dns);
        site.dir().write("site.pem", site.ca().issue(leaf).bundle_pem());
        let clients = TestCa::new("clients");
        site.dir().write("clients.pem", clients.cert_pem());
        Self { site, clients, backend: HttpBackend::start("web").await }
    }

    fn file(&self, name: &str) -> String {
        self.site.dir().join(name).to_str().unwrap().to_owned()
    }

    fn proxy(&self, mode: &str, flags: &[&str]) -> Proxy {
        let ca = self.file("clients.pem");
        let trust = ["--client-auth", mode, "--client-ca", &ca];
        self.site.proxy(&[self.backend.addr()], &[&trust[..], flags].concat())
    }

    fn alice(&self) -> Minted {
        self.clients.issue(Leaf::client("alice"))
    }

    fn nobody(&self, name: &str) -> Visitor {
        Visitor::new(self.site.ca(), name)
    }

    fn visitor(&self, name: &str, identity: &Minted) -> Visitor {
        self.nobody(name).showing(identity)
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates end by the real calendar")]
fn now() -> SystemTime {
    SystemTime::now()
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn a_mode_says_who_is_served() {
    let scene = Scene::new().await;
    let (good, bad) = (scene.alice(), TestCa::new("clients").issue(Leaf::client("alice")));
    for (mode, without, with_bad) in
        [("off", true, true), ("optional", true, false), ("required", false, false)]
    {
        let proxy = match mode {
            "off" => scene.site.proxy(&[scene.backend.addr()], &[]),
            mode => scene.proxy(mode, &[]),
        };
        for version in VERSIONS {
            let what = format!("{mode}, {version:?}");
            let served = async |visitor: Visitor| visitor.speaking(version).visit(&proxy).await;
            assert_eq!(served(scene.nobody("localhost")).await.is_ok(), without, "{what}");
            assert!(served(scene.visitor("localhost", &good)).await.is_ok(), "{what}");
            let bad = served(scene.visitor("localhost", &bad)).await;
            assert_eq!(bad.is_ok(), with_bad, "{what}: {bad:?}");
        }
    }
}

#[tokio::test]
async fn bad_certificates_are_refused_with_the_alert_for_it_and_the_log_says_why() {
    let scene = Scene::new().await;
    let revoked = scene.clients.issue(Leaf::client("revoked"));
    let crl = scene.clients.crl(Crl::new().revoke(&revoked));
    scene.site.dir().write("clients.crl", crl);
    let issue = |leaf: Leaf| scene.clients.issue(leaf);
    let middle = scene.clients.intermediate("middle");
    let proxy = scene.proxy("optional", &["--client-crl", &scene.file("clients.crl")]);
    let cases = [
        (revoked, "CertificateRevoked", "Revoked"),
        (issue(Leaf::client("old").not_after(now() - DAY)), "CertificateExpired", "xpired"),
        (issue(Leaf::client("new").not_before(now() + DAY)), "CertificateExpired", "not valid yet"),
        (issue(Leaf::new("server").for_servers()), "", ""),
        (TestCa::new("clients").issue(Leaf::client("forged")), "", "certificate"),
        (TestCa::new("others").issue(Leaf::client("other")), "UnknownCA", "UnknownIssuer"),
        // No list of its issuer.
        (middle.issue(Leaf::client("unlisted")), "", "evocation"),
    ];
    for (identity, alert, reason) in cases {
        for version in VERSIONS {
            let before = proxy.stderr().len();
            let visitor = scene.visitor("localhost", &identity).speaking(version);
            let refused = visitor.visit(&proxy).await.unwrap_err();
            let what = format!("{alert} {version:?}: {refused}");
            assert!(refused.contains("alert") && refused.contains(alert), "{what}");
            let log = || proxy.stderr()[before..].to_owned();
            bartizan_tests::eventually(&what, || log().contains("handshake failed")).await;
            assert!(log().contains(reason), "{what}\n{}", log());
        }
    }
    assert!(scene.visitor("localhost", &scene.alice()).visit(&proxy).await.is_ok());
}

#[tokio::test]
async fn required_may_be_limited_to_names() {
    let scene = Scene::new().await;
    let names = ["--client-auth-names", "Guarded.Site.Example,*.deep.example"];
    let proxy = scene.proxy("required", &names);
    let alice = scene.alice();
    for version in VERSIONS {
        for name in ["guarded.site.example", "GUARDED.site.example"] {
            let refused = scene.nobody(name).speaking(version).visit(&proxy).await;
            assert!(
                refused.is_err_and(
                    |e| e.contains("CertificateRequired") || e.contains("HandshakeFailure")
                ),
                "{name}"
            );
            let visitor = scene.visitor(name, &alice).speaking(version);
            assert!(visitor.visit(&proxy).await.is_ok(), "{name}");
        }
        for name in ["localhost", "open.site.example", "plain.test"] {
            assert!(scene.nobody(name).speaking(version).visit(&proxy).await.is_ok(), "{name}");
        }
    }
}

#[tokio::test]
async fn a_guarded_host_is_not_reached_by_the_handshake_of_an_open_one() {
    let scene = Scene::new().await;
    let names = ["--client-auth-names", "guarded.site.example"];
    let proxy = scene.proxy("required", &names);
    let forged =
        |host: &str, fields: &[(&str, &str)]| request_to("GET", host, "/", fields, empty());
    for http in Http::BOTH {
        // By name, by the default without a name, and in spellings of the guarded name.
        for visitor in [scene.nobody("open.site.example"), scene.nobody("localhost").without_sni()]
        {
            let mut client = visitor.open(&proxy, http).await.unwrap();
            for host in
                ["guarded.site.example", "GUARDED.site.example:443", "guarded.site.example.:8443"]
            {
                let answer = client.ask(forged(host, &[])).await.unwrap();
                assert_eq!(answer.status, 421, "{http:?} {host}");
            }
        }
        let mut client = scene.nobody("open.site.example").open(&proxy, http).await.unwrap();
        assert_eq!(client.ask(forged("open.site.example", &[])).await.unwrap().status, 200);
        // The wildcard covers it, and its policy is the same.
        assert_eq!(client.ask(forged("www.site.example", &[])).await.unwrap().status, 200);
        let two =
            client.ask(forged("open.site.example", &[("host", "guarded.site.example")])).await;
        if http == Http::Two {
            assert_eq!(two.unwrap().status, 400, "two hosts");
        } else {
            assert_eq!(two.unwrap().status, 421);
        }
        // And who has shown a certificate for it is served there, and not elsewhere.
        let alice = scene.visitor("guarded.site.example", &scene.alice());
        let mut client = alice.open(&proxy, http).await.unwrap();
        assert_eq!(client.ask(forged("guarded.site.example", &[])).await.unwrap().status, 200);
        assert_eq!(client.ask(forged("open.site.example", &[])).await.unwrap().status, 421);
    }
    assert_eq!(scene.backend.seen().len(), 6, "no other request has come through");
    let nameless = scene.nobody("localhost").without_sni();
    let answer = nameless.get(&proxy, Http::One, "/").await.unwrap();
    assert_eq!(answer.status, 421, "without a name, no host is let through where policies differ");
}

#[tokio::test]
async fn the_common_name_is_passed_on_and_what_clients_claim_is_not() {
    let scene = Scene::new().await;
    let proxy = scene.proxy("optional", &["--client-cn-header", "X-Client-CN"]);
    let claims = [
        ("x-client-cn", "mallory"),
        ("X_Client_CN", "mallory"),
        ("x-client_cn", "mallory"),
        ("x.client.cn", "mallory"),
        ("client-cert", ":bWFsbG9yeQ==:"),
        ("client_cert", ":bWFsbG9yeQ==:"),
        ("Client-Cert-Chain", ":bWFsbG9yeQ==:"),
        ("connection", "x-client-cn"),
        ("x-other", "kept"),
    ];
    for http in Http::BOTH {
        for (visitor, name) in [
            (scene.visitor("localhost", &scene.alice()), Some("alice")),
            (scene.nobody("localhost"), None),
        ] {
            // Again, over a session that is resumed.
            for _ in 0..2 {
                let mut client = visitor.open(&proxy, http).await.unwrap();
                let skip = usize::from(http == Http::Two); // No connection fields in HTTP/2.
                let claims: Vec<_> =
                    claims.iter().filter(|c| skip == 0 || c.0 != "connection").copied().collect();
                let request = request_to("GET", "localhost", "/headers", &claims, empty());
                let answer = client.ask(request).await.unwrap();
                let seen = answer.text().to_lowercase();
                assert!(!seen.contains("mallory") && !seen.contains("bwfs"), "{http:?}: {seen}");
                assert!(seen.contains("x-other: kept"), "{seen}");
                let named = name.map(|name| format!("x-client-cn: {name}\n"));
                match named {
                    Some(named) => assert_eq!(seen.matches(&named).count(), 1, "{seen}"),
                    None => assert!(!seen.contains("client-cn"), "{seen}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn without_the_flag_what_clients_claim_is_removed_as_well() {
    let scene = Scene::new().await;
    let proxy = scene.site.proxy(&[scene.backend.addr()], &[]);
    let claims = [("client-cert", "claimed"), ("Client_Cert_Chain", "claimed")];
    for http in Http::BOTH {
        let mut client = scene.nobody("localhost").open(&proxy, http).await.unwrap();
        let request = request_to("GET", "localhost", "/headers", &claims, empty());
        let seen = client.ask(request).await.unwrap();
        assert!(!seen.text().contains("claimed"), "{}", seen.text());
    }
}

#[tokio::test]
async fn common_names_that_are_no_header_values_do_no_harm() {
    let scene = Scene::new().await;
    let proxy = scene.proxy("required", &["--client-cn-header", "x-client-cn"]);
    for (name, passed) in [
        ("Zoë Łuków", Some("Zoë Łuków")),
        ("a\r\nx-admin: yes", None),
        ("a\nb", None),
        ("", None),
        (" alice", None),
        ("a\u{0}b", None),
        ("alice, bob", Some("alice, bob")),
    ] {
        let identity = scene.clients.issue(Leaf::client(name));
        let visitor = scene.visitor("localhost", &identity);
        for http in Http::BOTH {
            let answer = visitor.get(&proxy, http, "/headers").await.unwrap();
            let seen = answer.text();
            assert!(!seen.contains("x-admin"), "{seen}");
            let line = passed.map(|name| format!("x-client-cn: {name}\n"));
            match line {
                Some(line) => assert!(seen.contains(&line), "{name:?}: {seen}"),
                None => assert!(!seen.contains("x-client-cn"), "{name:?}: {seen}"),
            }
        }
    }
}
