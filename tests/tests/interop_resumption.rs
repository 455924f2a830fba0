//! Sessions of OpenSSL over reloads, over processes, and over changes of trust.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::process::Command;
use std::time::Duration;

use bartizan_testkit::{Crl, HttpBackend, Leaf, TestCa};
use bartizan_tests::program::run_with;
use bartizan_tests::{Proxy, Site, eventually};

const SOON: Duration = Duration::from_secs(20);

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

/// A site whose clients need certificates, and one such client with its session.
struct Scene {
    site: Site,
    clients: TestCa,
    backend: HttpBackend,
}

impl Scene {
    async fn new() -> Self {
        let (site, clients) = (Site::new(), TestCa::new("clients"));
        let leaf = Leaf::server("localhost").dns("guarded.example").dns("open.example");
        site.dir().write("site.pem", site.ca().issue(leaf).bundle_pem());
        site.dir().write("clients.pem", clients.cert_pem());
        site.dir().write("clients.crl", clients.crl(Crl::new()));
        site.dir().write("secret", "a secret of thirty-two bytes, or more");
        let alice = clients.issue(Leaf::client("alice"));
        site.dir().write("alice.pem", alice.chain_pem());
        site.dir().write("alice.key", alice.key_pem());
        Self { site, clients, backend: HttpBackend::start("web").await }
    }

    fn file(&self, name: &str) -> String {
        self.site.dir().join(name).to_str().unwrap().to_owned()
    }

    fn proxy(&self, flags: &[&str]) -> Proxy {
        let (ca, crl) = (self.file("clients.pem"), self.file("clients.crl"));
        let trust = ["--client-auth", "required", "--client-ca", &ca, "--client-crl", &crl];
        self.site.proxy(&[self.backend.addr()], &[&trust[..], flags].concat())
    }

    /// Asks for `name` with the client's certificate; all that `openssl` printed.
    fn ask(&self, proxy: &Proxy, name: &str, args: &[&str]) -> String {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &proxy.addr().to_string(), "-servername", name]);
        command.args(["-ign_eof", "-CAfile"]).arg(self.site.ca_file());
        command.args(["-cert", &self.file("alice.pem"), "-key", &self.file("alice.key")]);
        command.args(args);
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        let asked = || run_with(&mut command, request.as_bytes(), SOON);
        let ended = tokio::task::block_in_place(asked);
        ended.stdout + &ended.stderr
    }

    /// Whether the session is resumed that was kept last; keeps the next one. It has to be served.
    fn resumes(&self, proxy: &Proxy, name: &str, version: &str) -> bool {
        let session = self.file("session");
        let mut args = vec![version, "-sess_out", &session];
        if self.site.dir().join("session").exists() {
            args.extend(["-sess_in", &session]);
        }
        let printed = self.ask(proxy, name, &args);
        assert!(printed.contains("x-backend: web"), "{version} {name}: {printed}");
        assert_ne!(printed.contains("\nNew, TLS"), printed.contains("\nReused, TLS"), "{printed}");
        printed.contains("\nReused, TLS")
    }

    fn forget(&self) {
        let _ = std::fs::remove_file(self.site.dir().join("session"));
    }
}

async fn reload(proxy: &Proxy) {
    let loaded = || proxy.stderr().matches("certificates loaded").count();
    let before = loaded();
    proxy.signal("HUP");
    eventually("a new generation", || loaded() > before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_outlive_new_certificates_and_end_with_every_change_of_trust() {
    for version in VERSIONS {
        let scene = Scene::new().await;
        let proxy = scene.proxy(&[]);
        let resumes = || scene.resumes(&proxy, "localhost", version);
        assert!(!resumes());
        for _ in 0..3 {
            let renewed = scene.site.ca().issue(Leaf::server("localhost"));
            scene.site.dir().write("site.pem", renewed.bundle_pem());
            reload(&proxy).await;
            assert!(resumes(), "{version}: new certificate");
        }
        let mallory = scene.clients.issue(Leaf::client("mallory"));
        let more = scene.clients.cert_pem() + &TestCa::new("more").cert_pem();
        let revoking = scene.clients.crl(Crl::new().revoke(&mallory));
        for (file, content) in [("clients.crl", revoking), ("clients.pem", more)] {
            scene.site.dir().write(file, content);
            reload(&proxy).await;
            assert!(!resumes(), "{version}: new {file}");
            assert!(resumes(), "{version}: the same {file}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_go_from_process_to_process_that_share_a_secret_and_the_trust() {
    for version in VERSIONS {
        let scene = Scene::new().await;
        let secret = scene.file("secret");
        let flags = ["--ticket-secret", secret.as_str()];
        let (one, two) = (scene.proxy(&flags), scene.proxy(&flags));
        assert!(!scene.resumes(&one, "localhost", version));
        for proxy in [&two, &one, &two] {
            assert!(scene.resumes(proxy, "localhost", version), "{version}");
        }
        // A proxy with a secret of its own, and one that wants no certificates.
        assert!(!scene.resumes(&scene.proxy(&[]), "localhost", version), "{version}");
        scene.forget();
        assert!(!scene.resumes(&one, "localhost", version));
        let off = scene.site.proxy(&[scene.backend.addr()], &flags);
        assert!(!scene.resumes(&off, "localhost", version), "{version}");
        assert!(!scene.resumes(&one, "localhost", version), "{version}: back from an open one");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_do_not_go_from_an_open_name_to_a_guarded_one() {
    for version in VERSIONS {
        let scene = Scene::new().await;
        let proxy = scene.proxy(&["--client-auth-names", "guarded.example"]);
        assert!(!scene.resumes(&proxy, "open.example", version));
        assert!(scene.resumes(&proxy, "open.example", version));
        assert!(!scene.resumes(&proxy, "guarded.example", version), "{version}");
        assert!(scene.resumes(&proxy, "guarded.example", version), "{version}");
        // OpenSSL sends what it has to any name; with a bad certificate it gets nowhere.
        scene.forget();
        assert!(!scene.resumes(&proxy, "open.example", version));
        let session = scene.file("session");
        let stranger = scene.site.ca().issue(Leaf::client("stranger"));
        scene.site.dir().write("alice.pem", stranger.chain_pem());
        scene.site.dir().write("alice.key", stranger.key_pem());
        let printed = scene.ask(&proxy, "guarded.example", &[version, "-sess_in", &session]);
        assert!(!printed.contains("x-backend"), "{version}: {printed}");
        assert!(printed.contains("SSL alert number"), "{version}: {printed}");
    }
}
