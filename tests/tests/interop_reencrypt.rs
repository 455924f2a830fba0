//! nginx and HAProxy as backends that end TLS themselves and require client certificates.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bartizan_testkit::{HttpBackend, Leaf, Minted, TestCa, refused_addr};
use bartizan_tests::program::curl;
use bartizan_tests::{Client, Haproxy, Http, Nginx, Proxy, Site, eventually, full};

const NAME: &str = "web.internal";
const SOON: Duration = Duration::from_secs(30);

/// The files of both sides.
struct Inside {
    site: Site,
    ca_file: PathBuf,
    server: PathBuf,
    partners_file: PathBuf,
    client: PathBuf,
    stranger: PathBuf,
}

impl Inside {
    fn new() -> Self {
        let site = Site::new();
        let (ca, partners) = (TestCa::new("backends"), TestCa::new("partners"));
        let write = |name: &str, text: String| site.dir().write(name, text);
        let bundle = |minted: Minted| minted.bundle_pem();
        Self {
            ca_file: write("backends-ca.pem", ca.cert_pem()),
            server: write("server.pem", bundle(ca.issue(Leaf::server(NAME)))),
            partners_file: write("partners.pem", partners.cert_pem()),
            client: write("client.pem", bundle(partners.issue(Leaf::client("proxy")))),
            stranger: write(
                "stranger.pem",
                bundle(TestCa::new("strangers").issue(Leaf::client("stranger"))),
            ),
            site,
        }
    }

