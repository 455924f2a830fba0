//! Backends that stop where they are.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Stands in front of a backend and passes everything on, until it freezes: then nothing is read or
/// written any more, and new connections are taken by the kernel alone, as with a process that was
/// sent SIGSTOP.
///
/// Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct Freezer {
    addr: SocketAddr,
    frozen: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Freezer {
    /// Starts it on a port of loopback, in front of `backend`.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub async fn start(backend: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let frozen = watch::Sender::new(false);
        let mut task = JoinSet::new();
        task.spawn(accept(listener, backend, frozen.subscribe()));
        Self { addr, frozen, _task: task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops, in the middle of whatever it is doing.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Goes on.
    pub fn thaw(&self) {
        self.frozen.send_replace(false);
    }
}

async fn accept(listener: TcpListener, backend: SocketAddr, mut frozen: watch::Receiver<bool>) {
    let (mut connections, seen) = (JoinSet::new(), frozen.clone());
    while frozen.wait_for(|frozen| !frozen).await.is_ok() {
        tokio::select! {
            biased;
            _ = frozen.wait_for(|frozen| *frozen) => {}
            accepted = listener.accept() => {
                let (client, _) = accepted.unwrap();
                connections.spawn(pass(client, backend, seen.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass(mut client: TcpStream, backend: SocketAddr, mut frozen: watch::Receiver<bool>) {
    // A connection that breaks on either side ends on both.
    let Ok(mut backend) = TcpStream::connect(backend).await else { return };
    let copy = copy_bidirectional(&mut client, &mut backend);
    tokio::pin!(copy);
    while frozen.wait_for(|frozen| !frozen).await.is_ok() {
        tokio::select! {
            biased;
            _ = frozen.wait_for(|frozen| *frozen) => {}
            _ = &mut copy => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bartizan_testkit::HttpBackend;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::Freezer;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

    #[tokio::test]
    async fn what_is_asked_while_it_is_frozen_is_answered_when_it_goes_on() {
        let backend = HttpBackend::start("web").await;
        let freezer = Freezer::start(backend.addr()).await;
        let mut old = TcpStream::connect(freezer.addr()).await.unwrap();
        backend.until(|counts| counts.connections == 1).await;
        freezer.freeze();
        let mut new = TcpStream::connect(freezer.addr()).await.unwrap();
        for client in [&mut old, &mut new] {
            client.write_all(GET).await.unwrap();
            let read = timeout(Duration::from_millis(50), client.read_u8());
            read.await.expect_err("nothing comes");
        }
        assert_eq!((backend.connections(), backend.requests()), (1, 0));
        freezer.thaw();
        for client in [&mut old, &mut new] {
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("web\n"), "{answer}");
        }
    }
}
