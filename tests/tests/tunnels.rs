//! Connections that pass through: every byte arrives, and each end as the side made it.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::Duration;

use bartizan_testkit::refused_addr;
use bartizan_tests::tcp::{TcpBackend, connect, end_of, tunnel};
use bartizan_tests::{Proxy, eventually, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// When an end has to be there that nothing delays: late on a busy machine, early against a grace.
const SOON: Duration = Duration::from_secs(5);

/// For what takes a while on a busy machine.
const LONG: Duration = Duration::from_secs(60);

const MIB: u64 = 1024 * 1024;

/// Not the size of any buffer on the way.
const BLOCK: usize = 50_000;

/// A proxy that passes everything on to these backends.
fn passing(backends: &[SocketAddr], flags: &[&str]) -> Proxy {
    let backends: Vec<_> = backends.iter().map(ToString::to_string).collect();
    let mut args = vec!["--mode", "passthrough"];
    args.extend(backends.iter().flat_map(|addr| ["--backend", addr]));
    args.extend(flags);
    Proxy::start(&args)
}

async fn scene(flags: &[&str]) -> (TcpBackend, Proxy) {
    let backend = TcpBackend::listen().await;
    let proxy = passing(&[backend.addr()], flags);
    (backend, proxy)
}

/// Ends in a reset.
fn reset(tcp: TcpStream) {
    socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A block of a stream of bytes: noise, and its number so that no two are the same.
fn block(seed: u8, number: u64) -> Vec<u8> {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    let noise = NOISE.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..BLOCK / 8).flat_map(|_| next()).collect()
    });
    let mut block = noise.clone();
    block.rotate_left(usize::from(seed));
    block[..8].copy_from_slice(&number.to_le_bytes());
    block
}

async fn send_stream(to: &mut (impl AsyncWrite + Unpin), seed: u8, blocks: u64) {
    for number in 0..blocks {
        to.write_all(&block(seed, number)).await.unwrap();
    }
    to.shutdown().await.unwrap();
}

async fn read_stream(from: &mut (impl AsyncRead + Unpin), seed: u8, blocks: u64) {
    let mut part = vec![0; BLOCK];
    for number in 0..blocks {
        from.read_exact(&mut part).await.unwrap();
        assert!(part == block(seed, number), "block {number} of stream {seed} differs");
    }
    assert_eq!(from.read(&mut part).await.unwrap(), 0, "and nothing more");
}

