//! HTTPS in, round robin over servers, out: what the proxy promises when nothing goes wrong.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bartizan_testkit::HttpBackend;
use bartizan_tests::{Client, Http, Site, empty, request_as};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, NamedGroup, ProtocolVersion, SupportedProtocolVersion};

async fn three() -> Vec<HttpBackend> {
    vec![
        HttpBackend::start("web1").await,
        HttpBackend::start("web2").await,
        HttpBackend::start("web3").await,
    ]
}

fn addrs(backends: &[HttpBackend]) -> Vec<std::net::SocketAddr> {
    backends.iter().map(HttpBackend::addr).collect()
}

#[tokio::test]
async fn one_connection_s_requests_are_split_exactly() {
    for http in Http::BOTH {
        let (site, backends) = (Site::new(), three().await);
        let proxy = site.proxy(&addrs(&backends), &[]);
        let mut client = Client::connect(&site, &proxy, http).await;
        let mut order = Vec::new();
        for _ in 0..30 {
            order.push(client.get("/").await.text().trim().to_owned());
        }
        let counts: Vec<_> = backends.iter().map(HttpBackend::requests).collect();
        assert_eq!(counts, [10, 10, 10], "{http:?}");
        for turn in order.windows(3) {
            assert!(turn[0] != turn[1] && turn[1] != turn[2] && turn[0] != turn[2], "{order:?}");
        }
    }
}

#[tokio::test]
async fn requests_of_many_connections_are_split_exactly_by_a_worker() {
    let (site, backends) = (Site::new(), three().await);
    let proxy = site.proxy(&addrs(&backends), &["--workers", "1"]);
    let mut clients = Vec::new();
    for _ in 0..5 {
        for http in Http::BOTH {
            clients.push(Client::connect(&site, &proxy, http).await);
        }
    }
    let tasks: Vec<_> = (clients.into_iter())
        .map(|mut client| {
            tokio::spawn(async move {
                let mut counts = BTreeMap::new();
                for _ in 0..30 {
                    *counts.entry(client.get("/").await.backend().to_owned()).or_insert(0) += 1;
                }
                counts
            })
        })
        .collect();
    let mut answered = BTreeMap::new();
    for task in tasks {
        for (name, count) in task.await.unwrap() {
            *answered.entry(name).or_insert(0) += count;
        }
    }
    let expected = ["web1", "web2", "web3"].map(|name| (name.to_owned(), 100));
    assert_eq!(answered, BTreeMap::from(expected));
}

#[tokio::test]
async fn connections_to_backends_are_kept_and_shared() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--workers", "1"]);
    for http in [Http::One, Http::Two, Http::One] {
        let mut client = Client::connect(&site, &proxy, http).await;
        for path in ["/", "/b/100000", "/chunked/100000", "/status/204", "/"] {
            client.get(path).await;
        }
        client.post("/count", bartizan_tests::fill(100_000)).await;
    }
    assert_eq!((backend.connections(), backend.requests()), (1, 18));
}

#[tokio::test]
async fn as_many_connections_to_a_backend_as_requests_at_once() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--workers", "1"]);
    for _ in 0..2 {
        let mut slow = Vec::new();
        for _ in 0..4 {
            let mut client = Client::connect(&site, &proxy, Http::One).await;
            slow.push(tokio::spawn(async move { client.get("/slow/300").await.status }));
        }
        for answer in slow {
            assert_eq!(answer.await.unwrap(), 200);
        }
    }
    assert_eq!((backend.connections(), backend.requests()), (4, 8));
}

#[tokio::test]
async fn the_backend_learns_who_the_client_is() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &[]);
    let claims = [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-host", "claimed.example"),
        ("forwarded", "for=192.0.2.1"),
    ];
    for http in Http::BOTH {
        let mut client = Client::connect(&site, &proxy, http).await;
        for (sent, earlier) in [(&claims[..], "192.0.2.1, "), (&[], "")] {
            client.ask(request_as("GET", "/headers", sent, empty())).await.unwrap();
            let seen = backend.seen().pop().unwrap();
            let forwarded_for = format!("{earlier}127.0.0.1");
            assert_eq!(seen.header("x-forwarded-for"), Some(&*forwarded_for), "{seen}");
            assert_eq!(seen.header("x-forwarded-proto"), Some("https"), "{seen}");
            assert_eq!(seen.header("x-forwarded-host"), Some("localhost"), "{seen}");
            let elements: Vec<_> = (seen.headers.get_all("forwarded").iter())
                .flat_map(|value| value.to_str().unwrap().split(','))
                .map(str::trim)
                .collect();
            let (last, before) = elements.split_last().unwrap();
            assert_eq!(before.len(), usize::from(!sent.is_empty()), "{seen}");
            for part in ["for=127.0.0.1", "proto=https", "host=localhost"] {
                assert!(last.replace('"', "").split(';').any(|p| p == part), "{part}: {seen}");
            }
            assert_eq!(seen.headers.get_all("x-forwarded-proto").iter().count(), 1, "{seen}");
            assert_eq!(seen.header("host"), Some("localhost"), "{seen}");
        }
    }
}

#[tokio::test]
async fn h2_is_preferred_and_http1_the_default() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &[]);
    let cases: [(&[&str], Option<&[u8]>); 4] = [
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ];
    for (offered, agreed) in cases {
        let stream = Client::handshake(proxy.addr(), site.tls(offered)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        let http = if agreed == Some(b"h2") { Http::Two } else { Http::One };
        assert_eq!(Client::over(stream, http).await.unwrap().get("/").await.text(), "web\n");
    }
    let error = Client::handshake(proxy.addr(), site.tls(&["h3"])).await.unwrap_err();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn alpn_offers_what_the_flag_says() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--alpn", "http/1.1"]);
    let stream = Client::handshake(proxy.addr(), site.tls(&["h2", "http/1.1"])).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn tls_12_and_13_are_spoken_with_post_quantum_key_exchange() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &[]);
    let only = |version: &'static SupportedProtocolVersion| {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(site.ca().roots())
            .with_no_client_auth();
        Arc::new(config)
    };
    for (version, spoken) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let stream = Client::handshake(proxy.addr(), only(version)).await.unwrap();
        let tls = stream.get_ref().1;
        assert_eq!(tls.protocol_version(), Some(spoken));
        if spoken == ProtocolVersion::TLSv1_3 {
            let group = tls.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, NamedGroup::X25519MLKEM768);
        }
        assert_eq!(Client::over(stream, Http::One).await.unwrap().get("/").await.text(), "web\n");
    }
}

#[tokio::test]
async fn it_listens_on_every_address_and_stays_with_plain_text_on_its_port() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let flags = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0"];
    let proxy = site.proxy(&[backend.addr()], &flags);
    for _ in 0..3 {
        let mut plain = tokio::net::TcpStream::connect(proxy.addr()).await.unwrap();
        plain.try_write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut plain, &mut answer);
        let _ = bartizan_tests::within(std::time::Duration::from_secs(5), "its end", read).await;
        assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");
    }
    let mut client = Client::connect(&site, &proxy, Http::Two).await;
    assert_eq!(client.get("/").await.text(), "web\n");
}
