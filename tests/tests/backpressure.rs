//! Nobody is read faster than the other side takes it, and nothing is held back.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bartizan_tests::{Client, Http, Proxy, Site, empty, eventually, request, within};
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

const MIB: u64 = 1024 * 1024;
const LONG: u64 = 64 * MIB;

/// Readers that pause at the same time.
const PAUSED: u64 = 12;

/// The kernel's own buffers on both sides of the proxy make up to 10 MiB of this each.
const AHEAD: u64 = 24 * MIB;

/// What the proxy may hold: about 1 MiB for each, and its allocator takes memory in large pieces.
const HELD: u64 = 24 * MIB;

const SOON: Duration = Duration::from_secs(30);

/// A backend written by hand, which counts what passes and stops when told.
struct Backend {
    addr: SocketAddr,
    passed: Arc<AtomicU64>,
    go: watch::Sender<bool>,
}

impl Backend {
    /// Answers a GET with [`LONG`] bytes, as fast as they are taken.
    async fn sending() -> Self {
        Self::start(|mut stream, passed, _| async move {
            head(&mut stream).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let block = [b'x'; 32 * 1024];
            let mut left = LONG;
            while left > 0 {
                let part = left.min(block.len() as u64) as usize;
                // The client has gone: the test is over.
                let Ok(n) = stream.write(&block[..part]).await else { return };
                left -= n as u64;
                passed.fetch_add(n as u64, Ordering::Relaxed);
            }
            let _ = stream.read(&mut [0; 1]).await;
        })
        .await
    }

    /// Reads a request's head, and its body only after [`go`](Self::go); answers at its end.
    async fn reading_later() -> Self {
        Self::start(|mut stream, passed, mut go| async move {
            let _body = head(&mut stream).await;
            go.wait_for(|go| *go).await.unwrap();
            let mut last = Vec::new();
            let mut chunk = vec![0; 64 * 1024];
            while !last.ends_with(b"0\r\n\r\n") {
                let n = stream.read(&mut chunk).await.unwrap();
                assert!(n > 0, "the end of the body comes before the end of the connection");
                passed.fetch_add(n as u64, Ordering::Relaxed);
                last.extend_from_slice(&chunk[..n]);
                last.drain(..last.len().saturating_sub(5));
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        })
        .await
    }

    async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, Arc<AtomicU64>, watch::Receiver<bool>) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let passed = Arc::new(AtomicU64::new(0));
        let (go, stopped) = watch::channel(false);
        let counter = Arc::clone(&passed);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&counter), stopped.clone()));
            }
        });
        Self { addr, passed, go }
    }
}

/// Reads a request's head, and returns what came with it.
async fn head(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        stream.read_buf(&mut bytes).await.unwrap();
    }
    bytes
}