    /// An nginx that requires a client certificate, and says who came, how, and whether the session
    /// was resumed.
    async fn nginx(&self, name: &str, more: &str) -> (Nginx, SocketAddr) {
        let addr = refused_addr();
        let says =
            format!("{name} $ssl_client_s_dn $server_protocol $ssl_protocol $ssl_session_reused");
        let directives = format!(
            "server_name {NAME}; ssl_client_certificate {}; ssl_verify_client on; {more}
            location / {{ return 200 \"{says}\\n\"; }}",
            self.partners_file.display()
        );
        let server = Nginx::tls_server(&format!("{addr} ssl http2"), &self.server, &directives);
        (Nginx::with(name, &server, "").await, addr)
    }

    /// A HAProxy that requires a client certificate, and says who came.
    async fn haproxy(&self, name: &str) -> (Haproxy, SocketAddr) {
        let addr = refused_addr();
        let running = Haproxy::start(&format!(
            "frontend {name}
    mode http
    bind {addr} ssl crt {} ca-file {} verify required alpn h2,http/1.1
    option httpclose
    http-request return status 200 content-type text/plain lf-string \"{name} %[ssl_c_s_dn(cn)] %[req.ver] %[ssl_fc_protocol] %[ssl_fc_is_resumed]\\n\"
",
            self.server.display(),
            self.partners_file.display()
        ))
        .await;
        (running, addr)
    }

    fn proxy(&self, backends: &[SocketAddr], flags: &[&str]) -> Proxy {
        let ca = self.ca_file.to_str().unwrap();
        let base = ["--mode", "reencrypt", "--backend-ca", ca, "--backend-name", NAME];
        self.site.proxy(backends, &[&base[..], flags].concat())
    }

    fn ask(&self, proxy: &Proxy) -> String {
        let url = proxy.url("/");
        tokio::task::block_in_place(|| curl(&self.site, SOON, &["--fail", &url]))
    }

    fn status(&self, proxy: &Proxy, more: &[&str]) -> String {
        let url = proxy.url("/");
        let args = [&["-o", "/dev/null", "-w", "%{http_code}", &url][..], more].concat();
        tokio::task::block_in_place(|| curl(&self.site, SOON, &args))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_and_haproxy_take_our_certificate_in_both_versions_of_http() {
    let inside = Inside::new();
    let client = inside.client.to_str().unwrap();
    let (_nginx, nginx) = inside.nginx("nginx", "").await;
    let (_haproxy, haproxy) = inside.haproxy("haproxy").await;
    for (proto, version) in [("h1", "1.1"), ("h2", "2.0"), ("auto", "2.0")] {
        let flags = ["--backend-cert", client, "--backend-proto", proto, "--workers", "1"];
        let proxy = inside.proxy(&[nginx, haproxy], &flags);
        let mut answers = [inside.ask(&proxy), inside.ask(&proxy)];
        answers.sort();
        let [one, two] = answers;
        assert!(one.starts_with(&format!("haproxy proxy {version} TLSv1.3")), "{proto}: {one}");
        assert!(
            two.starts_with(&format!("nginx CN=proxy HTTP/{version} TLSv1.3")),
            "{proto}: {two}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_with_a_client_certificate_resume_at_nginx_and_haproxy() {
    let inside = Inside::new();
    let client = inside.client.to_str().unwrap();
    // One request a connection, so that each is a handshake.
    let (_nginx, nginx) = inside.nginx("nginx", "keepalive_timeout 0;").await;
    let (_haproxy, haproxy) = inside.haproxy("haproxy").await;
    let flags = ["--backend-cert", client, "--workers", "1"];
    for (backend, full, resumed) in [(nginx, ".", "r"), (haproxy, "0", "1")] {
        let proxy = inside.proxy(&[backend], &flags);
        let kind = || inside.ask(&proxy).split_whitespace().last().unwrap().to_owned();
        assert_eq!(kind(), full);
        let count = (0..20).filter(|_| kind() == resumed).count();
        println!("{backend}: {count} of 20 resumed");
        assert_eq!(count, 20);
    }
}

/// nginx answers with 400 instead of an alert: that is its answer, and passes.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_certificate_of_ours_is_told_and_another_backend_answers() {
    let inside = Inside::new();
    let stranger = inside.stranger.to_str().unwrap();
    let (_haproxy, haproxy) = inside.haproxy("haproxy").await;
    let (_open, open) = Nginx::tls("open", &inside.server).await;
    for flags in [&["--backend-cert", stranger][..], &[]] {
        let flags = [flags, &["--workers", "1"]].concat();
        let proxy = inside.proxy(&[haproxy], &flags);
        assert_eq!(inside.status(&proxy, &["--data", "x"]), "502");
        let told = if flags.len() > 2 {
            "does not accept the client certificate"
        } else {
            "requires a client certificate"
        };
        eventually(told, || proxy.stderr().contains(told)).await;
        let proxy = inside.proxy(&[haproxy, open], &flags);
        for _ in 0..4 {
            // POST: it must not have been sent to the one that refuses.
            assert_eq!(inside.status(&proxy, &["--data", "x"]), "200");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_of_tls_12_and_of_http_11_alone_are_served() {
    let inside = Inside::new();
    let client = inside.client.to_str().unwrap();
    let (_nginx, nginx) = inside.nginx("nginx", "").await;
    let addr = refused_addr();
    let old = Haproxy::start(&format!(
        "frontend old
    mode http
    bind {addr} ssl crt {} ssl-max-ver TLSv1.2
    http-request return status 200 content-type text/plain lf-string \"old %[req.ver] %[ssl_fc_protocol]\\n\"
",
        inside.server.display()
    ))
    .await;
    let flags = ["--backend-cert", client, "--backend-proto", "auto", "--workers", "1"];
    let proxy = inside.proxy(&[addr, nginx], &flags);
    let answers = [inside.ask(&proxy), inside.ask(&proxy)];
    assert!(answers.iter().any(|answer| answer.starts_with("old 1.1 TLSv1.2")), "{answers:?}");
    drop(old);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_pass_both_ways() {
    let inside = Inside::new();
    let client = inside.client.to_str().unwrap();
    // nginx reads the whole body before it passes it on.
    let plain = HttpBackend::start("plain").await;
    let addr = refused_addr();
    let directives = format!(
        "server_name {NAME}; ssl_client_certificate {}; ssl_verify_client on;
        client_max_body_size 100m; location / {{ proxy_pass http://{}; }}",
        inside.partners_file.display(),
        plain.addr()
    );
    let server = Nginx::tls_server(&format!("{addr} ssl http2"), &inside.server, &directives);
    let _nginx = Nginx::with("nginx", &server, "").await;
    let body = inside.site.dir().write("body", "x".repeat(20_000_000));
    let data = format!("@{}", body.display());
    for proto in ["h1", "h2"] {
        let proxy = inside.proxy(&[addr], &["--backend-cert", client, "--backend-proto", proto]);
        let (up, down) = (proxy.url("/count"), proxy.url("/b/20000000"));
        let ask = |args: &[&str]| {
            tokio::task::block_in_place(|| {
                curl(&inside.site, 4 * SOON, &[&["--fail"], args].concat())
            })
        };
        assert_eq!(ask(&[&up, "--data-binary", &data]).trim(), "20000000", "{proto}");
        assert_eq!(ask(&[&down]).len(), 20_000_000, "{proto}");
    }
}

/// nginx ends a connection after so many requests, and does not look at those that come too late.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_lost_when_nginx_ends_its_http2_connections() {
    const REQUESTS: usize = 200;
    let inside = Inside::new();
    let client = inside.client.to_str().unwrap();
    let (_nginx, nginx) = inside.nginx("nginx", "keepalive_requests 50;").await;
    let flags = ["--backend-cert", client, "--backend-proto", "h2", "--workers", "1"];
    let proxy = inside.proxy(&[nginx], &flags);
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(Client::connect(&inside.site, &proxy, Http::One).await);
    }
    let asks = clients.into_iter().map(async |mut client| {
        for turn in 0..REQUESTS {
            let answer = match turn % 2 {
                0 => client.get("/").await,
                _ => client.post("/", full("12345")).await,
            };
            assert_eq!(answer.status, 200, "turn {turn}");
        }
    });
    futures_util::future::join_all(asks).await;
}
