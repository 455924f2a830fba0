//! Clients that do not shake hands as they should.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use bartizan_testkit::HttpBackend;
use bartizan_tests::{Client, Http, Proxy, Site, Visitor, eventually, within};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

/// What the limit is set to, where a test waits for it.
const LIMIT: Duration = Duration::from_millis(800);
const FLAG: &str = "800ms";

const SOON: Duration = Duration::from_secs(6);

/// Descriptors that come with time: of workers that are still starting, of connections to backends.
const OWN: usize = 16;

async fn scene(flags: &[&str]) -> (Site, HttpBackend, Proxy) {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let proxy = site.proxy(&[backend.addr()], flags);
    (site, backend, proxy)
}

fn hello(site: &Site) -> Vec<u8> {
    let (mut hello, name) = (Vec::new(), "localhost".try_into().unwrap());
    let mut tls = rustls::ClientConnection::new(site.tls(&["h2"]), name).unwrap();
    tls.write_tls(&mut hello).unwrap();
    hello
}

/// Bytes without a pattern.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Sends `bytes`, reads to the end, and tells how long that took.
async fn end_of(addr: SocketAddr, bytes: Vec<u8>) -> (Vec<u8>, Duration) {
    let (begun, mut tcp) = (Instant::now(), TcpStream::connect(addr).await.unwrap());
    // It may be closed before all is sent.
    let _ = tcp.write_all(&bytes).await;
    let mut answer = Vec::new();
    let _ = within(SOON, "the end", tcp.read_to_end(&mut answer)).await;
    (answer, begun.elapsed())
}

#[tokio::test]
async fn garbage_is_answered_by_an_alert_at_once() {
    let (site, _backend, mut proxy) = scene(&[]).await;
    Client::connect(&site, &proxy, Http::Two).await.get("/").await;
    let before = proxy.stat();
    let mut record = vec![22, 3, 1, 0x3f, 0xff];
    record.extend(noise(16 * 1024));
    // A hello that says that it goes on for 16 MiB, in records of full length.
    let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    endless.extend(noise(16 * 1024 - 4));
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec();
    for bytes in [noise(16 * 1024), vec![0; 16 * 1024], record, endless, http] {
        for _ in 0..20 {
            let (answer, took) = end_of(proxy.addr(), bytes.clone()).await;
            assert!(took < SOON, "{took:?}");
            if let Some(&first) = answer.first() {
                assert_eq!((first, answer.len()), (21, 7), "an alert: {answer:?}");
            }
        }
    }
    eventually("descriptors to come back", || proxy.stat().descriptors <= before.descriptors + OWN)
        .await;
    assert!(proxy.is_running() && !proxy.stderr().contains("panicked"), "{}", proxy.stderr());
    assert_eq!(Client::connect(&site, &proxy, Http::One).await.get("/").await.status, 200);
}

#[tokio::test]
async fn a_hello_in_single_bytes_and_records_is_a_hello() {
    let (site, _backend, proxy) = scene(&[]).await;
    let whole = hello(&site);
    // Each record has a handful of bytes: 5 of header, then those of the message.
    let message = &whole[5..];
    let mut split = Vec::new();
    for part in message.chunks(7) {
        split.extend([22, 3, 1, 0, part.len() as u8]);
        split.extend(part);
    }
    let mut tcp = TcpStream::connect(proxy.addr()).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    for part in split.chunks(3) {
        tcp.write_all(part).await.unwrap();
    }
    let mut head = [0; 1];
    within(SOON, "an answer", tcp.read_exact(&mut head)).await.unwrap();
    assert_eq!(head, [22], "a handshake record, not an alert");
}

#[tokio::test]
async fn a_client_that_stalls_in_any_state_is_cut_at_the_limit() {
    let (site, _backend, mut proxy) = scene(&["--timeout-handshake", FLAG]).await;
    Client::connect(&site, &proxy, Http::Two).await.get("/").await;
    let before = proxy.stat().descriptors;
    let whole = hello(&site);
    let half = &whole[..whole.len() / 2];
    // After connecting; in a record's header; in the hello; after the server's flight.
    for sent in [&[][..], &whole[..3], half, &whole] {
        let stalled: Vec<_> =
            (0..20).map(|_| tokio::spawn(end_of(proxy.addr(), sent.to_vec()))).collect();
        for stalled in stalled {
            let (answer, took) = stalled.await.unwrap();
            assert!(took >= LIMIT && took < SOON, "{} bytes: {took:?}", sent.len());
            assert_eq!(answer.is_empty(), sent.len() < whole.len(), "{answer:?}");
        }
        // Others are not held up meanwhile.
        let mut client = Client::connect(&site, &proxy, Http::Two).await;
        assert_eq!(client.get("/").await.status, 200);
    }
    eventually("descriptors to come back", || proxy.stat().descriptors <= before + OWN).await;
    assert!(proxy.is_running());
    let told = || proxy.stderr().contains("timeout");
    eventually("a line in the log", told).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_the_servers_flight_is_cut() {
    let (site, _backend, proxy) = scene(&["--timeout-handshake", FLAG]).await;
    let before = proxy.stat().descriptors;
    let mut held = Vec::new();
    for _ in 0..50 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        socket.connect(&proxy.addr().into()).unwrap();
        socket.send(&hello(&site)).unwrap();
        held.push(socket);
    }
    eventually("the connections", || proxy.stat().descriptors > before + OWN).await;
    eventually("descriptors to come back", || proxy.stat().descriptors <= before + OWN).await;
    drop(held);
}

/// Opens connections from `from` without end, each with the start of a hello, until dropped.
fn flood(from: SocketAddr, to: SocketAddr, hello: Vec<u8>) -> Vec<tokio::task::JoinHandle<()>> {
    let one = move |hello: Vec<u8>| async move {
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(from).unwrap();
            let Ok(mut tcp) = socket.connect(to).await else { continue };
            let _ = tcp.write_all(&hello).await;
            // Until it is thrown out.
            let _ = tcp.read(&mut [0; 1]).await;
        }
    };
    (0..FLOOD).map(|_| tokio::spawn(one(hello.clone()))).collect()
}

/// More than there are places for handshakes, which are 4,096.
const FLOOD: usize = 6_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_handshakes_from_one_address_does_not_keep_others_out() {
    let had = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    assert!(had > 2 * FLOOD as u64, "this machine gives {had} descriptors");
    let (site, _backend, proxy) = scene(&["--max-conns", "20000"]).await;
    let quiet = proxy.stat().descriptors;
    let hello = hello(&site);
    let half = hello[..hello.len() / 2].to_vec();
    let flooders = flood("127.0.0.2:0".parse().unwrap(), proxy.addr(), half);
    eventually("the flood", || proxy.stat().descriptors > quiet + 5_000).await;
    let visitor = Visitor::new(site.ca(), "localhost").forgetful();
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let begun = Instant::now();
        let answer = visitor.get(&proxy, Http::One, "/").await.unwrap();
        assert_eq!(answer.status, 200);
        longest = longest.max(begun.elapsed());
    }
    println!("longest of 50 under a flood: {longest:?}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    eventually("a line in the log", || proxy.stderr().contains("displaced")).await;
    for flooder in flooders {
        flooder.abort();
    }
    eventually("descriptors to come back", || proxy.stat().descriptors <= quiet + OWN).await;
}
