//! Who is asked, and what is answered.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bartizan_net::BoxError;

/// Something that knows addresses and services by their names: [`Resolver`](super::Resolver), or one
/// of your own.
pub trait Resolve: Send + Sync + 'static {
    /// Asks for the addresses of `name`. The name is complete and has no dot at its end.
    fn addresses(&self, name: &Arc<str>, family: Family) -> ResolveFuture<IpAddr>;

    /// Asks for the records of the service `name`.
    fn services(&self, name: &Arc<str>) -> ResolveFuture<SrvRecord>;
}

/// Resolves to what is known of a name. It is dropped if that takes longer than 30 s.
pub type ResolveFuture<T> = Pin<Box<dyn Future<Output = Result<Found<T>, ResolveError>> + Send>>;

/// A kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// IPv4, A records.
    V4,
    /// IPv6, AAAA records.
    V6,
}

/// Records, and for how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found<T> {
    /// The records, in any order. None: the name has no such records.
    pub records: Vec<T>,
    /// For how long they hold: the shortest TTL among them.
    pub ttl: Duration,
}

impl<T> Found<T> {
    /// These records for this time.
    pub fn new(records: Vec<T>, ttl: Duration) -> Self {
        Self { records, ttl }
    }
}

/// Where a service is to be had (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct SrvRecord {
    /// The lower, the sooner it is used.
    pub priority: u16,
    /// The name of the host, without a dot at its end. Empty: the service is not to be had.
    pub target: Arc<str>,
    /// The port.
    pub port: u16,
    /// The share among the records of the same priority.
    pub weight: u16,
}

impl SrvRecord {
    /// The service is at `target`, on `port`.
    pub fn new(priority: u16, weight: u16, port: u16, target: impl Into<Arc<str>>) -> Self {
        Self { priority, target: target.into(), port, weight }
    }
}

/// A name could not be resolved.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist, or has no such records. Backends are removed after the hold time.
    #[error("the name does not exist, or has no such records")]
    NotFound {
        /// For how long that holds, if anything says so.
        ttl: Option<Duration>,
    },

    /// There is no good answer: nothing is known about the name. Backends stay. The resolver's
    /// fault.
    #[error("no good answer: {0}")]
    Failed(BoxError),
}
