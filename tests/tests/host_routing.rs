//! One port, and a decision for each name: TLS ends here, passes through, or is refused.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::Duration;

use bartizan_testkit::{HttpBackend, Leaf, Minted};
use bartizan_tests::tcp::{TcpBackend, alert, client_hello, connect, end_of, say};
use bartizan_tests::{
    Ended, Http, Proxy, Site, TlsBackend, Visitor, empty, eventually, request_to,
};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

const UNRECOGNIZED_NAME: u8 = 112;

/// A proxy that ends TLS for `*.example.com`, but passes `shop` on and refuses `mail`.
struct Scene {
    site: Site,
    shop: Minted,
    shops: [TlsBackend; 2],
    _www: HttpBackend,
    proxy: Proxy,
}

async fn scene() -> Scene {
    let (site, www) = (Site::new(), HttpBackend::start("www").await);
    let shop = site.ca().issue(Leaf::server("shop.example.com"));
    let shops = [TlsBackend::start("one", &shop).await, TlsBackend::start("two", &shop).await];
    let here = site.ca().issue(Leaf::server("www.example.com").dns("*.example.com"));
    let certs = site.dir().write("here.pem", here.bundle_pem());
    let pass = format!("shop.example.com=pass:{},{}", shops[0].addr(), shops[1].addr());
    let routes = ["www.example.com=terminate", &pass, "mail.example.com=reject"];
    let mut flags = vec!["--workers", "1"];
    flags.extend(routes.into_iter().flat_map(|route| ["--route", route]));
    let proxy = site.proxy_of(&[&certs], www.addr(), &flags);
    Scene { site, shop, shops, _www: www, proxy }
}

/// A proxy in mode passthrough with these routes, and the backend of everything else.
async fn passing(routes: &[&str], flags: &[&str]) -> (Site, TcpBackend, Proxy) {
    let (site, other) = (Site::new(), TcpBackend::listen().await);
    let addr = other.addr().to_string();
    let mut args = vec!["--mode", "passthrough", "--backend", &addr];
    args.extend(routes.iter().flat_map(|route| ["--route", route]));
    args.extend(flags);
    let proxy = Proxy::start(&args);
    (site, other, proxy)
}

/// Sends `bytes` and their end, and returns what `backend` has got.
async fn passed(proxy: &Proxy, backend: &TcpBackend, bytes: &[u8]) -> Vec<u8> {
    let mut client = connect(proxy.addr()).await;
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    backend.record().await
}

/// The line with which the proxy refuses this command line.
fn refusal(args: &[&str]) -> String {
    let Ended { status, stdout, stderr, .. } = Proxy::run(args);
    assert_eq!((status.code(), &*stdout), (Some(2), ""), "{args:?}\n{stderr}");
    assert!(stderr.ends_with('\n') && stderr.lines().count() == 1, "{args:?}\n{stderr}");
    stderr
}

#[tokio::test]
async fn one_port_ends_tls_passes_it_on_and_refuses_it_by_name() {
    let Scene { site, shop, shops, _www, proxy } = scene().await;
    let www = Visitor::new(site.ca(), "www.example.com");
    for http in Http::BOTH {
        assert_eq!(www.get(&proxy, http, "/").await.unwrap().text(), "www\n", "{http:?}");
    }
    let visitor = Visitor::new(site.ca(), "shop.example.com").forgetful();
    assert_eq!(visitor.shown(&proxy).await, *shop.cert_der(), "the backends' own certificate");
    for _ in 0..10 {
        visitor.get(&proxy, Http::One, "/").await.unwrap();
    }
    assert_eq!(shops.each_ref().map(TlsBackend::served), [5, 5], "both, in turn");
    let hello = client_hello(&site, Some("mail.example.com"));
    assert_eq!(say(proxy.addr(), &hello).await, alert(UNRECOGNIZED_NAME));
    eventually("a line about it", || proxy.stderr().contains("mail.example.com")).await;
}

#[tokio::test]
async fn a_session_of_one_backend_is_resumed_through_the_proxy() {
    let site = Site::new();
    let shop = site.ca().issue(Leaf::server("shop.example.com"));
    let backend = TlsBackend::start("shop", &shop).await;
    let route = format!("shop.example.com=pass:{}", backend.addr());
    let proxy = Proxy::start(&["--route", &route]);
    let visitor = Visitor::new(site.ca(), "shop.example.com");
    assert!(!visitor.resumes(&proxy).await);
    assert!(visitor.resumes(&proxy).await, "a hello with a ticket is routed as well");
}

