use std::sync::Arc;
use std::time::Duration;

use bartizan_net::{ConnInfo, Phase};
use bartizan_testkit::{Crl, Leaf, TestCa, TestDir};
use futures_util::StreamExt;
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::{ClientAuth, HandshakeReason, Identity};

/// Clients without a network, so that paused time is the only one.
struct Wire(UnboundedReceiver<DuplexStream>);

impl Listener for Wire {
    type Io = DuplexStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(DuplexStream, ConnInfo)>> {
        match ready!(self.0.poll_recv(cx)) {
            Some(io) => Poll::Ready(Ok((io, info()))),
            None => Poll::Pending,
        }
    }

    fn accept_queued(&mut self) -> io::Result<Option<(DuplexStream, ConnInfo)>> {
        Ok(self.0.try_recv().ok().map(|io| (io, info())))
    }
}

fn info() -> ConnInfo {
    ConnInfo::new("192.0.2.1:5000".parse().unwrap(), "192.0.2.2:443".parse().unwrap())
}

/// Where clients come from.
struct Clients {
    ca: TestCa,
    arriving: UnboundedSender<DuplexStream>,
}

type Connecting = JoinHandle<io::Result<TlsStream<DuplexStream>>>;

impl Clients {
    /// The client's end of a transport.
    fn dial(&self) -> DuplexStream {
        let (near, far) = duplex(65_536);
        self.arriving.send(far).map_err(drop).expect("the listener is there");
        near
    }

    fn connect(&self) -> Connecting {
        self.connect_as(self.ca.client_config(&[]))
    }

    fn connect_as(&self, config: Arc<ClientConfig>) -> Connecting {
        let near = self.dial();
        let name = "localhost".try_into().unwrap();
        tokio::spawn(async move { TlsConnector::from(config).connect(name, near).await })
    }

    fn layer(&self) -> TlsTerminateLayer {
        let site = self.ca.issue(Leaf::server("localhost"));
        TlsTerminateLayer::new(Identity::from_pem("site", site.bundle_pem().as_bytes()).unwrap())
    }
}

fn clients() -> (Clients, Wire) {
    let (arriving, wire) = unbounded_channel();
    let clients = Clients { ca: TestCa::new("test root"), arriving };
    (clients, Wire(wire))
}

fn listener() -> (TlsListener<Wire>, Clients) {
    let (clients, wire) = clients();
    (TlsListener::with_layer(wire, clients.layer()), clients)
}

type Accepted = TlsConnection<DuplexStream>;

/// A listener whose clients need certificates, and a client with one that is accepted.
///
/// The function revokes it.
async fn mutual() -> (TlsListener<Wire>, Accepted, TlsStream<DuplexStream>, impl FnOnce()) {
    let (clients, wire) = clients();
    let (dir, ca) = (TestDir::new(), &clients.ca);
    let alice = ca.issue(Leaf::client("alice"));
    let (none, revoking) = (ca.crl(Crl::new()), ca.crl(Crl::new().revoke(&alice)));
    let roots = dir.write("ca.pem", ca.cert_pem());
    let auth = ClientAuth::required(roots).crl(dir.write("ca.crl", none));
    let site = ca.issue(Leaf::server("localhost")).bundle_pem();
    let store = CertStore::builder().pem("site.pem", site).client_auth(auth).build().unwrap();
    let mut listener = TlsListener::new(wire, store.clone());
    let client = clients.connect_as(ca.client_config_as(&alice, &[]));
    let accepted = listener.accept().await.unwrap();
    let client = client.await.unwrap().unwrap();
    let revoke = move || {
        dir.write("ca.crl", revoking);
        store.reload().unwrap();
    };
    (listener, accepted, client, revoke)
}

/// All that can be accepted now.
async fn accept_all(listener: &mut TlsListener<Wire>) -> Vec<Accepted> {
    let mut all = Vec::new();
    while let Ok(Some(connection)) = timeout(Duration::from_secs(1), listener.accept()).await {
        all.push(connection);
    }
    all
}

/// Lets every task do what it can.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn alive() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

fn is_cut<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::ConnectionAborted)
}

