//! Backends that are wherever DNS says.

use bartizan::balance::FollowGuard;
use bartizan::balance::dns::{DnsBackends, DnsDiscover, DnsError, Resolver};
use bartizan::prelude::*;

use crate::cli::Cli;

/// Names to be followed, once there is a runtime for that.
pub(crate) struct Following {
    cluster: Cluster,
    names: Vec<DnsDiscover<Resolver>>,
}

impl Following {
    /// Finds out what is wrong with the names; `own` is what backends have to prove instead of
    /// theirs.
    pub(crate) fn new(cli: &Cli, cluster: &Cluster, own: Option<&str>) -> Result<Self, DnsError> {
        let mut names = Vec::new();
        if !cli.backend.iter().any(|backend| backend.followed().is_some()) {
            return Ok(Self { cluster: cluster.clone(), names });
        }
        // One for all names, which then share its connections.
        let resolver = Resolver::system()?;
        for backend in &cli.backend {
            let Some((name, port)) = backend.followed() else { continue };
            let backends = DnsBackends::a(name, port)
                .weight(backend.weight)
                .role(backend.role())
                .limits(backend.limits);
            let backends = match backend.server_name.as_deref().or(own) {
                Some(server_name) => backends.server_name(server_name),
                None => backends,
            };
            names.push(backends.discover(resolver.clone())?);
        }
        Ok(Self { cluster: cluster.clone(), names })
    }

    /// Follows them, in the runtime that is entered.
    pub(crate) fn start(self) -> Vec<FollowGuard> {
        self.names.into_iter().map(|name| self.cluster.follow(name)).collect()
    }
}
