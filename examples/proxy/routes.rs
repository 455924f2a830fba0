//! Routes: what happens to connections for a name.

use bartizan::balance::{ClusterBuilder, ClusterError};
use bartizan::net::{Address, HostPattern};
use bartizan::prelude::*;

use crate::cli::Cli;
use crate::health;

/// `HOST=ACTION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteArg {
    pub(crate) host: HostPattern,
    pub(crate) action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Terminate,
    Reencrypt(Vec<Address>),
    Pass(Vec<Address>),
    Reject,
}

pub(crate) fn parse(text: &str) -> Result<RouteArg, String> {
    let (host, action) = text.split_once('=').ok_or("a route is HOST=ACTION")?;
    let host = host.parse().map_err(|error| format!("{error}"))?;
    let (action, rest) = action.split_once(':').unwrap_or((action, ""));
    let action = match action {
        "terminate" if rest.is_empty() => Action::Terminate,
        "reject" if rest.is_empty() => Action::Reject,
        "pass" => Action::Pass(addresses(rest)?),
        "reencrypt" => Action::Reencrypt(addresses(rest)?),
        _ => {
            return Err(
                "an action is pass:ADDR[,ADDR...], reencrypt:ADDR[,ADDR...], terminate or \
                        reject"
                    .to_owned(),
            );
        }
    };
    Ok(RouteArg { host, action })
}

fn addresses(list: &str) -> Result<Vec<Address>, String> {
    list.split(',').map(|address| address.parse().map_err(|error| format!("{error}"))).collect()
}

/// The backends of a route that has its own.
#[derive(Clone)]
pub(crate) struct Routed {
    pub(crate) host: HostPattern,
    pub(crate) cluster: Cluster,
    /// Whether TLS ends here and starts again, or passes.
    pub(crate) reencrypts: bool,
}

impl Routed {
    /// Those of all routes.
    pub(crate) fn of(cli: &Cli) -> Result<Vec<Self>, ClusterError> {
        let name = cli.upstream.name.as_deref();
        let own = cli.passthrough.routes.iter().filter_map(|route| match &route.action {
            Action::Pass(backends) => Some((&route.host, backends, false)),
            Action::Reencrypt(backends) => Some((&route.host, backends, true)),
            Action::Terminate | Action::Reject => None,
        });
        own.map(|(host, backends, reencrypts)| {
            let cluster = health::cluster(cli, &host.to_string());
            let add = |cluster: ClusterBuilder, address: &Address| {
                let backend = Backend::new(address.to_string(), address.clone());
                cluster.add(match name.filter(|_| reencrypts) {
                    Some(name) => backend.with_server_name(name),
                    None => backend,
                })
            };
            let cluster = backends.iter().fold(cluster, add).build()?;
            Ok(Self { host: host.clone(), cluster, reencrypts })
        })
        .collect()
    }
}
