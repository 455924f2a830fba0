//! A backend with a certificate of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bartizan_testkit::Minted;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A running server that answers one HTTP/1.1 request per connection with its name and a newline.
///
/// It agrees on h2 with those that offer it, and does not speak it: that is for who only looks.
/// Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct TlsBackend {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    config: Mutex<Arc<ServerConfig>>,
    handshakes: AtomicU64,
    served: AtomicU64,
}

impl TlsBackend {
    /// Starts it on a port of loopback; it presents `identity`.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub async fn start(name: &str, identity: &Minted) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            config: Mutex::new(config(identity)),
            handshakes: AtomicU64::new(0),
            served: AtomicU64::new(0),
        });
        let mut task = JoinSet::new();
        task.spawn(accept(listener, Arc::clone(&shared)));
        Self { addr, shared, _task: task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Handshakes that it has completed: clients, and checks that took its certificate.
    pub fn handshakes(&self) -> u64 {
        self.shared.handshakes.load(Ordering::SeqCst)
    }

    /// Requests that it has answered.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::SeqCst)
    }

    /// Presents `identity` to whoever connects from now on.
    pub fn present(&self, identity: &Minted) {
        *self.shared.config.lock().unwrap_or_else(PoisonError::into_inner) = config(identity);
    }
}

fn config(identity: &Minted) -> Arc<ServerConfig> {
    identity.server_config(&["h2", "http/1.1"])
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (tcp, _) = accepted.unwrap();
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    // A client that goes away is its own affair.
                    let _ = serve(tcp, &shared).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(tcp: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let config = Arc::clone(&shared.config.lock().unwrap_or_else(PoisonError::into_inner));
    let mut tls = TlsAcceptor::from(config).accept(tcp).await?;
    shared.handshakes.fetch_add(1, Ordering::SeqCst);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if tls.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    shared.served.fetch_add(1, Ordering::SeqCst);
    let (name, length) = (&shared.name, shared.name.len() + 1);
    let answer = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\
         X-Backend: {name}\r\n\r\n{name}\n"
    );
    tls.write_all(answer.as_bytes()).await?;
    tls.shutdown().await?;
    // Closed with unread bytes, it would be reset: the client closes first.
    tls.read_to_end(&mut head).await.map(drop)
}
