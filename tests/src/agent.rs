//! Agents beside backends.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// An agent for all addresses of loopback, on one port: whoever connects is told a line about the
/// address that it connected to.
///
/// Dropping it closes its listener.
#[derive(Debug)]
pub struct Agent {
    port: u16,
    replies: Arc<Mutex<HashMap<IpAddr, String>>>,
    _task: JoinSet<()>,
}

impl Agent {
    /// Starts it; until something else is said of an address, this is.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub async fn start(reply: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let replies = Arc::<Mutex<HashMap<IpAddr, String>>>::default();
        let (usual, said) = (reply.to_owned(), Arc::clone(&replies));
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let ip = tcp.local_addr().unwrap().ip();
                let said = said.lock().unwrap_or_else(PoisonError::into_inner).get(&ip).cloned();
                let line = said.unwrap_or_else(|| usual.clone()) + "\n";
                // Who has gone does not want to know.
                let _ = tcp.write_all(line.as_bytes()).await;
            }
        });
        Self { port, replies, _task: task }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Says this of the backend at `ip` from now on.
    pub fn say(&self, ip: impl Into<IpAddr>, reply: &str) {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        replies.insert(ip.into(), reply.to_owned());
    }
}