/// Waits until `value` has not changed for half a second, and returns it.
async fn settled(value: &AtomicU64) -> u64 {
    within(SOON, "a standstill", async {
        let (mut last, mut since) = (value.load(Ordering::Relaxed), Instant::now());
        while since.elapsed() < Duration::from_millis(500) || last == 0 {
            sleep(Duration::from_millis(20)).await;
            let now = value.load(Ordering::Relaxed);
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        last
    })
    .await
}

async fn warm(site: &Site, backend: SocketAddr) -> Proxy {
    let proxy = site.proxy(&[backend], &["--timeout-client", "60s"]);
    for http in Http::BOTH {
        drop(Client::connect(site, &proxy, http).await);
    }
    proxy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_pause_hold_the_backend_back() {
    for http in Http::BOTH {
        let (site, backend) = (Site::new(), Backend::sending().await);
        let proxy = warm(&site, backend.addr).await;
        let before = proxy.stat().data;
        let mut paused = Vec::new();
        for _ in 0..PAUSED {
            let mut client = Client::connect(&site, &proxy, http).await;
            let response = client.send(request("GET", "/", empty())).await.unwrap();
            paused.push((client, response.into_body()));
        }

        let ahead = settled(&backend.passed).await / PAUSED;
        assert!(ahead < AHEAD, "{http:?}: {} KiB are on their way", ahead / 1024);
        let held = proxy.stat().data.saturating_sub(before);
        assert!(held < HELD + PAUSED * MIB * 2, "{http:?}: the proxy holds {} KiB", held / 1024);

        for (_client, mut body) in paused {
            let mut read = 0;
            while let Some(frame) = within(SOON, "the rest", body.frame()).await {
                read += frame.unwrap().data_ref().map_or(0, |data| data.len() as u64);
            }
            assert_eq!(read, LONG, "{http:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_pauses_holds_the_sender_back() {
    for http in Http::BOTH {
        let (site, backend) = (Site::new(), Backend::reading_later().await);
        let proxy = warm(&site, backend.addr).await;
        let before = proxy.stat().data;
        let mut client = Client::connect(&site, &proxy, http).await;
        let (mut sender, body) = Channel::<Bytes, std::convert::Infallible>::new(1);
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        tokio::spawn(async move {
            let block = Bytes::from(vec![b'x'; 64 * 1024]);
            while counter.load(Ordering::Relaxed) < LONG {
                sender.send_data(block.clone()).await.unwrap();
                counter.fetch_add(block.len() as u64, Ordering::Relaxed);
            }
        });
        let asked =
            tokio::spawn(async move { client.ask(request("POST", "/", body.boxed())).await });

        let ahead = settled(&sent).await;
        assert!(ahead < AHEAD, "{http:?}: {} KiB are on their way", ahead / 1024);
        let grown = proxy.stat().data.saturating_sub(before);
        assert!(grown < HELD, "{http:?}: the proxy holds {} KiB", grown / 1024);

        backend.go.send_replace(true);
        let answer = within(SOON, "the answer", asked).await.unwrap().unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(sent.load(Ordering::Relaxed), LONG, "{http:?}");
        assert!(backend.passed.load(Ordering::Relaxed) >= LONG, "{http:?}");
    }
}

#[tokio::test]
async fn a_slow_sender_s_bytes_pass_as_they_come() {
    for http in Http::BOTH {
        let (site, backend) = (Site::new(), Backend::reading_later().await);
        backend.go.send_replace(true);
        let proxy = warm(&site, backend.addr).await;
        let mut client = Client::connect(&site, &proxy, http).await;
        let (mut sender, body) = Channel::<Bytes, std::convert::Infallible>::new(1);
        let asked =
            tokio::spawn(async move { client.ask(request("POST", "/", body.boxed())).await });
        for piece in 1..=5 {
            sender.send_data(Bytes::from_static(&[b'y'; 1000])).await.unwrap();
            // The next piece is not sent before this one has arrived, with its framing. The first
            // may have come with the head, which does not count.
            let arrived = || backend.passed.load(Ordering::Relaxed) >= (piece - 1) * 1000;
            eventually("a piece of a body", arrived).await;
        }
        drop(sender);
        assert_eq!(asked.await.unwrap().unwrap().status, 200, "{http:?}");
    }
}

#[tokio::test]
async fn a_slow_backend_s_bytes_pass_as_they_come() {
    let backend = Backend::start(|mut stream, _, mut go| async move {
        head(&mut stream).await;
        let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
        stream.write_all(start).await.unwrap();
        go.wait_for(|go| *go).await.unwrap();
        stream.write_all(b"5\r\nworld\r\n0\r\n\r\n").await.unwrap();
    })
    .await;
    let site = Site::new();
    let proxy = warm(&site, backend.addr).await;
    for http in Http::BOTH {
        backend.go.send_replace(false);
        let mut client = Client::connect(&site, &proxy, http).await;
        let response = client.send(request("GET", "/", empty())).await.unwrap();
        let mut body = response.into_body();
        let first = within(SOON, "what has been sent", body.frame()).await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "hello", "{http:?}");
        backend.go.send_replace(true);
        let rest = within(SOON, "the rest", body.collect()).await.unwrap().to_bytes();
        assert_eq!(rest, "world", "{http:?}");
    }
}
