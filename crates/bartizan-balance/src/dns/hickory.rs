//! The resolver of hickory.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError as NoAnswer, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};

use super::{DnsError, Family, Found, Resolve, ResolveError, ResolveFuture, SrvRecord};

/// Asks DNS servers, over UDP and, for answers that do not fit, over TCP.
///
/// It keeps no answers: [`DnsBackends`](super::DnsBackends) asks when they have run out, and a second
/// cache in the way of the server's own would make answers older than their TTL allows. Clones share
/// connections.
#[derive(Clone)]
pub struct Resolver {
    resolver: TokioResolver,
}

impl Resolver {
    /// Asks the servers of `/etc/resolv.conf`, with its timeouts, as it is now. Its search list is
    /// not used, and the file of hosts is not either.
    ///
    /// # Errors
    ///
    /// [`DnsError::System`], if the file cannot be read or says nothing of use.
    pub fn system() -> Result<Self, DnsError> {
        let system = |source: NetError| DnsError::System { source: source.into() };
        Self::build(TokioResolver::builder_tokio().map_err(system)?).map_err(system)
    }

    /// Asks the server at `addr`, up to three times, for 1 s each, as HAProxy does.
    ///
    /// # Errors
    ///
    /// [`DnsError::System`], if no resolver can be made.
    pub fn with_nameserver(addr: SocketAddr) -> Result<Self, DnsError> {
        let connections =
            [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = addr.port();
                connection
            });
        let server = NameServerConfig::new(addr.ip(), true, connections.into());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let provider = TokioRuntimeProvider::default();
        let mut builder = TokioResolver::builder_with_config(config, provider);
        builder.options_mut().timeout = TIMEOUT;
        Self::build(builder).map_err(|source| DnsError::System { source: source.into() })
    }

    fn build(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<Self, NetError> {
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        // An alias has a TTL as well.
        options.preserve_intermediates = true;
        Ok(Self { resolver: builder.build()? })
    }

    /// What the server says of `name`, of which `pick` takes what is wanted.
    fn ask<T>(
        &self,
        name: &str,
        kind: RecordType,
        pick: fn(&RData) -> Option<T>,
    ) -> ResolveFuture<T>
    where
        T: Send + 'static,
    {
        let resolver = self.resolver.clone();
        let name = Name::from_ascii(name).map(|mut name| {
            name.set_fqdn(true);
            name
        });
        Box::pin(async move {
            let name = name.map_err(|error| ResolveError::Failed(error.into()))?;
            match resolver.lookup(name, kind).await {
                Ok(lookup) => found(&lookup, pick),
                Err(error) => Err(failure(error)),
            }
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolve for Resolver {
    fn addresses(&self, name: &Arc<str>, family: Family) -> ResolveFuture<IpAddr> {
        match family {
            Family::V4 => self.ask(name, RecordType::A, |data| match data {
                RData::A(ip) => Some(IpAddr::V4(ip.0)),
                _ => None,
            }),
            Family::V6 => self.ask(name, RecordType::AAAA, |data| match data {
                RData::AAAA(ip) => Some(IpAddr::V6(ip.0)),
                _ => None,
            }),
        }
    }

    fn services(&self, name: &Arc<str>) -> ResolveFuture<SrvRecord> {
        self.ask(name, RecordType::SRV, |data| match data {
            RData::SRV(srv) => {
                let target = srv.target.to_ascii().to_ascii_lowercase();
                let target = target.strip_suffix('.').unwrap_or(&target);
                Some(SrvRecord::new(srv.priority, srv.weight, srv.port, target))
            }
            _ => None,
        })
    }
}

fn found<T>(lookup: &Lookup, pick: fn(&RData) -> Option<T>) -> Result<Found<T>, ResolveError> {
    let answers = lookup.answers();
    let records: Vec<_> = answers.iter().filter_map(|record| pick(&record.data)).collect();
    match answers.iter().map(|record| record.ttl).min() {
        Some(ttl) if !records.is_empty() => Ok(Found::new(records, seconds(ttl))),
        _ => Err(ResolveError::NotFound { ttl: None }),
    }
}

/// That there is nothing is an answer; all else is none.
fn failure(error: NetError) -> ResolveError {
    match error {
        NetError::Dns(NoAnswer::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            ResolveError::NotFound { ttl: none.negative_ttl.map(seconds) }
        }
        error => ResolveError::Failed(error.into()),
    }
}

fn seconds(ttl: u32) -> Duration {
    Duration::from_secs(ttl.into())
}

/// HAProxy's `timeout retry`. A server on the same network answers in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(1);
