//! `--lint-routes` tells which routes browsers would mix up, and what to do.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::{Duration, SystemTime};

use bartizan_testkit::{Leaf, TestCa, refused_addr};
use bartizan_tests::{Ended, Proxy, Site, TlsBackend};

/// A backend whose certificate is for these names.
async fn backend(site: &Site, names: &[&str]) -> TlsBackend {
    let leaf = Leaf::server(names[0]);
    let leaf = names[1..].iter().fold(leaf, |leaf, name| leaf.dns(name));
    TlsBackend::start(names[0], &site.ca().issue(leaf)).await
}

/// Runs it, which takes a thread: the backends run in this one.
async fn lint(routes: &[String], flags: &[&str]) -> Ended {
    let mut args = vec!["--lint-routes".to_owned()];
    args.extend(routes.iter().flat_map(|route| ["--route".to_owned(), route.clone()]));
    args.extend(flags.iter().map(|&flag| flag.to_owned()));
    tokio::task::spawn_blocking(move || Proxy::run(&args)).await.unwrap()
}

fn pass(host: &str, to: &TlsBackend) -> String {
    format!("{host}=pass:{}", to.addr())
}

#[tokio::test]
async fn routes_whose_certificates_do_not_overlap_are_fine() {
    let site = Site::new();
    let a = backend(&site, &["a.example.com"]).await;
    let b = backend(&site, &["b.example.com", "c.example.com"]).await;
    let routes = [
        pass("a.example.com", &a),
        pass("b.example.com", &b),
        pass("c.example.com", &b),
        "d.example.com=reject".to_owned(),
    ];
    let Ended { status, stdout, stderr, .. } = lint(&routes, &[]).await;
    assert_eq!((status.code(), &*stdout, &*stderr), (Some(0), "", ""));
}

#[tokio::test]
async fn a_certificate_that_covers_the_name_of_another_route_is_found() {
    let site = Site::new();
    let a = backend(&site, &["a.example.com", "*.example.com"]).await;
    let b = backend(&site, &["b.example.com"]).await;
    let routes =
        [pass("a.example.com", &a), pass("b.example.com", &b), "no.example.com=reject".to_owned()];
    let Ended { status, stdout, stderr, .. } = lint(&routes, &[]).await;
    assert_eq!((status.code(), &*stderr), (Some(1), ""), "{stdout}");
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), 2, "one for each other route: {stdout}");
    for (line, other) in lines.iter().zip(["b.example.com", "no.example.com"]) {
        assert!(line.starts_with("browsers with an HTTP/2 connection to a.example.com"), "{line}");
        assert!(line.contains(&format!("may use it for {other}")), "{line}");
        assert!(line.contains("*.example.com") && line.contains("421"), "{line}");
        assert!(line.contains(&a.addr().to_string()), "{line}");
    }
}

#[tokio::test]
async fn a_name_that_ends_here_is_looked_at_in_its_certificate() {
    let site = Site::new();
    let shop = backend(&site, &["shop.example.com"]).await;
    let here = site.ca().issue(Leaf::server("www.example.com").dns("shop.example.com"));
    let certs = site.dir().write("here.pem", here.bundle_pem());
    let routes = ["www.example.com=terminate".to_owned(), pass("shop.example.com", &shop)];
    let flags = ["--certs", certs.to_str().unwrap(), "--backend", "127.0.0.1:9"];
    let Ended { status, stdout, .. } = lint(&routes, &flags).await;
    assert_eq!((status.code(), stdout.lines().count()), (Some(1), 1), "{stdout}");
    assert!(stdout.contains("connection to www.example.com (terminate)"), "{stdout}");
    let h1 = lint(&routes, &[&flags[..], &["--alpn", "http/1.1"]].concat()).await;
    assert_eq!(h1.status.code(), Some(1), "{}", h1.stdout);
    assert!(h1.stdout.starts_with("as soon as terminate speaks HTTP/2"), "{}", h1.stdout);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_looked_at_is_named() {
    let site = Site::new();
    let a = backend(&site, &["a.example.com", "b.example.com"]).await;
    let gone = refused_addr();
    let routes = [pass("a.example.com", &a), format!("b.example.com=pass:{gone}")];
    let Ended { status, stdout, stderr, .. } = lint(&routes, &[]).await;
    assert_eq!((status.code(), &*stdout), (Some(2), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("proxy: ") && stderr.contains("b.example.com"), "{stderr}");
}

#[tokio::test]
async fn what_could_be_looked_at_is_reported_all_the_same() {
    let site = Site::new();
    let a = backend(&site, &["a.example.com", "no.example.com"]).await;
    let routes = [
        pass("a.example.com", &a),
        "no.example.com=reject".to_owned(),
        format!("gone.example.com=pass:{}", refused_addr()),
    ];
    let Ended { status, stdout, .. } = lint(&routes, &[]).await;
    assert_eq!((status.code(), stdout.lines().count()), (Some(2), 1), "{stdout}");
}

#[tokio::test]
async fn another_backend_of_the_route_is_looked_at_if_the_first_is_gone() {
    let site = Site::new();
    let a = backend(&site, &["a.example.com", "no.example.com"]).await;
    let routes = [
        format!("a.example.com=pass:{},{}", refused_addr(), a.addr()),
        "no.example.com=reject".to_owned(),
    ];
    let Ended { status, stdout, stderr, .. } = lint(&routes, &[]).await;
    assert_eq!((status.code(), stdout.lines().count()), (Some(1), 1), "{stdout}{stderr}");
}

#[tokio::test]
async fn a_certificate_is_looked_at_even_if_nobody_would_accept_it() {
    #[expect(clippy::disallowed_methods, reason = "certificates end by the real calendar")]
    let past = SystemTime::now() - Duration::from_secs(86_400);
    let leaf = Leaf::server("a.example.com").dns("no.example.com").not_after(past);
    let a = TlsBackend::start("a", &TestCa::new("another authority").issue(leaf)).await;
    let routes = [pass("a.example.com", &a), "no.example.com=reject".to_owned()];
    let Ended { status, stdout, stderr, .. } = lint(&routes, &[]).await;
    assert_eq!((status.code(), stdout.lines().count()), (Some(1), 1), "{stdout}{stderr}");
}