#[tokio::test]
async fn either_side_may_end_first_and_still_read() {
    let (backend, proxy) = scene(&[]).await;
    for client_first in [true, false] {
        let (client, passed) = tunnel(&proxy, &backend).await;
        let (mut first, mut second) =
            if client_first { (client, passed) } else { (passed, client) };
        first.write_all(b"question").await.unwrap();
        first.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        within(SOON, "the end", second.read_to_end(&mut bytes)).await.unwrap();
        assert_eq!(bytes, b"question");
        for part in [&b"an answer"[..], b" in parts"] {
            second.write_all(part).await.unwrap();
            let mut read = vec![0; part.len()];
            within(SOON, "a part", first.read_exact(&mut read)).await.unwrap();
            assert_eq!(read, part);
        }
        drop(second);
        assert_eq!(end_of(&mut first).await, b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_megabytes_each_way_at_once_arrive_as_they_were() {
    let (backend, proxy) = scene(&[]).await;
    let (client, passed) = tunnel(&proxy, &backend).await;
    let (mut client_reads, mut client_writes) = client.into_split();
    let (mut backend_reads, mut backend_writes) = passed.into_split();
    let blocks = 50 * MIB / BLOCK as u64;
    let both_ways = tokio::spawn(async move {
        tokio::join!(
            send_stream(&mut client_writes, 1, blocks),
            send_stream(&mut backend_writes, 2, blocks),
            read_stream(&mut backend_reads, 1, blocks),
            read_stream(&mut client_reads, 2, blocks),
        );
    });
    within(LONG, "all bytes", both_ways).await.unwrap();
}

#[tokio::test]
async fn a_reset_of_the_backend_ends_the_client_after_all_that_came_before() {
    let (backend, proxy) = scene(&[]).await;
    let (mut client, mut passed) = tunnel(&proxy, &backend).await;
    passed.write_all(b"half an ans").await.unwrap();
    let mut read = [0; 11];
    within(SOON, "what came before", client.read_exact(&mut read)).await.unwrap();
    reset(passed);
    assert_eq!(within(SOON, "the end", end_of(&mut client)).await, b"");
    let (mut client, _passed) = tunnel(&proxy, &backend).await;
    client.write_all(b"others are served").await.unwrap();
}

#[tokio::test]
async fn a_client_that_resets_is_noticed_by_the_backend() {
    let (backend, proxy) = scene(&[]).await;
    let (client, mut passed) = tunnel(&proxy, &backend).await;
    reset(client);
    assert_eq!(within(SOON, "the end", end_of(&mut passed)).await, b"");
    // Also where the backend is in the middle of an answer that nobody reads.
    let (client, mut passed) = tunnel(&proxy, &backend).await;
    let answer = vec![b'x'; 64 * 1024];
    let answering = tokio::spawn(async move { while passed.write_all(&answer).await.is_ok() {} });
    reset(client);
    within(SOON, "an error of writing", answering).await.unwrap();
}

#[tokio::test]
async fn an_answer_in_the_middle_of_an_upload_reaches_the_client() {
    let (backend, proxy) = scene(&[]).await;
    for _ in 0..10 {
        let (client, mut passed) = tunnel(&proxy, &backend).await;
        let (mut reads, mut writes) = client.into_split();
        let part = vec![b'u'; 16 * 1024];
        let upload = tokio::spawn(async move { while writes.write_all(&part).await.is_ok() {} });
        let mut some = vec![0; 64 * 1024];
        passed.read_exact(&mut some).await.unwrap();
        let answer = b"413 too large".repeat(100);
        passed.write_all(&answer).await.unwrap();
        // The rest of the upload is not read: the kernel adds a reset to this end.
        passed.shutdown().await.unwrap();
        drop(passed);
        let mut read = vec![0; answer.len()];
        within(SOON, "the answer", reads.read_exact(&mut read)).await.unwrap();
        assert!(read == answer, "{}", String::from_utf8_lossy(&read));
        upload.abort();
    }
}

/// Writes until nothing more is taken, and returns how much was.
async fn fill(tcp: &mut TcpStream, limit: u64) -> u64 {
    let (part, mut taken) = (vec![b'x'; 64 * 1024], 0);
    while taken < limit {
        let Ok(n) = timeout(Duration::from_millis(500), tcp.write(&part)).await else { break };
        taken += n.unwrap() as u64;
    }
    taken
}

/// Fills tunnels until nothing more is taken: the sending sides, the others, and how much was taken.
async fn stall(
    proxy: &Proxy,
    backend: &TcpBackend,
    tunnels: usize,
) -> Vec<(TcpStream, TcpStream, u64)> {
    let limit = 64 * MIB;
    let mut filling = JoinSet::new();
    for number in 0..tunnels {
        let (client, passed) = tunnel(proxy, backend).await;
        let (mut sender, reader) =
            if number % 2 == 0 { (passed, client) } else { (client, passed) };
        filling.spawn(async move {
            // What the kernel's buffers hold, and the proxy's.
            let taken = fill(&mut sender, limit).await;
            assert!(taken < limit, "{taken} bytes went nowhere");
            (sender, reader, taken)
        });
    }
    filling.join_all().await
}

#[tokio::test]
async fn a_side_that_does_not_read_stops_the_other_from_sending() {
    const TUNNELS: usize = 8;
    // 64 KiB each way that is full; and the kernel gives memory in pages of up to 2 MiB.
    const MOST: u64 = TUNNELS as u64 * 64 * 1024 + 4 * MIB;
    let (backend, proxy) = scene(&["--workers", "1"]).await;
    // The allocator has its pages then.
    let mut stalled = stall(&proxy, &backend, 2).await;
    let before = proxy.stat().data;
    stalled.extend(stall(&proxy, &backend, TUNNELS).await);
    let grown = proxy.stat().data.saturating_sub(before);
    println!("{grown} bytes for {TUNNELS} stalled tunnels");
    assert!(grown <= MOST, "{grown} bytes for {TUNNELS} stalled tunnels");
    // Nothing is lost, and what was held up goes on.
    for (mut sender, mut reader, taken) in stalled {
        sender.shutdown().await.unwrap();
        let mut nowhere = tokio::io::sink();
        let arrived = within(LONG, "the rest", tokio::io::copy(&mut reader, &mut nowhere));
        assert_eq!(arrived.await.unwrap(), taken);
    }
}

#[tokio::test]
async fn idle_tunnels_hold_no_buffers() {
    const TUNNELS: u64 = 2_000;
    const MOST: u64 = 24 * 1024;
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let (backend, proxy) = scene(&["--max-conns", "4000"]).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(tunnel(&proxy, &backend).await);
    }
    let before = proxy.stat().rss;
    for _ in 0..TUNNELS {
        let (mut client, mut passed) = tunnel(&proxy, &backend).await;
        passed.write_all(b"?").await.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        open.push((client, passed));
    }
    let each = proxy.stat().rss.saturating_sub(before) / TUNNELS;
    println!("{each} bytes for each idle tunnel");
    assert!(each <= MOST, "{each} bytes for each idle tunnel");
    // They are not forgotten, either.
    for (client, passed) in &mut open {
        client.write_all(b"still here").await.unwrap();
        within(SOON, "a byte", passed.read_exact(&mut [0; 10])).await.unwrap();
    }
}

#[tokio::test]
async fn the_limit_ends_idle_tunnels_and_not_busy_ones() {
    let limit = Duration::from_secs(2);
    let (backend, proxy) = scene(&["--timeout-tunnel", "2s"]).await;
    // One whose client sends, and one whose client is sent to.
    let upload = tunnel(&proxy, &backend).await;
    let (client, passed) = tunnel(&proxy, &backend).await;
    let mut busy = [upload, (passed, client)];
    let (mut idle, mut passed) = tunnel(&proxy, &backend).await;
    let begun = Instant::now();
    let ends = tokio::spawn(async move {
        tokio::join!(end_of(&mut idle), end_of(&mut passed));
        begun.elapsed()
    });
    while begun.elapsed() < limit * 2 {
        for (sender, reader) in &mut busy {
            sender.write_all(b"b").await.unwrap();
            assert_eq!(within(SOON, "a byte", reader.read_u8()).await.unwrap(), b'b');
        }
    }
    let ended = within(SOON, "the end of the idle one", ends).await.unwrap();
    assert!(ended >= limit * 9 / 10, "{ended:?}");
    assert!(ended < limit + SOON, "{ended:?}");
}

#[tokio::test]
async fn a_drain_lets_a_tunnel_finish() {
    let (backend, mut proxy) = scene(&["--drain", "60s"]).await;
    let (mut client, mut passed) = tunnel(&proxy, &backend).await;
    proxy.signal("TERM");
    eventually("the drain", || proxy.stderr().contains("draining")).await;
    let addr = proxy.addr();
    eventually("a port that refuses", || std::net::TcpStream::connect(addr).is_err()).await;
    // What came to the port before it refused waits here for nothing.
    drop(backend);
    let sent = block(3, 0);
    for _ in 0..20 {
        client.write_all(&sent).await.unwrap();
        let mut read = vec![0; sent.len()];
        within(SOON, "a block", passed.read_exact(&mut read)).await.unwrap();
        assert!(read == sent);
    }
    assert!(proxy.is_running(), "while a tunnel is open");
    drop(client);
    assert_eq!(end_of(&mut passed).await, b"");
    drop(passed);
    assert_eq!(proxy.wait(SOON).await.code(), Some(0));
}

#[tokio::test]
async fn tunnels_that_are_open_at_the_end_of_the_grace_are_closed() {
    let (backend, mut proxy) = scene(&["--drain", "1s"]).await;
    let (mut client, mut passed) = tunnel(&proxy, &backend).await;
    let begun = Instant::now();
    proxy.signal("TERM");
    assert_eq!(end_of(&mut client).await, b"");
    assert_eq!(end_of(&mut passed).await, b"");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(proxy.wait(SOON).await.code(), Some(0));
}

#[tokio::test]
async fn a_dead_backend_is_replaced_before_the_first_byte() {
    let good = TcpBackend::listen().await;
    let proxy = passing(&[refused_addr(), good.addr()], &[]);
    for _ in 0..40 {
        let (mut client, mut passed) = tunnel(&proxy, &good).await;
        passed.write_all(b"here").await.unwrap();
        within(SOON, "an answer", client.read_exact(&mut [0; 4])).await.unwrap();
    }
}

#[tokio::test]
async fn backends_take_turns() {
    let backends =
        [TcpBackend::listen().await, TcpBackend::listen().await, TcpBackend::listen().await];
    let proxy = passing(&backends.each_ref().map(TcpBackend::addr), &["--workers", "1"]);
    for _ in 0..10 {
        let mut clients = Vec::new();
        for _ in &backends {
            clients.push(connect(proxy.addr()).await);
        }
        for backend in &backends {
            backend.accept().await;
        }
    }
    for backend in &backends {
        assert!(!backend.has_more(), "exactly a third each");
    }
}

#[tokio::test]
async fn without_a_backend_that_lives_the_connection_is_closed() {
    let mut proxy = passing(&[refused_addr(), refused_addr()], &[]);
    for sent in [&b""[..], b"some bytes"] {
        let mut client = connect(proxy.addr()).await;
        client.write_all(sent).await.unwrap();
        assert_eq!(within(SOON, "the end", end_of(&mut client)).await, b"");
    }
    assert!(proxy.is_running());
}

#[tokio::test]
async fn a_backend_that_checks_have_taken_out_gets_no_connection_until_it_is_back() {
    let (one, addr) = (TcpBackend::listen().await, refused_addr());
    let flags = ["--check", "tcp", "--check-interval", "100ms", "--fall", "1", "--rise", "1"];
    let proxy = passing(&[one.addr(), addr], &[&flags[..], &["--retries", "0"]].concat());
    eventually("the fall", || proxy.stderr().contains("down")).await;
    // Checks connect to this one as well: its clients are those that say something.
    let served = tokio::spawn(async move {
        loop {
            let mut tcp = one.accept().await;
            tokio::spawn(async move {
                while let Ok(byte) = tcp.read_u8().await {
                    let _ = tcp.write_all(&[byte]).await;
                }
            });
        }
    });
    for _ in 0..20 {
        let mut client = connect(proxy.addr()).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(within(SOON, "the echo", client.read_u8()).await.unwrap(), b'x');
    }
    served.abort();
}
