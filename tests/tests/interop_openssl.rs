//! OpenSSL as the TLS client: versions, ALPN, resumption.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::process::Command;
use std::time::{Duration, SystemTime};

use bartizan_testkit::{HttpBackend, Leaf, Ocsp, TestCa};
use bartizan_tests::program::run_with;
use bartizan_tests::{Proxy, Site, eventually};

const SOON: Duration = Duration::from_secs(20);

const VERSIONS: [(&str, &str); 2] = [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")];

/// Sends one request with `openssl s_client` and returns all that it printed.
fn s_client(site: &Site, proxy: &Proxy, args: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &proxy.addr().to_string(), "-servername", "localhost"]);
    command.args(["-verify_return_error", "-verify_hostname", "localhost", "-ign_eof", "-CAfile"]);
    command.arg(site.ca_file()).args(args);
    // The end of the connection is what ends it: tickets of TLS 1.3 have come by then.
    let input = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let ended = tokio::task::block_in_place(|| run_with(&mut command, input, SOON));
    let printed = ended.stdout + &ended.stderr;
    assert!(printed.contains("Verification: OK"), "{printed}");
    printed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_versions_of_tls_are_spoken() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &[]);
    for (flag, version) in VERSIONS {
        let printed = s_client(&site, &proxy, &[flag]);
        assert!(printed.contains(&format!("New, {version}")), "{printed}");
        assert!(printed.contains("x-backend: web"), "{printed}");
        assert!(printed.contains("No ALPN negotiated"), "{printed}");
    }
    assert_eq!(backend.requests(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alpn_is_agreed_on() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &[]);
    for (flag, _) in VERSIONS {
        for (offered, agreed) in [
            ("http/1.1", "http/1.1"),
            ("h2", "h2"),
            ("http/1.1,h2", "h2"),
            ("h3,http/1.1", "http/1.1"),
        ] {
            let printed = s_client(&site, &proxy, &[flag, "-alpn", offered]);
            let line = format!("ALPN protocol: {agreed}\n");
            assert!(printed.contains(&line), "{flag} {offered}: {printed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_versions_are_refused() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &[]);
    let mut command = Command::new("openssl");
    let addr = proxy.addr().to_string();
    command.args(["s_client", "-connect", &addr, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    let ended = tokio::task::block_in_place(|| run_with(&mut command, b"", SOON));
    assert!(!ended.status.success(), "{}", ended.stdout);
    assert!(ended.stderr.contains("SSL alert number"), "by an alert: {}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_resumed_on_any_worker() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--workers", "4"]);
    for (flag, version) in VERSIONS {
        let session = site.dir().join(format!("session{flag}"));
        let session = session.to_str().unwrap();
        let printed = s_client(&site, &proxy, &[flag, "-sess_out", session]);
        assert!(printed.contains(&format!("New, {version}")), "{printed}");
        for _ in 0..6 {
            // Each resumed connection brings the session for the next: tickets are for one use.
            let args = [flag, "-sess_in", session, "-sess_out", session];
            let printed = s_client(&site, &proxy, &args);
            assert!(printed.contains(&format!("Reused, {version}")), "{printed}");
            assert!(printed.contains("x-backend: web"), "{printed}");
        }
    }
}

/// What OpenSSL says of a staple in both versions.
fn stapled(site: &Site, proxy: &Proxy) -> bool {
    let said = VERSIONS.map(|(flag, _)| stapled_in(flag, site, proxy));
    assert_eq!(said[0], said[1]);
    said[0]
}

fn stapled_in(version: &str, site: &Site, proxy: &Proxy) -> bool {
    let printed = s_client(site, proxy, &[version, "-status"]);
    let (with, without) = ("OCSP Response Status: successful", "OCSP response: no response sent");
    assert_ne!(printed.contains(with), printed.contains(without), "{printed}");
    assert_eq!(printed.contains(with), printed.contains("Cert Status: good"), "{printed}");
    printed.contains(with)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_responses_are_stapled_and_others_left_out_with_a_line_in_the_log() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    #[expect(clippy::disallowed_methods, reason = "responses end by the real calendar")]
    let now = SystemTime::now();
    let day = Duration::from_secs(86_400);
    let issue = || site.ca().issue(Leaf::server("localhost"));
    let (minted, other) = (issue(), issue());
    site.dir().write("site.pem", minted.chain_pem() + &site.ca().cert_pem() + &minted.key_pem());
    let about = |ocsp: Ocsp<'_>| site.ca().ocsp(&minted, ocsp);
    let responder = site.ca().issue(Leaf::new("responder").for_ocsp());
    let strangers = TestCa::new("bartizan test root");
    let fresh = || Ocsp::good().this_update(now - day).next_update(Some(now + day));
    let expired = fresh().this_update(now - 2 * day).next_update(Some(now - day));
    for (response, problem) in [
        (about(fresh()), None),
        (about(fresh().by(&responder)), None),
        (about(expired), Some("expired")),
        (about(fresh().this_update(now + day).next_update(Some(now + 2 * day))), Some("before")),
        (site.ca().ocsp(&other, fresh()), Some("another certificate")),
        (about(Ocsp::revoked(now - day)), Some("revoked")),
        (about(Ocsp::unknown()), Some("does not know")),
        (strangers.ocsp(&minted, fresh()), Some("site.pem.ocsp")),
        (b"garbage".to_vec(), Some("DER")),
        (Vec::new(), Some("site.pem.ocsp")),
    ] {
        site.dir().write("site.pem.ocsp", response);
        let proxy = site.proxy(&[backend.addr()], &[]);
        assert_eq!(stapled(&site, &proxy), problem.is_none(), "{problem:?}");
        let told = || {
            let log = proxy.stderr();
            log.lines().find(|line| line.contains("not stapled")).map(str::to_owned)
        };
        let Some(problem) = problem else {
            assert_eq!(told(), None);
            continue;
        };
        eventually("a line in the log", || told().is_some()).await;
        let line = told().unwrap();
        assert!(line.contains(problem) && line.contains("site.pem.ocsp"), "{line}");
    }
    // A new one is found by the watch, and one that ends is stapled no more.
    let proxy = site.proxy(&[backend.addr()], &[]);
    site.dir().write("site.pem.ocsp", about(fresh().next_update(Some(now + day))));
    let loaded = |n| proxy.stderr().matches("certificates loaded").count() >= n;
    eventually("the response", || loaded(2)).await;
    assert!(stapled(&site, &proxy));
    #[expect(clippy::disallowed_methods, reason = "responses end by the real calendar")]
    let now = SystemTime::now();
    site.dir()
        .write("site.pem.ocsp", about(fresh().next_update(Some(now + Duration::from_secs(6)))));
    eventually("the response", || loaded(3)).await;
    assert!(stapled(&site, &proxy));
    // In one version: it may end between a look at this one and a look at the other.
    eventually("its end", || !stapled_in(VERSIONS[0].0, &site, &proxy)).await;
    assert!(!stapled(&site, &proxy));
    // Not looked at, if it is not wanted.
    site.dir().write("site.pem.ocsp", about(fresh()));
    let proxy = site.proxy(&[backend.addr()], &["--ocsp", "off"]);
    assert!(!stapled(&site, &proxy));
    assert!(!proxy.stderr().contains("stapled"), "{}", proxy.stderr());
}
