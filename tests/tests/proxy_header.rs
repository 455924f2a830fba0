//! Who the client is, told by a balancer before the proxy and told on to what is behind it.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bartizan_testkit::HttpBackend;
use bartizan_tests::proxy_header::{ReadHeader, SIGNATURE, read_header, v1, v2, v2_local};
use bartizan_tests::tcp::{TcpBackend, client_hello, connect, connect_from, end_of};
use bartizan_tests::{Client, Http, Proxy, Site, Visitor, empty, eventually, request, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(10);

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An address that nobody here has (RFC 5737), and where it says that it went.
fn told() -> (SocketAddr, SocketAddr) {
    ("192.0.2.7:4711".parse().unwrap(), "198.51.100.1:443".parse().unwrap())
}

/// A proxy that ends TLS, and believes 127.0.0.1.
async fn trusting(flags: &[&str]) -> (Site, HttpBackend, Proxy) {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let flags = [&["--accept-proxy", "127.0.0.1/32"], flags].concat();
    let proxy = site.proxy(&[backend.addr()], &flags);
    (site, backend, proxy)
}

/// A proxy that passes everything on.
async fn passing(flags: &[&str]) -> (TcpBackend, Proxy) {
    let backend = TcpBackend::listen().await;
    let addr = backend.addr().to_string();
    let args = [&["--mode", "passthrough", "--backend", &addr], flags].concat();
    (backend, Proxy::start(&args))
}

/// What is in `X-Forwarded-For` of a request over `tcp`.
async fn forwarded_for(site: &Site, tcp: TcpStream) -> String {
    let stream = Visitor::new(site.ca(), "localhost").handshake_over(tcp, Http::Two).await.unwrap();
    let mut client = Client::over(stream, Http::Two).await.unwrap();
    let answer = client.get("/headers").await;
    let fields = answer.text().lines();
    let mut named = fields.filter_map(|line| line.strip_prefix("x-forwarded-for: "));
    let found = named.next().unwrap_or_default().to_owned();
    assert_eq!(named.next(), None);
    found
}

#[tokio::test]
async fn the_client_that_a_header_names_is_the_one_that_backends_hear_of() {
    let (site, _backend, proxy) = trusting(&[]).await;
    let (client, target) = told();
    let tlvs = [(0x02, &b"elsewhere.example"[..]), (0x04, &[0; 3]), (0xea, b"unheard of")];
    for (header, expected) in [
        (v1(client, target), "192.0.2.7"),
        (v2(client, target, &[]), "192.0.2.7"),
        (v2(client, target, &tlvs), "192.0.2.7"),
        // The balancer's own connections.
        (v2_local(), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        let mut whole = connect(proxy.addr()).await;
        whole.write_all(&header).await.unwrap();
        assert_eq!(forwarded_for(&site, whole).await, expected, "{header:x?}");
        let mut in_bytes = connect(proxy.addr()).await;
        for byte in &header {
            in_bytes.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(forwarded_for(&site, in_bytes).await, expected, "in bytes: {header:x?}");
    }
}

#[tokio::test]
async fn a_trusted_source_without_a_good_header_is_closed() {
    let (site, backend, proxy) = trusting(&[]).await;
    let (client, target) = told();
    let hello = client_hello(&site, Some("localhost"));
    let mut wrong_sum = v2(client, target, &[(0x03, &[1, 2, 3, 4])]);
    wrong_sum.extend(&hello);
    for (bytes, what) in [
        (hello.clone(), "no header"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "HTTP"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n".to_vec(), "a port is missing"),
        (b"PROXY TCP4 192.0.2.777 198.51.100.1 1 2\r\n".to_vec(), "no address"),
        ([b"PROXY TCP4 ", &[b'1'; 100][..]].concat(), "too long a line"),
        ([&SIGNATURE[..], &[0x31, 0x11, 0, 12], &[0; 12]].concat(), "version 3"),
        ([&SIGNATURE[..], &[0x21, 0x11, 0, 4], &[0; 4]].concat(), "a block too short"),
        (wrong_sum, "a wrong checksum"),
    ] {
        let mut tcp = connect(proxy.addr()).await;
        let _ = tcp.write_all(&bytes).await;
        assert_eq!(within(SOON, what, end_of(&mut tcp)).await, b"", "{what}");
    }
    assert_eq!(backend.connections(), 0);
    let told = || proxy.stderr().matches("PROXY header not read").count();
    eventually("a line about each", || told() == 8).await;
}

#[tokio::test]
async fn a_header_that_does_not_come_is_cut_at_the_limit() {
    let (_site, _backend, proxy) = trusting(&["--timeout-handshake", "800ms"]).await;
    let (client, target) = told();
    let (text, binary) = (v1(client, target), v2(client, target, &[]));
    for sent in [&b""[..], &text[..3], &text[..text.len() - 1], &binary[..14]] {
        let (begun, mut tcp) = (Instant::now(), connect(proxy.addr()).await);
        tcp.write_all(sent).await.unwrap();
        assert_eq!(within(SOON, "the end", end_of(&mut tcp)).await, b"");
        assert!(begun.elapsed() >= Duration::from_millis(800), "{sent:x?}");
    }
}

#[tokio::test]
async fn sources_that_nobody_trusts_are_not_read() {
    let (site, _backend, proxy) = trusting(&[]).await;
    let other = IpAddr::from([127, 0, 0, 2]);
    let tcp = connect_from(other, proxy.addr()).await;
    assert_eq!(forwarded_for(&site, tcp).await, "127.0.0.2", "without a header");
    // With one it is not TLS.
    let (client, target) = told();
    for header in [v1(client, target), v2(client, target, &[])] {
        let mut tcp = connect_from(other, proxy.addr()).await;
        let hello = client_hello(&site, Some("localhost"));
        let _ = tcp.write_all(&[header, hello].concat()).await;
        let answer = within(SOON, "the end", end_of(&mut tcp)).await;
        assert!(answer.is_empty() || answer.len() == 7, "an alert at most: {answer:x?}");
    }
}

#[tokio::test]
async fn a_tunnel_begins_with_the_address_of_its_client() {
    for version in ["v1", "v2"] {
        let (backend, proxy) = passing(&["--send-proxy", version]).await;
        for source in [LOOPBACK, IpAddr::from([127, 0, 0, 2])] {
            let mut client = connect_from(source, proxy.addr()).await;
            client.write_all(b"the bytes").await.unwrap();
            let mut passed = backend.accept().await;
            let expected = ReadHeader::Proxy(client.local_addr().unwrap(), proxy.addr());
            assert_eq!(read_header(&mut passed).await, expected, "{version}");
            let mut bytes = [0; 9];
            within(SOON, "the bytes", passed.read_exact(&mut bytes)).await.unwrap();
            assert_eq!(&bytes, b"the bytes", "{version}");
            // Once, and not before what comes later.
            client.write_all(b"more").await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(end_of(&mut passed).await, b"more", "{version}");
        }
    }
}

#[tokio::test]
async fn what_a_header_tells_is_told_on_in_either_version() {
    let site = Site::new();
    let hello = client_hello(&site, Some("shop.example.com"));
    let (client, target) = told();
    for version in ["v1", "v2"] {
        let shop = TcpBackend::listen().await;
        let route = format!("shop.example.com=pass:{}", shop.addr());
        let flags = ["--route", &route, "--accept-proxy", "127.0.0.0/8", "--send-proxy", version];
        let proxy = Proxy::start(&flags);
        let own = proxy.addr();
        for header in [v1(client, target), v2(client, target, &[(0xea, b"x")]), v2_local()] {
            let mut tcp = connect(own).await;
            let from = tcp.local_addr().unwrap();
            // In one segment: nothing of the hello is lost on the way.
            tcp.write_all(&[&header[..], &hello].concat()).await.unwrap();
            tcp.shutdown().await.unwrap();
            let mut passed = shop.accept().await;
            let told = if header == v2_local() { (from, own) } else { (client, target) };
            let read = read_header(&mut passed).await;
            assert_eq!(read, ReadHeader::Proxy(told.0, told.1), "{version}, {header:x?}");
            assert_eq!(end_of(&mut passed).await, hello, "{version}");
        }
    }
}

/// Answers each request of each connection with the address that its header told.
async fn answer_who(backend: TcpBackend) {
    loop {
        let mut tcp = backend.accept().await;
        tokio::spawn(async move {
            let ReadHeader::Proxy(client, _) = read_header(&mut tcp).await else { return };
            let (body, mut head) = (client.to_string(), Vec::new());
            let length = body.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
            while let Ok(1..) = tcp.read_buf(&mut head).await {
                // A GET at a time: the connection is not used by two at once.
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    tcp.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
    }
}

#[tokio::test]
async fn where_tls_ends_no_client_gets_the_connection_of_another() {
    for version in ["v1", "v2"] {
        let (site, backend) = (Site::new(), TcpBackend::listen().await);
        let proxy = site.proxy(&[backend.addr()], &["--send-proxy", version, "--workers", "1"]);
        let mut serving = JoinSet::new();
        serving.spawn(answer_who(backend));
        let mut clients = Vec::new();
        for last in [1, 2, 3] {
            for http in Http::BOTH {
                let tcp = connect_from(IpAddr::from([127, 0, 0, last]), proxy.addr()).await;
                let own = tcp.local_addr().unwrap().to_string();
                let visitor = Visitor::new(site.ca(), "localhost");
                let stream = visitor.handshake_over(tcp, http).await.unwrap();
                clients.push((own, Client::over(stream, http).await.unwrap()));
            }
        }
        // In turns, so that each finds the connection idle that another has just used.
        for _ in 0..20 {
            for (own, client) in &mut clients {
                let answer = client.ask(request("GET", "/", empty())).await.unwrap();
                assert_eq!(answer.text(), own, "{version}");
            }
        }
    }
}

#[tokio::test]
async fn a_kept_connection_to_a_backend_is_used_again_by_its_client() {
    let (site, backend) = (Site::new(), TcpBackend::listen().await);
    let proxy = site.proxy(&[backend.addr()], &["--send-proxy", "v2"]);
    let mut client = Client::connect(&site, &proxy, Http::One).await;
    let answering = tokio::spawn(async move {
        let mut tcp = backend.accept().await;
        read_header(&mut tcp).await;
        for _ in 0..5 {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(tcp.read_buf(&mut head).await.unwrap() > 0, "closed before its reuse");
            }
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        }
        backend
    });
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status, 200);
    }
    let backend = within(SOON, "the backend", answering).await.unwrap();
    assert!(!backend.has_more(), "one connection is enough");
}

#[tokio::test]
async fn checks_say_that_they_are_the_balancers_own() {
    for version in ["v1", "v2"] {
        let flags = ["--send-proxy", version, "--check", "tcp", "--check-interval", "50ms"];
        let (backend, proxy) = passing(&flags).await;
        for _ in 0..3 {
            let mut check = backend.accept().await;
            assert_eq!(read_header(&mut check).await, ReadHeader::Local, "{version}");
            assert_eq!(end_of(&mut check).await, b"", "{version}: and nothing else");
        }
        assert!(!proxy.stderr().contains("down"), "{}", proxy.stderr());
    }
}