#[tokio::test]
async fn in_mode_terminate_everything_else_ends_here() {
    let Scene { site, _www, proxy, .. } = scene().await;
    for http in Http::BOTH {
        let other = Visitor::new(site.ca(), "other.example.com");
        assert_eq!(other.get(&proxy, http, "/").await.unwrap().text(), "www\n", "{http:?}");
        let nameless = Visitor::new(site.ca(), "www.example.com").without_sni();
        assert_eq!(nameless.get(&proxy, http, "/").await.unwrap().text(), "www\n", "{http:?}");
    }
}

#[tokio::test]
async fn in_mode_passthrough_everything_else_is_passed_on_as_it_came() {
    let (site, other, proxy) = passing(&["mail.example.com=reject"], &[]).await;
    let hellos = [Some("other.example.com"), None].map(|name| client_hello(&site, name));
    for hello in hellos {
        assert_eq!(passed(&proxy, &other, &hello).await, hello);
    }
    let hello = client_hello(&site, Some("mail.example.com"));
    assert_eq!(say(proxy.addr(), &hello).await, alert(UNRECOGNIZED_NAME));
}

#[tokio::test]
async fn what_is_not_tls_goes_where_everything_else_goes() {
    let (_site, other, proxy) = passing(&["mail.example.com=reject"], &[]).await;
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: mail.example.com\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        // Of a source that nobody trusts: bytes like others.
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        b"\0",
    ] {
        assert_eq!(passed(&proxy, &other, bytes).await, bytes);
    }
}

#[tokio::test]
async fn without_backends_everything_else_is_refused() {
    let (site, shop) = (Site::new(), TcpBackend::listen().await);
    let route = format!("shop.example.com=pass:{}", shop.addr());
    for mode in ["terminate", "passthrough"] {
        let proxy = Proxy::start(&["--mode", mode, "--route", &route]);
        for name in [Some("other.example.com"), Some("x.shop.example.com"), None] {
            let hello = client_hello(&site, name);
            let answer = say(proxy.addr(), &hello).await;
            assert_eq!(answer, alert(UNRECOGNIZED_NAME), "{mode}, {name:?}");
        }
        let hello = client_hello(&site, Some("shop.example.com"));
        assert_eq!(passed(&proxy, &shop, &hello).await, hello, "{mode}");
        assert!(!shop.has_more(), "{mode}: refused means not connected");
    }
}

#[tokio::test]
async fn a_wildcard_stands_for_one_label_and_an_exact_name_comes_first() {
    let (wild, exact) = (TcpBackend::listen().await, TcpBackend::listen().await);
    let routes = [
        format!("*.shop.example.com=pass:{}", wild.addr()),
        format!("de.shop.example.com=pass:{}", exact.addr()),
    ];
    let (site, other, proxy) = passing(&[&routes[0], &routes[1]], &[]).await;
    for (name, backend) in [
        ("fr.shop.example.com", &wild),
        ("de.shop.example.com", &exact),
        ("shop.example.com", &other),
        ("a.fr.shop.example.com", &other),
    ] {
        let hello = client_hello(&site, Some(name));
        assert_eq!(passed(&proxy, backend, &hello).await, hello, "{name}");
    }
}

#[tokio::test]
async fn names_are_the_same_in_any_case() {
    let (shop, wild) = (TcpBackend::listen().await, TcpBackend::listen().await);
    let routes = [
        format!("SHOP.Example.com=pass:{}", shop.addr()),
        format!("*.Wild.EXAMPLE.com=pass:{}", wild.addr()),
    ];
    let (site, _other, proxy) = passing(&[&routes[0], &routes[1]], &[]).await;
    for (name, backend) in [("shop.example.com", &shop), ("a.wild.example.com", &wild)] {
        let hello = client_hello(&site, Some(name));
        let at = hello.windows(name.len()).position(|part| part == name.as_bytes()).unwrap();
        let mut upper = hello.clone();
        upper[at..at + name.len()].make_ascii_uppercase();
        for hello in [hello, upper] {
            assert_eq!(passed(&proxy, backend, &hello).await, hello, "{name}");
        }
    }
}

#[tokio::test]
async fn a_hello_that_is_none_is_answered_by_the_alert_that_fits() {
    let (site, other, proxy) = passing(&["mail.example.com=reject"], &[]).await;
    let hello = client_hello(&site, Some("other.example.com"));
    let changed = |at: usize, value: u8| {
        let mut hello = hello.clone();
        hello[at] = value;
        hello
    };
    // A message of 64 KiB, in full records: over what is kept of one.
    let mut oversized = vec![22, 3, 1, 0x40, 0, 1, 1, 0, 0];
    oversized.resize(16_389, 3);
    for (bytes, description, what) in [
        (changed(5, 2), 10, "a ServerHello"),
        (changed(43, 33), 50, "a session id that is too long"),
        (changed(3, 0x41), 22, "a record that is too long"),
        (vec![22, 3, 1, 0, 0], 50, "an empty record"),
        (oversized, 47, "a hello that is too long"),
    ] {
        assert_eq!(say(proxy.addr(), &bytes).await, alert(description), "{what}");
    }
    assert!(!other.has_more(), "nobody's bytes have gone anywhere");
    assert_eq!(passed(&proxy, &other, &hello).await, hello, "others are served");
}

