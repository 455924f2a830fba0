//! No source opens connections faster than it may, and none pays for another.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bartizan_testkit::HttpBackend;
use bartizan_tests::proxy_header::{v1, v2};
use bartizan_tests::tcp::connect_from;
use bartizan_tests::{Client, Http, Proxy, Site, eventually, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(10);

fn source(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// A proxy that passes on to a backend which sends back what it reads.
async fn scene(flags: &[&str]) -> (JoinSet<()>, Proxy) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut backend = JoinSet::new();
    backend.spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reads, mut writes) = tcp.split();
                let _ = tokio::io::copy(&mut reads, &mut writes).await;
            });
        }
    });
    let args = [&["--mode", "passthrough", "--backend", &addr][..], flags].concat();
    (backend, Proxy::start(&args))
}

/// Whether a connection that begins with `header` is served: one that is not is closed.
async fn is_served(proxy: SocketAddr, from: IpAddr, header: &[u8]) -> bool {
    let mut tcp = connect_from(from, proxy).await;
    // One that is refused may be closed before this.
    let _ = tcp.write_all(&[header, b"!"].concat()).await;
    let echo = within(SOON, "an echo or the end", tcp.read_u8()).await;
    echo.is_ok_and(|byte| byte == b'!')
}

/// How many of `count` connections, one after the other, are served.
async fn served(proxy: SocketAddr, from: IpAddr, count: usize) -> usize {
    let mut served = 0;
    for _ in 0..count {
        served += usize::from(is_served(proxy, from, b"").await);
    }
    served
}

#[tokio::test]
async fn a_burst_is_served_then_refused_and_others_are_not_affected() {
    // A token takes a thousand seconds: none comes back while this runs.
    let (_backend, proxy) = scene(&["--limit-source", "0.001,10"]).await;
    assert_eq!(served(proxy.addr(), source(1), 30).await, 10, "all workers count together");
    assert_eq!(served(proxy.addr(), source(2), 5).await, 5);
    assert_eq!(served(proxy.addr(), source(1), 5).await, 0);
    assert_eq!(served(proxy.addr(), source(3), 12).await, 10);
    assert_eq!(served(proxy.addr(), source(2), 10).await, 5, "what was left of its burst");
    eventually("a line about it", || proxy.stderr().contains("too fast")).await;
}

#[tokio::test]
async fn connections_at_once_count_as_those_in_a_row() {
    let (_backend, proxy) = scene(&["--limit-source", "0.001,10", "--workers", "4"]).await;
    let addr = proxy.addr();
    let mut clients = JoinSet::new();
    for _ in 0..40 {
        clients.spawn(is_served(addr, source(1), b""));
    }
    let served = clients.join_all().await.into_iter().filter(|served| *served).count();
    assert_eq!(served, 10);
}

#[tokio::test]
async fn a_source_recovers_with_the_rate() {
    let (_backend, proxy) = scene(&["--limit-source", "5,2"]).await;
    let (addr, begun) = (proxy.addr(), Instant::now());
    let mut admitted = 0;
    while admitted < 8 {
        within(SOON, "another one", async { while !is_served(addr, source(1), b"").await {} })
            .await;
        admitted += 1;
    }
    // Two of the burst, and six at five per second.
    let least = Duration::from_millis(1200);
    assert!(begun.elapsed() >= least, "{admitted} within {:?}", begun.elapsed());
}

#[tokio::test]
async fn behind_a_balancer_the_client_counts_that_the_header_names() {
    let flags = ["--limit-source", "0.001,3", "--accept-proxy", "127.0.0.1"];
    let (_backend, proxy) = scene(&flags).await;
    let target: SocketAddr = "192.0.2.80:443".parse().unwrap();
    for client in ["192.0.2.1", "192.0.2.2"] {
        let mut served = 0;
        for port in 1..=10 {
            let client = SocketAddr::new(client.parse().unwrap(), port);
            let header = if port % 2 == 0 { v1(client, target) } else { v2(client, target, &[]) };
            served += usize::from(is_served(proxy.addr(), source(1), &header).await);
        }
        assert_eq!(served, 3, "{client}");
    }
    assert_eq!(served(proxy.addr(), source(2), 5).await, 3, "one that comes by itself");
}

#[tokio::test]
async fn a_refused_connection_costs_no_handshake() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], &["--limit-source", "0.001,3"]);
    let mut kept = Vec::new();
    for _ in 0..3 {
        kept.push(Client::connect(&site, &proxy, Http::Two).await);
    }
    for _ in 0..5 {
        let refused = Client::handshake(proxy.addr(), site.tls(&["h2"])).await;
        assert!(refused.is_err(), "{refused:?}");
    }
    for client in &mut kept {
        for _ in 0..10 {
            assert_eq!(client.get("/").await.status, 200, "requests are not limited");
        }
    }
}