#[tokio::test]
async fn a_client_over_tcp_is_accepted_with_what_is_known_of_it() {
    let (clients, _) = clients();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp.local_addr().unwrap();
    let mut listener = TlsListener::with_layer(tcp, clients.layer());
    assert_eq!(listener.local_addr().unwrap(), addr);
    let client = async {
        let tcp = TcpStream::connect(addr).await.unwrap();
        let local = tcp.local_addr().unwrap();
        let tls = TlsConnector::from(clients.ca.client_config(&["h2"]));
        let mut tls = tls.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        tls.write_all(b"ping").await.unwrap();
        let mut pong = [0; 4];
        tls.read_exact(&mut pong).await.unwrap();
        (local, pong)
    };
    let server = async {
        let mut connection = listener.accept().await.unwrap();
        let mut got = [0; 4];
        connection.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        assert!(connection.is_write_vectored());
        let parts = [io::IoSlice::new(b"po"), io::IoSlice::new(b"ng")];
        assert_eq!(connection.write_vectored(&parts).await.unwrap(), 4);
        connection.shutdown().await.unwrap();
        connection
    };
    let ((local, pong), connection) = tokio::join!(client, server);
    assert_eq!(&pong, b"pong");
    let info = connection.info();
    assert_eq!((info.peer(), info.local()), (local, addr));
    let tls = info.tls().unwrap();
    assert_eq!((tls.sni.as_deref(), tls.is_h2()), (Some("localhost"), true));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stalls_in_its_handshake_holds_up_nobody() {
    let (listener, clients) = listener();
    let mut listener = listener.backlog(1);
    let start = Instant::now();
    let stalled: Vec<_> = (0..20).map(|_| clients.dial()).collect();
    let client = clients.connect();
    listener.accept().await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    client.await.unwrap().unwrap();
    drop(stalled);
}

#[tokio::test(start_paused = true)]
async fn handshakes_go_on_while_nobody_accepts() {
    let (mut listener, clients) = listener();
    assert!(accept_all(&mut listener).await.is_empty());
    for _ in 0..3 {
        clients.connect().await.unwrap().unwrap();
    }
    settle().await;
    assert_eq!(accept_all(&mut listener).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_fails_is_not_accepted_and_ends_nothing() {
    let (clients, wire) = clients();
    let layer = clients.layer();
    let counts = Arc::clone(layer.counts());
    let mut listener = TlsListener::with_layer(wire, layer);
    clients.dial().write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    drop(clients.dial());
    let stranger = clients.connect_as(TestCa::new("test root").client_config(&[]));
    let client = clients.connect();
    assert_eq!(accept_all(&mut listener).await.len(), 1);
    client.await.unwrap().unwrap();
    stranger.await.unwrap().unwrap_err();
    let failed = [HandshakeReason::NotTls, HandshakeReason::HungUp, HandshakeReason::PeerAlert];
    assert_eq!(failed.map(|reason| counts.failed(reason)), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_stops_accepting_until_there_is_room() {
    let (listener, clients) = listener();
    let mut listener = listener.backlog(2);
    // Nothing is accepted before this.
    assert!(accept_all(&mut listener).await.is_empty());
    let mut connecting = Vec::new();
    for _ in 0..5 {
        connecting.push(clients.connect());
        settle().await;
    }
    let done = |connecting: &[Connecting]| connecting.iter().filter(|c| c.is_finished()).count();
    // The third one was awaited since before the second one filled the queue.
    assert_eq!(done(&connecting), 3);
    for _ in 0..5 {
        listener.accept().await.unwrap();
    }
    settle().await;
    assert_eq!(done(&connecting), 5);
}

#[tokio::test(start_paused = true)]
async fn handshakes_under_way_when_the_queue_fills_up_are_not_lost() {
    let (listener, clients) = listener();
    let mut listener = listener.backlog(1);
    let connecting: Vec<_> = (0..4).map(|_| clients.connect()).collect();
    let accepted = accept_all(&mut listener).await;
    assert_eq!(accepted.len(), 4);
    for client in connecting {
        client.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_connections_are_open_than_may_be() {
    let (listener, clients) = listener();
    let mut listener = listener.max_connections(2);
    let _connecting: Vec<_> = (0..3).map(|_| clients.connect()).collect();
    let mut accepted = accept_all(&mut listener).await;
    assert_eq!(accepted.len(), 2);
    accepted.pop();
    assert_eq!(accept_all(&mut listener).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_dropped_leaves_no_task() {
    let (mut listener, clients) = listener();
    let client = clients.connect();
    let before = alive();
    let accepted = listener.accept().await.unwrap();
    client.await.unwrap().unwrap();
    settle().await;
    // The accept loop and the connection have come, the client has gone.
    assert_eq!(alive(), before + 1);
    drop(accepted);
    settle().await;
    assert_eq!(alive(), before);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_listener_ends_all_but_what_was_accepted() {
    let (mut listener, clients) = listener();
    let client = clients.connect();
    let mut accepted = listener.accept().await.unwrap();
    let mut client = client.await.unwrap().unwrap();
    let mut stalled = clients.dial();
    let mut waiting = clients.connect().await.unwrap().unwrap();
    settle().await;
    assert_eq!(alive(), 4, "the accept loop and three connections");
    drop(listener);
    settle().await;
    assert_eq!(alive(), 1, "the one that was accepted");
    assert!(clients.arriving.is_closed());
    let start = Instant::now();
    assert_eq!(stalled.read(&mut [0]).await.unwrap(), 0);
    waiting.read(&mut [0]).await.unwrap_err();
    assert_eq!(start.elapsed(), Duration::ZERO);
    accepted.write_all(b"still here").await.unwrap();
    accepted.shutdown().await.unwrap();
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).await.unwrap();
    assert_eq!(greeting, "still here");
    drop(accepted);
    settle().await;
    assert_eq!(alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_revoked_is_asked_to_end_and_then_cut() {
    let (_listener, accepted, mut client, revoke) = mutual().await;
    let mut drain = accepted.drain();
    let name = accepted.info().tls().unwrap().client.clone().unwrap().common_name.clone();
    assert_eq!(name.as_deref(), Some("alice"));
    // The halves of a split stream are polled by two tasks.
    let (mut read, mut write) = split(accepted);
    let reading = tokio::spawn(async move { read.read(&mut [0]).await.map(drop) });
    // More than fits: the client does not read.
    let writing = tokio::spawn(async move { write.write_all(&vec![0; 1024 * 1024]).await });
    settle().await;
    let start = Instant::now();
    revoke();
    drain.reached(Phase::Announced).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    let got = timeout(Duration::from_secs(60), reading).await.expect("the reader is woken");
    assert!(is_cut(&got.unwrap()));
    assert!((5..=10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let woken = Instant::now();
    let written = timeout(Duration::from_secs(60), writing).await.expect("the writer is woken");
    assert!(is_cut(&written.unwrap()));
    assert_eq!(woken.elapsed(), Duration::ZERO);
    // Both halves are gone, and so is the transport.
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_cut_fails_whatever_is_asked_of_it() {
    let (_listener, mut accepted, mut client, revoke) = mutual().await;
    client.write_all(b"late").await.unwrap();
    revoke();
    tokio::time::sleep(Duration::from_secs(10)).await;
    settle().await;
    assert!(is_cut(&accepted.read(&mut [0]).await));
    assert!(is_cut(&accepted.write(b"x").await));
    assert!(is_cut(&accepted.write_vectored(&[io::IoSlice::new(b"x")]).await));
    assert!(is_cut(&accepted.flush().await));
    assert!(is_cut(&accepted.shutdown().await));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_client_is_cut_after_the_listener_is_gone() {
    let (listener, mut accepted, _client, revoke) = mutual().await;
    drop(listener);
    settle().await;
    revoke();
    assert!(is_cut(&accepted.read(&mut [0]).await));
}

#[tokio::test(start_paused = true)]
async fn a_drain_stops_accepting_and_cuts_what_is_left() {
    let (listener, clients) = listener();
    let drain = Drain::new();
    let mut listener = listener.with_drain(drain.clone());
    let _client = clients.connect();
    let mut accepted = listener.accept().await.unwrap();
    drain.advance(Phase::Stopped);
    assert!(accept_all(&mut listener).await.is_empty());
    assert_eq!(accepted.drain().phase(), Phase::Stopped);
    let early = timeout(Duration::from_secs(60), accepted.read(&mut [0])).await;
    assert!(early.is_err(), "{early:?}");
    drain.advance(Phase::Closing);
    assert!(is_cut(&accepted.read(&mut [0]).await));
    assert!(listener.accept().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_stream_yields_connections_and_ends_with_the_drain() {
    let (listener, clients) = listener();
    let drain = Drain::new();
    let mut stream = listener.with_drain(drain.clone()).into_stream();
    let _client = clients.connect();
    let connection = stream.next().await.unwrap().unwrap();
    assert_eq!(connection.info().tls().unwrap().sni.as_deref(), Some("localhost"));
    drop(connection);
    drain.advance(Phase::Stopped);
    assert!(stream.next().await.is_none());
}

#[test]
fn a_listener_is_made_and_dropped_outside_of_a_runtime() {
    let (listener, _clients) = listener();
    assert_eq!(listener.local_addr().unwrap_err().kind(), io::ErrorKind::Unsupported);
}
