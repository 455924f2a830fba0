//! A backend that TLS passes on to gets no client before it has proven who it is.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::{Duration, SystemTime};

use bartizan_testkit::{Leaf, Minted, TestCa};
use bartizan_tests::{Ended, Http, Proxy, Site, TlsBackend, Visitor, eventually};
use tokio::time::Instant;

const NAME: &str = "shop.example.com";

fn good(site: &Site) -> Minted {
    site.ca().issue(Leaf::server(NAME))
}

/// Certificates that are not to be accepted, and what the log says of each.
fn bad(site: &Site) -> [(Minted, &'static str); 3] {
    #[expect(clippy::disallowed_methods, reason = "certificates end by the real calendar")]
    let now = SystemTime::now();
    let expired = Leaf::server(NAME).not_after(now - Duration::from_secs(86_400));
    [
        (site.ca().issue(Leaf::server("else.example.com")), "is not for"),
        (site.ca().issue(expired), "expired"),
        (TestCa::new("another authority").issue(Leaf::server(NAME)), "no trusted authority"),
    ]
}

/// A proxy that checks these backends of one name.
fn checking(site: &Site, backends: &[&TlsBackend], flags: &[&str]) -> Proxy {
    let addrs: Vec<_> = backends.iter().map(|backend| backend.addr().to_string()).collect();
    let route = format!("{NAME}=pass:{}", addrs.join(","));
    let ca = site.ca_file().to_str().unwrap();
    let args = ["--route", &route, "--check", "tls", "--backend-ca", ca, "--workers", "1"];
    Proxy::start(&[&args[..], flags].concat())
}

/// Visits until it is served. Until then it is closed; a bad backend that it got to would show in
/// the error, because it checks certificates as well.
async fn visit_until_served(visitor: &Visitor, proxy: &Proxy) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match visitor.get(proxy, Http::One, "/").await {
            Ok(answer) => {
                assert_eq!(answer.text(), "good\n");
                return;
            }
            Err(error) => {
                assert!(!error.contains("certificate"), "it was let through: {error}");
                assert!(Instant::now() < deadline, "never served: {error}");
            }
        }
    }
}

#[tokio::test]
async fn from_the_first_moment_a_bad_certificate_gets_no_client() {
    let site = Site::new();
    for (identity, reason) in bad(&site) {
        let one = TlsBackend::start("good", &good(&site)).await;
        let two = TlsBackend::start("bad", &identity).await;
        let proxy = checking(&site, &[&two, &one], &["--check-interval", "200ms"]);
        let visitor = Visitor::new(site.ca(), NAME).forgetful();
        visit_until_served(&visitor, &proxy).await;
        for _ in 0..10 {
            let answer = visitor.get(&proxy, Http::One, "/").await.unwrap();
            assert_eq!(answer.text(), "good\n");
        }
        assert_eq!(two.served(), 0, "{reason}");
        eventually("a line that says why", || {
            let log = proxy.stderr();
            log.contains("unfit") && log.contains(reason)
        })
        .await;
        let down = |line: &&str| line.contains("unfit") && line.contains(&two.addr().to_string());
        let log = proxy.stderr();
        assert_eq!(log.lines().filter(down).count(), 1, "said once: {log}");
    }
}

#[tokio::test]
async fn with_nothing_but_bad_certificates_clients_are_closed() {
    let site = Site::new();
    let [(wrong_name, _), _, (wrong_ca, _)] = bad(&site);
    let one = TlsBackend::start("one", &wrong_name).await;
    let two = TlsBackend::start("two", &wrong_ca).await;
    let proxy = checking(&site, &[&one, &two], &["--check-interval", "200ms"]);
    let visitor = Visitor::new(site.ca(), NAME).forgetful();
    let refused = async |count: usize| {
        for _ in 0..count {
            let error = visitor.get(&proxy, Http::One, "/").await.unwrap_err();
            assert!(!error.contains("certificate"), "it was let through: {error}");
        }
    };
    refused(10).await;
    eventually("both checks", || proxy.stderr().matches("unfit").count() == 2).await;
    refused(10).await;
}

