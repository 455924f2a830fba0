//! Backends that answer checks by a script.

use std::iter;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What a backend does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests write it")]
pub enum Step {
    /// Answers a request with this status, and closes.
    Status(u16),
    /// Resets it as soon as it is there.
    Reset,
}

/// A running server that takes one step of its script for each connection, one after the other, and
/// repeats the last.
///
/// Dropping it closes its listener.
#[derive(Debug)]
pub struct Scripted {
    addr: SocketAddr,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    _task: JoinSet<()>,
}

impl Scripted {
    /// Starts it on a port of loopback.
    ///
    /// # Panics
    ///
    /// If it cannot, or the script is empty.
    pub async fn start(script: &[Step]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let arrivals = Arc::<Mutex<Vec<Instant>>>::default();
        assert!(!script.is_empty(), "a script without a step");
        let mut task = JoinSet::new();
        task.spawn(play(listener, script.to_vec(), Arc::clone(&arrivals)));
        Self { addr, arrivals, _task: task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// When each connection came.
    pub fn arrivals(&self) -> Vec<Instant> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn play(listener: TcpListener, script: Vec<Step>, arrivals: Arc<Mutex<Vec<Instant>>>) {
    for step in script.iter().chain(iter::repeat(&script[script.len() - 1])) {
        let (tcp, _) = listener.accept().await.unwrap();
        arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        match step {
            // Who goes away is its own affair.
            Step::Status(status) => answer(tcp, *status).await.unwrap_or_default(),
            Step::Reset => SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap(),
        }
    }
}

async fn answer(mut tcp: TcpStream, status: u16) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if tcp.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let answer = format!("HTTP/1.1 {status} -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    tcp.write_all(answer.as_bytes()).await?;
    tcp.shutdown().await
}
