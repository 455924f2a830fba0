use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bartizan_testkit::{FailAfter, Trickle};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, advance, timeout};
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready};

use super::*;

/// The far ends of client and backend, and the relay between them.
fn relay(buffer: usize) -> (DuplexStream, DuplexStream, Relay<DuplexStream, DuplexStream>) {
    let (client, near_client) = duplex(buffer);
    let (backend, near_backend) = duplex(buffer);
    (client, backend, Relay::new(near_client, near_backend))
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 % 251) as u8).collect()
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (far, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (far.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn each_end_is_passed_on_while_the_other_direction_goes_on() {
    let (mut client, mut backend, relay) = relay(16);
    let ends = async {
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        backend.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        backend.write_all(b"a long answer, longer than the buffer").await.unwrap();
        backend.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "a long answer, longer than the buffer");
    };
    let (relayed, ()) = tokio::join!(relay, ends);
    assert_eq!((relayed.to_backend, relayed.to_client), (8, 37));
    assert!(matches!(relayed.end, RelayEnd::Closed));
}

#[tokio::test]
async fn every_byte_arrives_in_order_however_little_passes_at_once() {
    for n in [1, 7, 4096] {
        let (mut client, near_client) = duplex(64);
        let (mut backend, near_backend) = duplex(4096);
        let relay = Relay::new(Trickle::new(near_client, n), Trickle::new(near_backend, n));
        let sent = pattern(20_000);
        let ends = async {
            let (mut client_read, mut client_write) = tokio::io::split(&mut client);
            let (mut backend_read, mut backend_write) = tokio::io::split(&mut backend);
            let (mut up, mut down) = (Vec::new(), Vec::new());
            tokio::join!(
                async {
                    client_write.write_all(&sent).await.unwrap();
                    client_write.shutdown().await.unwrap();
                },
                async { backend_read.read_to_end(&mut up).await.unwrap() },
                async {
                    backend_write.write_all(&sent).await.unwrap();
                    backend_write.shutdown().await.unwrap();
                },
                async { client_read.read_to_end(&mut down).await.unwrap() },
            );
            assert!(up == sent && down == sent, "{n} bytes at once");
        };
        let (relayed, ()) = tokio::join!(relay, ends);
        assert_eq!((relayed.to_backend, relayed.to_client), (20_000, 20_000));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_backend_from_being_read() {
    let (mut client, near_client) = duplex(1_000);
    let (mut backend, near_backend) = duplex(1 << 20);
    let mut relay = spawn(Relay::new(near_client, near_backend));
    let sent = pattern(1 << 20);
    backend.write_all(&sent).await.unwrap();
    assert_pending!(relay.poll());
    assert_eq!(relay.down.passed(), 1_000);
    assert!(relay.down.moved() - 1_000 <= 64 * 1024, "{} bytes read", relay.down.moved());
    let mut got = vec![0; 1_000];
    client.read_exact(&mut got).await.unwrap();
    assert!(relay.is_woken());
    assert_pending!(relay.poll());
    assert_eq!((relay.down.passed(), &got[..]), (2_000, &sent[..1_000]));
    assert!(relay.down.moved() - 2_000 <= 64 * 1024, "read on before all was written");
}

/// Takes everything, and counts how often it was written to.
struct Sink(Arc<AtomicUsize>, Vec<u8>);

impl AsyncRead for Sink {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Sink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_comes_first_goes_in_one_write_with_what_the_client_has_sent() {
    let (mut client, near_client) = duplex(64);
    let writes = Arc::new(AtomicUsize::new(0));
    let sink = Sink(Arc::clone(&writes), Vec::new());
    let relay = Relay::new(near_client, sink).first(Bytes::from_static(b"header "));
    let mut relay = spawn(relay);
    client.write_all(b"hello").await.unwrap();
    assert_pending!(relay.poll());
    assert_eq!(relay.backend.1, b"header hello");
    assert_eq!((writes.load(Ordering::Relaxed), relay.to_backend()), (1, 5));
}

#[tokio::test]
async fn what_comes_first_does_not_wait_for_the_client() {
    let (client, mut backend, relay) = relay(64);
    let mut relay = spawn(relay.first(Bytes::from_static(b"header")));
    assert_pending!(relay.poll());
    let mut got = [0; 6];
    backend.read_exact(&mut got).await.unwrap();
    assert_eq!((&got, relay.to_backend()), (b"header", 0));
    drop(client);
}

/// Is always ready to be read.
struct Zeros;

impl AsyncRead for Zeros {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        buf.put_slice(&[0; 8]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Zeros {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_connection_that_never_pauses_lets_others_run() {
    let sink = Sink(Arc::default(), Vec::new());
    let mut relay = spawn(Relay::new(Zeros, sink));
    assert_pending!(relay.poll());
    assert!(relay.is_woken(), "it has more to do");
    assert!(relay.to_backend() <= 64 * 8);
}

#[tokio::test(start_paused = true)]
async fn ends_when_nothing_has_passed_for_the_idle_timeout() {
    let (mut client, mut backend, relay) = relay(64);
    let mut relay = spawn(relay.idle_timeout(Duration::from_secs(10)));
    assert_pending!(relay.poll());
    advance(Duration::from_secs(9)).await;
    client.write_all(b"x").await.unwrap();
    assert_pending!(relay.poll());
    advance(Duration::from_secs(9)).await;
    backend.write_all(b"y").await.unwrap();
    assert_pending!(relay.poll());
    advance(Duration::from_millis(9_999)).await;
    assert_pending!(relay.poll());
    advance(Duration::from_millis(2)).await;
    assert!(relay.is_woken());
    let relayed = assert_ready!(relay.poll());
    assert!(matches!(relayed.end, RelayEnd::Idle), "{relayed:?}");
    assert_eq!((relayed.to_backend, relayed.to_client), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_stops_reading_is_still_heard_to_the_end() {
    let (mut client, near_client) = duplex(1 << 16);
    let (mut backend, near_backend) = duplex(1 << 16);
    // The backend takes 5 bytes and then none.
    let relay = Relay::new(near_client, FailAfter::writing(near_backend, 5));
    let answer = pattern(30_000);
    let ends = async {
        client.write_all(&[b'u'; 40_000]).await.unwrap();
        backend.write_all(&answer).await.unwrap();
        backend.shutdown().await.unwrap();
        let mut got = vec![0; answer.len()];
        client.read_exact(&mut got).await.unwrap();
        assert!(got == answer);
        // What it goes on to send is taken, or it would never get to reading.
        client.write_all(&[b'u'; 200_000]).await.unwrap();
        assert_eq!(client.read(&mut got).await.unwrap(), 0, "the end is passed on");
    };
    let start = Instant::now();
    let (relayed, ()) = tokio::join!(relay, ends);
    assert!(matches!(relayed.end, RelayEnd::BackendFailed(_)), "{relayed:?}");
    assert_eq!((relayed.to_backend, relayed.to_client), (5, 30_000));
    assert_eq!(start.elapsed().as_secs(), 2, "it lingers, and not for ever");
}

#[tokio::test]
async fn what_a_client_has_sent_arrives_although_it_takes_nothing() {
    let (mut client, near_client) = duplex(1 << 16);
    let (mut backend, near_backend) = duplex(100);
    let relay = Relay::new(FailAfter::writing(near_client, 0), near_backend);
    let ends = async {
        backend.write_all(b"greeting").await.unwrap();
        client.write_all(&pattern(30_000)).await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        backend.read_to_end(&mut got).await.unwrap();
        assert!(got == pattern(30_000));
    };
    let (relayed, ()) = tokio::join!(relay, ends);
    assert!(matches!(relayed.end, RelayEnd::ClientFailed(_)), "{relayed:?}");
    assert_eq!((relayed.to_backend, relayed.to_client), (30_000, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_reset_ends_it_at_once_but_for_what_it_has_sent() {
    let (mut client, near_client) = duplex(64);
    let (mut backend, near_backend) = duplex(64);
    let relay = Relay::new(FailAfter::reading(near_client, 5), near_backend);
    client.write_all(b"hello, and more").await.unwrap();
    let start = Instant::now();
    let relayed = relay.await;
    assert!(matches!(relayed.end, RelayEnd::ClientFailed(_)), "{relayed:?}");
    assert_eq!((relayed.to_backend, start.elapsed()), (5, Duration::ZERO));
    let mut got = Vec::new();
    backend.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"hello");
}

#[tokio::test]
async fn an_answer_survives_the_reset_of_the_backend_that_did_not_read_the_question() {
    let ((mut client, near_client), (mut backend, near_backend)) =
        (tcp_pair().await, tcp_pair().await);
    let relay = tokio::spawn(Relay::new(near_client, near_backend));
    let answer = pattern(30_000);
    client.write_all(&[b'u'; 30_000]).await.unwrap();
    // It reads one byte of 30,000, so that its close is a reset.
    backend.read_u8().await.unwrap();
    backend.write_all(&answer).await.unwrap();
    drop(backend);
    // The client goes on sending until it has heard; then it closes.
    let mut got = Vec::new();
    let (mut read, mut write) = client.split();
    let sending = async { while write.write_all(&[b'u'; 1_000]).await.is_ok() {} };
    let reading = async {
        let mut bytes = [0; 1_000];
        loop {
            match read.read(&mut bytes).await {
                Ok(0) => return,
                Ok(n) => got.extend_from_slice(&bytes[..n]),
                Err(error) => panic!("{} bytes and then {error}", got.len()),
            }
        }
    };
    tokio::select! { () = reading => {}, () = sending => panic!("reset while it was answered") }
    assert!(got == answer, "{} bytes", got.len());
    drop(client);
    let relayed = timeout(Duration::from_secs(20), relay).await.unwrap().unwrap();
    assert!(matches!(relayed.end, RelayEnd::BackendFailed(_)), "{relayed:?}");
}

#[tokio::test]
async fn dropping_it_closes_both_sides() {
    let (mut client, mut backend, relay) = relay(64);
    let mut relay = spawn(relay);
    assert_pending!(relay.poll());
    drop(relay);
    let mut got = Vec::new();
    assert_eq!(client.read_to_end(&mut got).await.unwrap(), 0);
    assert_eq!(backend.read_to_end(&mut got).await.unwrap(), 0);
}

/// A relay between sockets, and their far ends.
async fn tcp_relay() -> (TcpStream, TcpStream, Relay<TcpStream, TcpStream>) {
    let ((client, near_client), (backend, near_backend)) = (tcp_pair().await, tcp_pair().await);
    (client, backend, Relay::new(near_client, near_backend))
}

#[tokio::test]
async fn bulk_between_sockets_arrives_byte_for_byte_both_ways() {
    let (client, backend, relay) = tcp_relay().await;
    let sent = Arc::new(pattern(20 << 20));
    let exchange = |socket: TcpStream| {
        let sent = Arc::clone(&sent);
        async move {
            let (mut read, mut write) = socket.into_split();
            let sending = async {
                // In pieces that are large and small in turn, so that it is bulk and is not.
                for piece in sent.chunks(3 << 20) {
                    let (large, small) = piece.split_at(piece.len() - 500);
                    write.write_all(large).await.unwrap();
                    for bytes in small.chunks(100) {
                        write.write_all(bytes).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                }
                write.shutdown().await.unwrap();
            };
            let mut got = Vec::new();
            tokio::join!(sending, async { read.read_to_end(&mut got).await.unwrap() });
            assert!(got == *sent, "{} bytes", got.len());
        }
    };
    let (relayed, (), ()) = tokio::join!(relay, exchange(client), exchange(backend));
    assert_eq!((relayed.to_backend, relayed.to_client), (20 << 20, 20 << 20));
    assert!(matches!(relayed.end, RelayEnd::Closed), "{relayed:?}");
}

#[tokio::test]
async fn bulk_to_a_client_that_stalls_is_not_read_on() {
    let (client, mut backend, relay) = tcp_relay().await;
    let relay = tokio::spawn(relay);
    // As much as all buffers on the way take, and not a byte more.
    let piece = pattern(1 << 20);
    let mut written = 0;
    while let Ok(n) = timeout(Duration::from_millis(500), backend.write(&piece)).await {
        written += n.unwrap();
    }
    assert!(written < 64 << 20, "{written} bytes and no end");
    drop(client);
    let relayed = timeout(Duration::from_secs(20), relay).await.unwrap().unwrap();
    assert!(relayed.to_client < 64 << 20);
}

#[tokio::test]
async fn bulk_ends_with_the_client_that_is_gone() {
    let (mut client, mut backend, relay) = tcp_relay().await;
    let relay = tokio::spawn(relay);
    let sending = tokio::spawn(async move {
        let piece = pattern(1 << 20);
        while backend.write_all(&piece).await.is_ok() {}
    });
    let mut got = vec![0; 4 << 20];
    client.read_exact(&mut got).await.unwrap();
    drop(client);
    let relayed = timeout(Duration::from_secs(20), relay).await.unwrap().unwrap();
    assert!(matches!(relayed.end, RelayEnd::ClientFailed(_)), "{relayed:?}");
    timeout(Duration::from_secs(20), sending).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_in_the_pipe_arrives_before_the_end() {
    let (mut client, mut backend, relay) = tcp_relay().await;
    let relay = tokio::spawn(relay);
    let sent = pattern(8 << 20);
    let sending = async {
        backend.write_all(&sent).await.unwrap();
        drop(backend);
    };
    let reading = async {
        let mut got = Vec::new();
        let mut bytes = vec![0; 10_000];
        // Slower than it is sent, so that the end is there long before the last byte is read.
        loop {
            match client.read(&mut bytes).await.unwrap() {
                0 => return got,
                n => got.extend_from_slice(&bytes[..n]),
            }
            tokio::task::yield_now().await;
        }
    };
    let ((), got) = tokio::join!(sending, reading);
    assert!(got == sent, "{} bytes", got.len());
    drop(client);
    assert_eq!(relay.await.unwrap().to_client, 8 << 20);
}

#[tokio::test]
async fn little_after_bulk_arrives_at_once_and_in_order() {
    let (mut client, mut backend, relay) = tcp_relay().await;
    let relay = tokio::spawn(relay);
    let sent = pattern(8 << 20);
    let mut got = vec![0; sent.len()];
    let (written, read) = tokio::join!(backend.write_all(&sent), client.read_exact(&mut got));
    written.unwrap();
    read.unwrap();
    assert!(got == sent);
    for i in 0..20 {
        backend.write_all(&[i; 3]).await.unwrap();
        let mut got = [0; 3];
        timeout(Duration::from_secs(20), client.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(got, [i; 3]);
    }
    drop((client, backend));
    assert_eq!(relay.await.unwrap().to_client, (8 << 20) + 60);
}

/// Always has something to read and takes all that is written, within what a task may do at once.
struct Tireless(usize);

impl AsyncRead for Tireless {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
        buf.put_slice(&[0; 8]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tireless {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
        self.0 += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_direction_that_never_pauses_leaves_the_other_one_its_share() {
    let mut relay = Relay::new(Tireless(0), Tireless(0));
    // Each turn begins with all that a task may do at once.
    for _ in 0..10 {
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut relay).poll(cx).is_ready())).await;
        tokio::task::yield_now().await;
    }
    let (up, down) = (relay.to_backend(), relay.to_client());
    assert!(down * 2 >= up && up * 2 >= down, "{up} bytes up, {down} down");
}

/// Takes nothing, and cannot be read from the second time on.
struct Broken(u8);

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0 += 1;
        if self.0 == 1 { Poll::Pending } else { Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) }
    }
}

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_is_listened_to_after_a_backend_that_took_nothing_has_failed() {
    let (mut client, near_client) = duplex(64);
    let mut relay = spawn(Relay::new(near_client, Broken(0)));
    client.write_all(b"never taken").await.unwrap();
    assert_pending!(relay.poll());
    assert_pending!(relay.poll());
    while relay.is_woken() {
        assert_pending!(relay.poll());
    }
    client.shutdown().await.unwrap();
    assert!(relay.is_woken(), "the end of the client's is the end of it");
    assert!(matches!(assert_ready!(relay.poll()).end, RelayEnd::BackendFailed(_)));
}
