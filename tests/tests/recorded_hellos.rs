//! However a client's hello is cut into pieces, it arrives whole at the backend of its name.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bartizan_testkit::client_hellos::{RECORDED, Recorded};
use bartizan_tests::tcp::{TcpBackend, connect, end_of};
use bartizan_tests::{Proxy, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// Connections at once: enough to keep both sides busy.
const AT_ONCE: usize = 16;

/// For all of them, on a machine that is busy with other things as well.
const PATIENCE: Duration = Duration::from_secs(120);

/// One connection: who sends it, where it belongs, and in which writes it goes out.
struct Sent {
    client: &'static str,
    cut: usize,
    to: u8,
    first: Vec<u8>,
    rest: Vec<u8>,
}

fn sent(hello: &Recorded, cut: usize, first: Vec<u8>, rest: Vec<u8>) -> Sent {
    let to = if hello.server_name.is_some() { b'A' } else { b'B' };
    Sent { client: hello.name, cut, to, first, rest }
}

/// Reads to the end, and then sends `name` and all of it back.
async fn send_back(backend: TcpBackend, name: u8) {
    loop {
        let mut tcp = backend.accept().await;
        tokio::spawn(async move {
            let mut bytes = vec![name];
            // What goes wrong here, the client misses.
            if tcp.read_to_end(&mut bytes).await.is_ok() {
                let _ = tcp.write_all(&bytes).await;
            }
        });
    }
}

async fn arrives(proxy: SocketAddr, sent: &Sent) {
    let mut tcp = connect(proxy).await;
    // A refusal shows in the answer.
    let _ = tcp.write_all(&sent.first).await;
    let _ = tcp.write_all(&sent.rest).await;
    let _ = tcp.shutdown().await;
    let answer = end_of(&mut tcp).await;
    let expected = [&[sent.to], &sent.first[..], &sent.rest].concat();
    let same = answer == expected;
    assert!(same, "{} cut at {}: came back {answer:x?}", sent.client, sent.cut);
}

async fn all_arrive(connections: Vec<Sent>) {
    let (a, b) = (TcpBackend::listen().await, TcpBackend::listen().await);
    let pass = format!("pass:{}", a.addr());
    let routes = ["www.example.com", "localhost"].map(|name| format!("{name}={pass}"));
    let other = b.addr().to_string();
    let args = ["--mode", "passthrough", "--route", &routes[0], "--route", &routes[1]];
    let proxy = Proxy::start(&[&args[..], &["--backend", &other]].concat());
    let mut backends = JoinSet::new();
    backends.spawn(send_back(a, b'A'));
    backends.spawn(send_back(b, b'B'));

    let (addr, count) = (proxy.addr(), connections.len());
    let (connections, next) = (Arc::new(connections), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (connections, next) = (Arc::clone(&connections), Arc::clone(&next));
        clients.spawn(async move {
            while let Some(sent) = connections.get(next.fetch_add(1, Ordering::Relaxed)) {
                arrives(addr, sent).await;
            }
        });
    }
    while let Some(client) = within(PATIENCE, "all connections", clients.join_next()).await {
        client.unwrap();
    }
    println!("{count} connections");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hellos_that_come_in_two_segments_cut_anywhere_arrive() {
    let cuts = RECORDED.iter().flat_map(|hello| {
        (1..hello.bytes.len()).map(|cut| {
            let (first, rest) = hello.bytes.split_at(cut);
            sent(hello, cut, first.to_vec(), rest.to_vec())
        })
    });
    all_arrive(cuts.collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hellos_in_two_records_cut_anywhere_arrive_as_they_were_framed() {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], part].concat()
    };
    let cuts = RECORDED.iter().flat_map(|hello| {
        let message = &hello.bytes[5..];
        (1..message.len()).map(move |cut| {
            let (first, rest) = message.split_at(cut);
            sent(hello, cut, record(first), record(rest))
        })
    });
    all_arrive(cuts.collect()).await;
}

#[tokio::test]
async fn what_comes_after_the_hello_in_the_same_segment_arrives_too() {
    let after = RECORDED.iter().map(|hello| {
        let bytes = [hello.bytes, b"\x17\x03\x03\0\x05early"].concat();
        sent(hello, hello.bytes.len(), bytes, Vec::new())
    });
    all_arrive(after.collect()).await;
}
