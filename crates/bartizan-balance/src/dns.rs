//! Backends that follow DNS.
//!
//! [`DnsBackends`] says which names are asked for and what is made of the answers, a [`Resolver`] who
//! is asked, and [`Cluster::follow`](crate::Cluster::follow) puts the backends into a cluster:
//!
//! ```no_run
//! use bartizan_balance::Cluster;
//! use bartizan_balance::dns::{DnsBackends, Resolver};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let web = Cluster::builder("web").build()?;
//! let names = DnsBackends::a("web.internal", 80).discover(Resolver::system()?)?;
//! let _following = web.follow(names);
//! # Ok(())
//! # }
//! ```
//!
//! # When names are asked for
//!
//! Again when the shortest TTL of an answer is over, within bounds, and up to a tenth later, so that
//! instances do not ask in step. While a resolver fails, pauses double from the lower bound to 30 s.
//!
//! # What happens to backends
//!
//! | answer | backends | HAProxy |
//! | --- | --- | --- |
//! | addresses | those; others are removed at once | `hold valid`, `hold obsolete 0` |
//! | the name does not exist, or has no such records | as before for the [hold time](DnsBackends::hold), then none | `hold nx`, `hold other` |
//! | failure: no answer in time, `SERVFAIL`, `REFUSED` and so on | as before, for as long as it takes | kept for `hold timeout` only |
//!
//! IPv4 and IPv6 addresses are asked for each on their own, and so are the targets of a service: a
//! failure of one leaves what the others say.
//!
//! A server that tells only some of its addresses at a time, in turn, makes backends come and go:
//! let it tell all of them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bartizan_net::{Address, AddressError};

use crate::{Limits, Role};

use reconcile::Follow;

mod hickory;
mod memory;
mod reconcile;
mod resolve;
mod stream;

pub use hickory::Resolver;
pub use resolve::{Family, Found, Resolve, ResolveError, ResolveFuture, SrvRecord};
pub use stream::DnsDiscover;

/// Which names make backends, and what backends they make.
///
/// | setting | default |
/// | --- | --- |
/// | [`shortest`](Self::shortest), [`longest`](Self::longest) | 1 s, 5 min |
/// | [`hold`](Self::hold) | 30 s |
/// | [`max_backends`](Self::max_backends) | 1,000 |
/// | [`weight`](Self::weight) | 1, or what SRV records say |
/// | [`role`](Self::role) | active, or what SRV records say |
/// | [`limits`](Self::limits) | none |
/// | [`server_name`](Self::server_name) | the name whose address it is |
///
/// A backend is called by the name that was asked for and its address, `web.internal/192.0.2.1:80`.
/// One whose address stays in the answer stays itself, with its live state.
#[derive(Clone, Debug)]
pub struct DnsBackends {
    name: Arc<str>,
    // `None`: what SRV records say.
    port: Option<u16>,
    shortest: Duration,
    longest: Duration,
    hold: Duration,
    max_backends: usize,
    weight: Option<u16>,
    role: Option<Role>,
    limits: Limits,
    server_name: Option<Arc<str>>,
}

impl DnsBackends {
    /// The addresses of `name` (A and AAAA records), with this port.
    ///
    /// The name is taken as complete, with or without a dot at its end: search lists are not used,
    /// and neither is the file of hosts.
    pub fn a(name: &str, port: u16) -> Self {
        Self::new(name, Some(port))
    }

    /// The addresses and ports of the service `name`, such as `_http._tcp.web.internal` (SRV records,
    /// RFC 2782).
    ///
    /// Targets of the lowest priority are active, all others are backups, lower ones first. Weights
    /// above 256 are scaled down, among records of one priority; a weight of 0, a small chance, is 1.
    /// Each address of a target gets the target's weight. What two records name is taken once, of
    /// the lower priority.
    pub fn srv(name: &str) -> Self {
        Self::new(name, None)
    }

