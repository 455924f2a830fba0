//! Dialling over TCP.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};
use tower_service::Service;

use crate::{Address, Target};

/// A dial service: connects to a [`Target`] over TCP, with TCP_NODELAY set.
///
/// Host names are resolved by the system, at each dial. Their addresses are tried as RFC 8305
/// ("happy eyeballs") says: families in turn, the next one 250 ms after the one before or at once
/// when that has failed; the first to connect wins.
///
/// Cancel safe: dropping the future closes what it had begun.
#[derive(Clone, Copy, Debug)]
pub struct TcpDial {
    connect_timeout: Duration,
}

impl TcpDial {
    /// Dials with a connect timeout of 5 s.
    pub fn new() -> Self {
        Self { connect_timeout: CONNECT_TIMEOUT }
    }

    /// Gives up after `limit`, which covers resolving and all addresses together.
    pub fn connect_timeout(self, limit: Duration) -> Self {
        Self { connect_timeout: limit }
    }
}

impl Default for TcpDial {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Target> Service<T> for TcpDial {
    type Response = TcpStream;
    type Error = DialError;
    type Future = DialFuture<TcpStream>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        let address = target.address().clone();
        let limit = self.connect_timeout;
        Box::pin(async move {
            match timeout(limit, connect(&address)).await {
                Ok(result) => result,
                Err(_) => Err(DialError::Timeout { address, limit }),
            }
        })
    }
}

/// A dial under way. Boxed: once per connection that costs nothing.
pub type DialFuture<IO> = Pin<Box<dyn Future<Output = Result<IO, DialError>> + Send>>;

/// Why a [`TcpDial`] failed. All of these are the network's or the target's fault.
#[non_exhaustive]
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// The host name could not be resolved.
    #[error("cannot resolve {host}: {source}")]
    Resolve {
        /// The name.
        host: Arc<str>,
        /// The resolver's reason.
        source: Arc<io::Error>,
    },

    /// No address of the target accepted a connection.
    #[error("cannot connect to {addr}: {source}")]
    Connect {
        /// The address that failed last.
        addr: SocketAddr,
        /// The system's reason.
        source: Arc<io::Error>,
    },

    /// The connect timeout passed.
    #[error("no connection to {address} within {limit:?}")]
    Timeout {
        /// What was dialled.
        address: Address,
        /// The timeout.
        limit: Duration,
    },
}

impl DialError {
    /// Whether time ran out, rather than the target refusing.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Connect { source, .. } => source.kind() == io::ErrorKind::TimedOut,
            Self::Resolve { .. } => false,
        }
    }
}

async fn connect(address: &Address) -> Result<TcpStream, DialError> {
    let (host, port) = match address {
        Address::Socket(addr) => return connect_one(*addr).await,
        Address::Name { host, port } => (host, *port),
    };
    let unresolved =
        |source: io::Error| DialError::Resolve { host: Arc::clone(host), source: Arc::new(source) };
    let found: Vec<_> = lookup_host((&**host, port)).await.map_err(unresolved)?.collect();
    if found.is_empty() {
        return Err(unresolved(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
    }
    race(interleave(found)).await
}

async fn connect_one(addr: SocketAddr) -> Result<TcpStream, DialError> {
    let stream = TcpStream::connect(addr)
        .await
        .map_err(|source| DialError::Connect { addr, source: Arc::new(source) })?;
    // Fails only when the peer is gone already, which whoever reads will find out.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// RFC 8305 §5. `addrs` is not empty.
async fn race(addrs: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
    let mut waiting = addrs.into_iter();
    let mut tries = FuturesUnordered::new();
    tries.extend(waiting.next().map(connect_one));
    loop {
        tokio::select! {
            biased;
            Some(done) = tries.next() => match done {
                Ok(stream) => return Ok(stream),
                Err(error) => match waiting.next() {
                    Some(addr) => tries.push(connect_one(addr)),
                    None if tries.is_empty() => return Err(error),
                    None => {}
                },
            },
            () = sleep(ATTEMPT_DELAY), if waiting.len() > 0 => tries.extend(waiting.next().map(connect_one)),
        }
    }
}

/// RFC 8305 §4: the resolver's order, families in turn.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let count = found.len();
    let (first, second): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = Vec::with_capacity(count);
    while turns.len() < count {
        turns.extend(first.next());
        turns.extend(second.next());
    }
    turns
}

/// HAProxy's usual `timeout connect`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// RFC 8305 §5, "Connection Attempt Delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use bartizan_testkit::{Fault, Misbehaving};
    use tokio::net::TcpListener;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn connects_without_nagle() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::from(listener.local_addr().unwrap());
        let stream = TcpDial::new().oneshot(address).await.unwrap();
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_name_with_a_dead_first_address_still_connects() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let dead = bartizan_testkit::misbehave::refused_addr();
        assert_eq!(race(vec![dead, live]).await.unwrap().peer_addr().unwrap(), live);
    }

    #[tokio::test]
    async fn a_name_is_resolved() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address: Address = format!("localhost:{port}").parse().unwrap();
        assert_eq!(
            TcpDial::new().oneshot(address).await.unwrap().peer_addr().unwrap().port(),
            port
        );
    }

    #[tokio::test]
    async fn a_refusal_names_the_address() {
        let dead = bartizan_testkit::misbehave::refused_addr();
        let error = TcpDial::new().oneshot(Address::from(dead)).await.unwrap_err();
        assert!(matches!(&error, DialError::Connect { addr, .. } if *addr == dead), "{error:?}");
        assert!(!error.is_timeout());
    }

    #[tokio::test(start_paused = true)]
    async fn gives_up_after_five_seconds() {
        let silent = Misbehaving::start(Fault::NeverAccept).await;
        let start = tokio::time::Instant::now();
        let error = TcpDial::new().oneshot(Address::from(silent.addr())).await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[test]
    fn families_take_turns_from_the_resolvers_first() {
        let addrs =
            |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let turns = interleave(addrs(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"]));
        assert_eq!(turns, addrs(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]));
    }
}