#[tokio::test]
async fn a_certificate_that_turns_bad_takes_its_backend_out_until_it_is_good_again() {
    let site = Site::new();
    let identity = good(&site);
    let interval = Duration::from_secs(2);
    let one = TlsBackend::start("good", &identity).await;
    let two = TlsBackend::start("good", &identity).await;
    let proxy = checking(&site, &[&one, &two], &["--check-interval", "2s", "--rise", "1"]);
    eventually("both to be up", || proxy.stderr().matches("backend is up").count() == 2).await;
    let visitor = Visitor::new(site.ca(), NAME).forgetful();

    let [(wrong_name, _), ..] = bad(&site);
    let changed = Instant::now();
    two.present(&wrong_name);
    eventually("the change to be found", || proxy.stderr().contains("unfit")).await;
    assert!(changed.elapsed() < interval * 2, "{:?}", changed.elapsed());
    for _ in 0..10 {
        assert_eq!(visitor.get(&proxy, Http::One, "/").await.unwrap().text(), "good\n");
    }
    assert_eq!(two.served(), 0);

    two.present(&identity);
    eventually("its return", || proxy.stderr().matches("backend is up").count() == 3).await;
    for _ in 0..10 {
        visitor.get(&proxy, Http::One, "/").await.unwrap();
    }
    assert_eq!(two.served(), 5, "half of them");
}

#[tokio::test]
async fn a_chain_that_differs_from_those_of_its_peers_is_reported_and_serves() {
    let site = Site::new();
    let identity = good(&site);
    let backends = [
        TlsBackend::start("good", &identity).await,
        TlsBackend::start("good", &identity).await,
        TlsBackend::start("good", &good(&site)).await,
    ];
    let all = backends.each_ref();
    let proxy = checking(&site, &all, &["--check-interval", "200ms", "--rise", "1"]);
    let odd = backends[2].addr().to_string();
    eventually("a line about it", || {
        let log = proxy.stderr();
        log.lines().any(|line| line.contains("chain differs") && line.contains(&odd))
    })
    .await;
    eventually("all to be up", || proxy.stderr().matches("backend is up").count() == 3).await;
    let visitor = Visitor::new(site.ca(), NAME).forgetful();
    for _ in 0..9 {
        visitor.get(&proxy, Http::One, "/").await.unwrap();
    }
    assert_eq!(backends.each_ref().map(TlsBackend::served), [3, 3, 3]);
}

#[tokio::test]
async fn one_name_may_stand_for_the_certificates_of_all_backends() {
    let site = Site::new();
    let internal = site.ca().issue(Leaf::server("internal.example.com").dns(NAME));
    let other = site.ca().issue(Leaf::server(NAME));
    let one = TlsBackend::start("good", &internal).await;
    let two = TlsBackend::start("bad", &other).await;
    let flags = ["--backend-name", "internal.example.com", "--check-interval", "200ms"];
    let proxy = checking(&site, &[&one, &two], &flags);
    let visitor = Visitor::new(site.ca(), NAME).forgetful();
    visit_until_served(&visitor, &proxy).await;
    eventually("the other's refusal", || proxy.stderr().contains("unfit")).await;
    assert_eq!(two.served(), 0);
}

#[tokio::test]
async fn a_wildcard_route_asks_for_a_certificate_of_all_its_names() {
    let site = Site::new();
    let all = site.ca().issue(Leaf::server("*.shop.example.com"));
    let some = site.ca().issue(Leaf::server("de.shop.example.com"));
    let one = TlsBackend::start("good", &all).await;
    let two = TlsBackend::start("bad", &some).await;
    let route = format!("*.shop.example.com=pass:{},{}", one.addr(), two.addr());
    let ca = site.ca_file().to_str().unwrap();
    let args = ["--route", &route, "--check", "tls", "--backend-ca", ca];
    let proxy = Proxy::start(&[&args[..], &["--check-interval", "200ms"]].concat());
    let visitor = Visitor::new(site.ca(), "de.shop.example.com").forgetful();
    visit_until_served(&visitor, &proxy).await;
    eventually("the other's refusal", || proxy.stderr().contains("unfit")).await;
    assert_eq!(two.served(), 0);
}

#[test]
fn authorities_that_cannot_be_read_are_named() {
    let site = Site::new();
    let garbage = site.dir().write("garbage.pem", "garbage\n");
    let missing = site.dir().join("missing.pem");
    for (path, name) in [(garbage, "garbage.pem"), (missing, "missing.pem")] {
        let route = format!("{NAME}=pass:127.0.0.1:9");
        let path = path.to_str().unwrap();
        let args = ["--route", &route, "--check", "tls", "--backend-ca", path];
        let Ended { status, stderr, .. } = Proxy::run(&args);
        assert_eq!((status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.contains(name), "{stderr}");
    }
}
