//! TCP by hand: clients and backends of which only the bytes count.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustls::ClientConnection;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::wait::PATIENCE;
use crate::{Proxy, Site, within};

/// A backend whose connections the test takes one by one.
#[derive(Debug)]
pub struct TcpBackend {
    listener: TcpListener,
}

impl TcpBackend {
    /// Listens on a port of loopback.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub async fn listen() -> Self {
        Self { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap() }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// The next connection, without delay of small writes.
    ///
    /// # Panics
    ///
    /// If none comes for 30 s.
    pub async fn accept(&self) -> TcpStream {
        let accepted = within(PATIENCE, "a connection at the backend", self.listener.accept());
        let (tcp, _) = accepted.await.unwrap();
        tcp.set_nodelay(true).unwrap();
        tcp
    }

    /// Takes one connection and reads it to its end, which the client has to send.
    ///
    /// # Panics
    ///
    /// If it does not end, or ends in a reset.
    pub async fn record(&self) -> Vec<u8> {
        let mut tcp = self.accept().await;
        let mut bytes = Vec::new();
        let read = within(PATIENCE, "the end of a recording", tcp.read_to_end(&mut bytes));
        read.await.unwrap();
        bytes
    }

    /// Whether a connection is waiting to be taken, which is dropped then.
    pub fn has_more(&self) -> bool {
        // Asked of the kernel, because the runtime may not have heard of it yet.
        SockRef::from(&self.listener).accept().is_ok()
    }
}

/// A connection to `addr`, without delay of small writes.
///
/// # Panics
///
/// If it is refused.
pub async fn connect(addr: SocketAddr) -> TcpStream {
    // Not by `connect_from`: ports that are bound first are used up by thousands of connections.
    let connected = within(PATIENCE, "a connection", TcpStream::connect(addr));
    let tcp = connected.await.unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

/// A connection to `addr` from the address `source` of this host.
///
/// # Panics
///
/// If it is refused.
pub async fn connect_from(source: IpAddr, addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.set_nodelay(true).unwrap();
    within(PATIENCE, "a connection", socket.connect(addr)).await.unwrap()
}

/// A client of `proxy` and what it is passed on to, which the client's first byte has reached.
///
/// # Panics
///
/// If it does not come.
pub async fn tunnel(proxy: &Proxy, backend: &TcpBackend) -> (TcpStream, TcpStream) {
    let mut client = connect(proxy.addr()).await;
    client.write_all(b"!").await.unwrap();
    let mut passed = backend.accept().await;
    let first = within(PATIENCE, "the first byte", passed.read_u8()).await;
    assert_eq!(first.unwrap(), b'!');
    (client, passed)
}

/// Sends `bytes`, and reads to the end: all that came before it, even if the end is a reset.
///
/// # Panics
///
/// If the end does not come for 30 s.
pub async fn say(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = connect(addr).await;
    // It may be closed before all is sent.
    let _ = tcp.write_all(bytes).await;
    end_of(&mut tcp).await
}

/// What comes up to the end of the connection, or its reset.
///
/// # Panics
///
/// If the end does not come for 30 s.
pub async fn end_of(tcp: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = within(PATIENCE, "the end of a connection", tcp.read_to_end(&mut answer)).await;
    answer
}

/// A ClientHello that asks for `name`, or for none.
pub fn client_hello(site: &Site, name: Option<&str>) -> Vec<u8> {
    let mut config = (*site.tls(&["http/1.1"])).clone();
    config.enable_sni = name.is_some();
    let name = ServerName::try_from(name.unwrap_or("localhost").to_owned()).unwrap();
    let mut hello = Vec::new();
    ClientConnection::new(config.into(), name).unwrap().write_tls(&mut hello).unwrap();
    hello
}

/// The record that refuses a handshake with this alert (RFC 8446 §6).
pub fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}