    fn new(name: &str, port: Option<u16>) -> Self {
        Self {
            name: name.strip_suffix('.').unwrap_or(name).into(),
            port,
            shortest: SHORTEST,
            longest: LONGEST,
            hold: HOLD,
            max_backends: MAX_BACKENDS,
            weight: None,
            role: None,
            limits: Limits::none(),
            server_name: None,
        }
    }

    /// Asks again after this time at the earliest, whatever the TTL says; at least a millisecond.
    pub fn shortest(self, interval: Duration) -> Self {
        Self { shortest: interval.max(FLOOR), ..self }
    }

    /// Asks again after this time at the latest, whatever the TTL says; at least a millisecond, at
    /// most a week.
    pub fn longest(self, interval: Duration) -> Self {
        Self { longest: interval.clamp(FLOOR, CEILING), ..self }
    }

    /// Keeps backends for so long whose name does not exist any more.
    pub fn hold(self, time: Duration) -> Self {
        Self { hold: time, ..self }
    }

    /// Makes no more backends than this; which are left out does not change without need. That there
    /// are more is an event. It also bounds the targets of a service.
    pub fn max_backends(self, count: usize) -> Self {
        Self { max_backends: count, ..self }
    }

    /// Gives all backends this weight, from 0 to 256; above counts as 256.
    pub fn weight(self, weight: u16) -> Self {
        Self { weight: Some(weight), ..self }
    }

    /// Uses all backends in this role.
    pub fn role(self, role: Role) -> Self {
        Self { role: Some(role), ..self }
    }

    /// Has each backend take no more than this at a time.
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Expects this name of all backends over TLS, instead of the one whose address it is: of the
    /// name that was asked for, or of the service's target.
    pub fn server_name(self, name: impl Into<Arc<str>>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    /// The backends as a [`Discover`](tower::discover::Discover), which neither ends nor fails: that
    /// a resolver does is a tracing event.
    ///
    /// # Errors
    ///
    /// [`DnsError::Name`], if the name is none.
    pub fn discover<R: Resolve>(self, resolver: R) -> Result<DnsDiscover<R>, DnsError> {
        let wrong = |source| DnsError::Name { name: Arc::clone(&self.name), source };
        match format!("{}:{}", self.name, self.port.unwrap_or(0)).parse().map_err(wrong)? {
            Address::Name { .. } => Ok(DnsDiscover::new(Follow::new(self), resolver)),
            _ => Err(DnsError::IsAddress { name: self.name }),
        }
    }
}

/// Backends cannot be found through DNS as it was asked for. The operator's fault.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// A name is not a host name.
    #[error("`{name}` cannot be asked for: {source}")]
    Name {
        /// The name.
        name: Arc<str>,
        /// What is wrong with it.
        source: AddressError,
    },

    /// A name is an address, which needs no DNS.
    #[error("`{name}` is an address; add it to the cluster as a backend")]
    IsAddress {
        /// The name.
        name: Arc<str>,
    },

    /// The system's resolvers are not known.
    #[error("the resolvers of this system cannot be read (/etc/resolv.conf): {source}; name one")]
    System {
        /// What is wrong.
        source: bartizan_net::BoxError,
    },
}

/// Addresses that lead nowhere, or to whoever asks: blocklists answer with them.
fn is_dialable(ip: &IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && *ip != BROADCAST
}

const BROADCAST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::BROADCAST);

/// A TTL of 0 forbids caches, but a request needs an address, and a resolver its rest.
const SHORTEST: Duration = Duration::from_secs(1);

/// How long a change may go unnoticed if somebody has set a TTL of a day.
const LONGEST: Duration = Duration::from_secs(300);

/// HAProxy's `hold nx`: a zone that is loaded anew may be empty for a moment.
const HOLD: Duration = Duration::from_secs(30);

/// An answer must not make a table of any size.
const MAX_BACKENDS: usize = 1_000;

/// Less would be a load rather than a question.
const FLOOR: Duration = Duration::from_millis(1);

/// What a clock can be moved by without a panic, and RFC 8767's advice for the longest TTL.
const CEILING: Duration = Duration::from_secs(7 * 86_400);

#[cfg(test)]
mod tests;
