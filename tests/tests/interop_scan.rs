//! What scanners find in the TLS that the proxy speaks.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use bartizan_testkit::{HttpBackend, KeyType, Leaf};
use bartizan_tests::program::run;
use bartizan_tests::{Proxy, Site};

/// It takes a minute and a half on two idle cores.
const LATE: Duration = Duration::from_secs(600);

/// A proxy with a certificate of each kind of key.
async fn scene() -> (Site, HttpBackend, Proxy) {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    for (name, key) in [("ecdsa", KeyType::P256), ("rsa", KeyType::Rsa2048)] {
        let minted = site.ca().issue(Leaf::server("localhost").key(key));
        site.dir().write(format!("certs/{name}.pem"), minted.bundle_pem());
    }
    let proxy = site.proxy_of(&[&site.dir().join("certs")], backend.addr(), &[]);
    (site, backend, proxy)
}

/// Runs a scanner, whose exit status tells what it has found, and returns what it printed.
fn scan(command: &mut Command) -> String {
    let ended = tokio::task::block_in_place(|| run(command, LATE));
    ended.stdout + &ended.stderr
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sslscan_finds_what_is_meant_to_be_there_and_no_more() {
    let (_site, _backend, proxy) = scene().await;
    let mut command = Command::new("sslscan");
    let sni = "--sni-name=localhost";
    let printed = scan(command.args(["--no-colour", sni, &proxy.addr().to_string()]));
    let enabled: Vec<_> =
        printed.lines().filter_map(|line| line.strip_suffix("enabled").map(str::trim)).collect();
    assert_eq!(enabled, ["TLSv1.2", "TLSv1.3"], "{printed}");
    let accepted = |line: &&str| line.starts_with("Preferred") || line.starts_with("Accepted");
    let suites: BTreeSet<_> =
        printed.lines().filter(accepted).filter_map(|l| l.split_whitespace().nth(4)).collect();
    let meant = BTreeSet::from([
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ]);
    assert_eq!(suites, meant, "{printed}");
    for good in [
        "Session renegotiation not supported",
        "TLSv1.3 not vulnerable to heartbleed",
        "TLSv1.2 not vulnerable to heartbleed",
        "x25519",
    ] {
        assert!(printed.contains(good), "{good}: {printed}");
    }
}

/// A finding of testssl.
#[derive(Debug, Default)]
struct Finding {
    id: String,
    severity: String,
    finding: String,
}

/// Reads the flat JSON of testssl, which has a field a line.
fn findings(json: &str) -> Vec<Finding> {
    let (mut all, mut next) = (Vec::new(), Finding::default());
    for line in json.lines() {
        let Some((name, value)) = line.trim().split_once(':') else { continue };
        let value = value.trim().trim_end_matches(',').trim_matches('"').to_owned();
        match name.trim().trim_matches('"') {
            "id" => next.id = value,
            "severity" => next.severity = value,
            "finding" => {
                next.finding = value;
                all.push(std::mem::take(&mut next));
            }
            _ => {}
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn testssl_finds_nothing_above_low_but_what_is_listed() {
    let (site, _backend, mut proxy) = scene().await;
    let report = site.dir().join("report.json");
    let mut command = Command::new("testssl");
    // By the address, and with no look at any name server; it calls nobody unless it is told to.
    command.args(["--nodns=none", "--ip", "127.0.0.1", "--warnings", "batch", "--quiet"]);
    command.args(["--color", "0", "--add-ca"]).arg(site.ca_file());
    command.arg("--jsonfile").arg(&report);
    command.arg(format!("localhost:{}", proxy.addr().port()));
    let printed = scan(command.current_dir(site.dir().path()));
    let found = findings(&fs::read_to_string(&report).unwrap_or_default());
    let named = |id: &str| found.iter().any(|finding| finding.id == id);
    for part in ["TLS1_3", "cipherlist_NULL", "heartbleed", "ROBOT", "LUCKY13", "ticketbleed"] {
        assert!(named(part), "it has not looked for {part}: {printed}");
    }
    let list = include_str!("../testssl-excluded.txt");
    let excluded: Vec<_> = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let bad: Vec<_> = found
        .iter()
        .filter(|finding| !["OK", "INFO", "LOW"].contains(&finding.severity.as_str()))
        .filter(|finding| !excluded.contains(&finding.id.split(' ').next().unwrap()))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}\n{printed}");
    assert!(proxy.is_running() && !proxy.stderr().contains("panicked"), "{}", proxy.stderr());
}
