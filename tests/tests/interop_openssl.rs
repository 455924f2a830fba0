//! OpenSSL as the TLS client: versions, ALPN, resumption.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::process::Command;
use std::time::Duration;

use bartizan_testkit::HttpBackend;
use bartizan_tests::program::run_with;
use bartizan_tests::{Proxy, Site};

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