#[tokio::test]
async fn a_hello_that_does_not_come_is_cut_at_the_limit() {
    let flags = ["--timeout-handshake", "800ms"];
    let (site, other, proxy) = passing(&["mail.example.com=reject"], &flags).await;
    let hello = client_hello(&site, Some("other.example.com"));
    for sent in [0, 1, 5, hello.len() / 2, hello.len() - 1] {
        let begun = Instant::now();
        let mut client = connect(proxy.addr()).await;
        client.write_all(&hello[..sent]).await.unwrap();
        let answer = end_of(&mut client).await;
        assert!(begun.elapsed() >= Duration::from_millis(800), "after {sent} bytes");
        assert!(answer.is_empty(), "after {sent} bytes: {answer:?}");
    }
    assert!(!other.has_more());
}

#[tokio::test]
async fn a_connection_for_one_route_does_not_serve_names_of_another() {
    let Scene { site, _www, proxy, .. } = scene().await;
    for http in Http::BOTH {
        let visitor = Visitor::new(site.ca(), "www.example.com");
        let mut client = visitor.open(&proxy, http).await.unwrap();
        for (host, status) in [
            ("shop.example.com", 421),
            ("SHOP.example.com:443", 421),
            ("mail.example.com", 421),
            // Everything else ends here as well.
            ("www.example.com", 200),
            ("other.example.com", 200),
        ] {
            let answer = client.ask(request_to("GET", host, "/", &[], empty())).await.unwrap();
            assert_eq!(answer.status, status, "{http:?}, {host}");
        }
    }
}

#[tokio::test]
async fn where_everything_else_passes_through_only_names_that_end_here_are_served() {
    let (site, www) = (Site::new(), HttpBackend::start("www").await);
    let here = site.ca().issue(Leaf::server("www.example.com").dns("*.example.com"));
    let certs = site.dir().write("here.pem", here.bundle_pem());
    let routes = ["www.example.com=terminate", "web.example.com=terminate"];
    let flags = ["--mode", "passthrough", "--route", routes[0], "--route", routes[1]];
    let proxy = site.proxy_of(&[&certs], www.addr(), &flags);
    for http in Http::BOTH {
        let visitor = Visitor::new(site.ca(), "www.example.com");
        let mut client = visitor.open(&proxy, http).await.unwrap();
        for (host, status) in
            [("www.example.com", 200), ("web.example.com", 200), ("other.example.com", 421)]
        {
            let answer = client.ask(request_to("GET", host, "/", &[], empty())).await.unwrap();
            assert_eq!(answer.status, status, "{http:?}, {host}");
        }
    }
}

#[test]
fn routes_that_contradict_each_other_are_refused() {
    let pass = "shop.example.com=pass:127.0.0.1:1";
    for other in [pass, "shop.example.com=reject", "SHOP.Example.com=pass:127.0.0.1:2"] {
        let line = refusal(&["--route", pass, "--route", other]);
        assert!(line.contains("shop.example.com"), "{line}");
    }
    let line = refusal(&["--route", "*.a.example=reject", "--route", "*.A.example=reject"]);
    assert!(line.contains("*.a.example"), "{line}");
}

#[test]
fn routes_that_cannot_be_read_are_refused() {
    for (route, words) in [
        ("shop.example.com", "HOST=ACTION"),
        ("shop.example.com=fly", "pass:ADDR"),
        ("shop.example.com=reject:127.0.0.1:1", "pass:ADDR"),
        ("shop.example.com=pass:", "--route"),
        ("shop.example.com=pass:127.0.0.1", "127.0.0.1"),
        ("shop.example.com=pass:127.0.0.1:1,", "--route"),
        ("shop.example.com=pass:127.0.0.1:1,127.0.0.1:1", "127.0.0.1:1"),
        ("=reject", "--route"),
        ("a.*.example.com=reject", "a.*.example.com"),
        ("*=reject", "*"),
        ("shop.example.com=reencrypt:", "--route"),
    ] {
        let line = refusal(&["--route", route]);
        assert!(line.contains(words), "{route}: {line}");
    }
}
