//! Backends that fail at TLS: each says why in the log, and no client notices while another is good.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use bartizan_testkit::{Leaf, Minted, TestCa};
use bartizan_tests::{
    Client, Http, Presents, Proxy, SecureBackend, Site, empty, eventually, full, request,
};
use rustls::version::TLS12;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NAME: &str = "web.internal";

struct Scene {
    site: Site,
    ca: TestCa,
    ca_file: String,
    good: SecureBackend,
}

impl Scene {
    async fn new() -> Self {
        let (site, ca) = (Site::new(), TestCa::new("backends"));
        let ca_file = site.dir().write("backends-ca.pem", ca.cert_pem());
        let ca_file = ca_file.to_str().unwrap().to_owned();
        let good =
            SecureBackend::start("good", &Presents::new(&ca.issue(Leaf::server(NAME)))).await;
        Self { site, ca, ca_file, good }
    }

    /// A proxy before the good backend and a bad one.
    fn proxy(&self, bad: SocketAddr, flags: &[&str]) -> Proxy {
        let base = [
            "--mode",
            "reencrypt",
            "--backend-ca",
            &self.ca_file,
            "--backend-name",
            NAME,
            "--timeout-connect",
            "300ms",
        ];
        self.site.proxy(&[self.good.addr(), bad], &[&base[..], flags].concat())
    }

    /// GETs and POSTs, all of them answered by the good one.
    async fn all_are_served(&self, proxy: &Proxy, what: &str) {
        for http in Http::BOTH {
            let mut client = Client::connect(&self.site, proxy, http).await;
            for turn in 0..6 {
                let answer = match turn % 2 {
                    0 => client.ask(request("GET", "/", empty())).await,
                    _ => client.ask(request("POST", "/count", full("12345"))).await,
                };
                let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(answer.status, 200, "{what}, turn {turn}");
                assert_eq!(answer.backend(), "good", "{what}");
            }
        }
    }
}

/// What the bad backend presents, and what the log has to say of it.
fn bad_certificates(ca: &TestCa) -> Vec<(&'static str, Minted, &'static str)> {
    #[expect(clippy::disallowed_methods, reason = "certificates end by the real calendar")]
    let now = SystemTime::now();
    let day = Duration::from_secs(86_400);
    let good = || Leaf::server(NAME);
    vec![
        ("wrong authority", TestCa::new("else").issue(good()), "no trusted authority"),
        ("wrong name", ca.issue(Leaf::server("else.internal")), "is not for web.internal"),
        ("expired", ca.issue(good().not_before(now - 2 * day).not_after(now - day)), "expired"),
        ("not yet valid", ca.issue(good().not_before(now + day)), "not valid yet"),
    ]
}

#[tokio::test]
async fn a_bad_certificate_is_told_and_no_client_notices() {
    let scene = Scene::new().await;
    for (what, leaf, reason) in bad_certificates(&scene.ca) {
        let bad = SecureBackend::start("bad", &Presents::new(&leaf)).await;
        let quiet = scene.proxy(bad.addr(), &[]);
        scene.all_are_served(&quiet, what).await;
        assert_eq!(bad.requests(), 0, "{what}");

        let flags = ["--check", "tls", "--check-interval", "100ms"];
        let checked = scene.proxy(bad.addr(), &flags);
        eventually(what, || {
            let log = checked.stderr();
            let told = |line: &str| line.contains("unfit") && line.contains(reason);
            log.lines().any(|line| told(line) && line.contains(&bad.addr().to_string()))
        })
        .await;
        scene.all_are_served(&checked, what).await;
        assert_eq!(bad.requests(), 0, "{what}");
    }
}

#[tokio::test]
async fn a_backend_of_old_tls_is_served_and_one_that_is_mended_comes_back() {
    let scene = Scene::new().await;
    let (right, wrong) =
        (scene.ca.issue(Leaf::server(NAME)), scene.ca.issue(Leaf::server("else.internal")));
    let other = SecureBackend::start("other", &Presents::new(&wrong).version(&TLS12)).await;
    let flags = ["--check", "tcp", "--check-interval", "100ms", "--workers", "1"];
    let proxy = scene.proxy(other.addr(), &flags);
    eventually("taken out", || proxy.stderr().contains("unfit")).await;
    other.present(&Presents::new(&right).version(&TLS12));
    let mut client = Client::connect(&scene.site, &proxy, Http::One).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while client.get("/").await.backend() != "other" {
        assert!(tokio::time::Instant::now() < deadline, "not taken back");
    }
}

/// Passes on to `to` what comes, and back no more than `most` bytes; then it is silent.
async fn stalling(to: SocketAddr, most: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                let (mut near_read, mut near_write) = near.split();
                let (far_read, mut far_write) = far.split();
                let back = async {
                    let mut some = far_read.take(most as u64);
                    let _ = tokio::io::copy(&mut some, &mut near_write).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    _ = tokio::io::copy(&mut near_read, &mut far_write) => {}
                    () = back => {}
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_backend_that_stalls_anywhere_in_the_handshake_is_a_failed_dial() {
    let scene = Scene::new().await;
    // Nothing; the middle of a record's head; of ServerHello; of the certificate; one byte before
    // the end of a server's first flight at the earliest.
    for most in [0, 3, 60, 400, 600] {
        let bad = stalling(scene.good.addr(), most).await;
        let proxy = scene.proxy(bad, &[]);
        scene.all_are_served(&proxy, &format!("{most} bytes")).await;
        let proxy = scene.proxy(
            bad,
            &[
                "--check",
                "tcp",
                "--check-interval",
                "100ms",
                "--check-timeout",
                "1s",
                "--fall",
                "1",
            ],
        );
        eventually("the check fails", || {
            proxy.stderr().contains("did not complete the TLS handshake")
        })
        .await;
    }
}

/// Answers whatever comes with `answer`, and closes.
async fn blurting(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut io, _)) = listener.accept().await {
            let _ = io.read(&mut [0; 8192]).await;
            let _ = io.write_all(answer).await;
        }
    });
    addr
}

#[tokio::test]
async fn a_backend_that_speaks_no_tls_is_told_as_that() {
    let scene = Scene::new().await;
    let plain = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    for (answer, reason) in [(&plain[..], "does not speak TLS"), (b"", "during the TLS handshake")]
    {
        let bad = blurting(answer).await;
        scene.all_are_served(&scene.proxy(bad, &[]), reason).await;
        let flags = ["--check", "tcp", "--check-interval", "100ms", "--fall", "1"];
        let proxy = scene.proxy(bad, &flags);
        eventually(reason, || proxy.stderr().contains(reason)).await;
    }
}

#[tokio::test]
async fn clients_are_told_nothing_of_it() {
    let scene = Scene::new().await;
    let leaf = TestCa::new("secret authority").issue(Leaf::server("secret.internal"));
    let bad = SecureBackend::start("bad", &Presents::new(&leaf)).await;
    let base = ["--mode", "reencrypt", "--backend-ca", &scene.ca_file, "--backend-name", NAME];
    let proxy = scene.site.proxy(&[bad.addr()], &[&base[..], &["--retries", "0"]].concat());
    for http in Http::BOTH {
        let mut client = Client::connect(&scene.site, &proxy, http).await;
        let answer = client.get("/").await;
        assert_eq!(answer.status, 502);
        let all = format!("{:?} {}", answer.headers, answer.text());
        for secret in ["internal", "authority", "certificate", &bad.addr().to_string()] {
            assert!(!all.contains(secret), "{all}");
        }
    }
}
