//! Routes: what happens to connections for a name.

use bartizan::balance::{ClusterBuilder, ClusterError};
use bartizan::net::{Address, HostPattern};
use bartizan::prelude::*;

/// `HOST=ACTION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteArg {
    pub(crate) host: HostPattern,
    pub(crate) action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Terminate,
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
        "reencrypt" => return Err("reencrypt is not built yet in this version".to_owned()),
        _ => return Err("an action is pass:ADDR[,ADDR...], terminate or reject".to_owned()),
    };
    Ok(RouteArg { host, action })
}

fn addresses(list: &str) -> Result<Vec<Address>, String> {
    list.split(',').map(|address| address.parse().map_err(|error| format!("{error}"))).collect()
}

/// The backends of a route that passes connections on.
#[derive(Clone)]
pub(crate) struct Passing {
    pub(crate) host: HostPattern,
    pub(crate) cluster: Cluster,
}

impl Passing {
    /// Those of all routes.
    pub(crate) fn of(routes: &[RouteArg]) -> Result<Vec<Self>, ClusterError> {
        let passing = routes.iter().filter_map(|route| match &route.action {
            Action::Pass(backends) => Some((&route.host, backends)),
            _ => None,
        });
        passing
            .map(|(host, backends)| {
                let cluster = Cluster::builder(host.to_string());
                let add = |cluster: ClusterBuilder, backend: &Address| {
                    cluster.add(Backend::new(backend.to_string(), backend.clone()))
                };
                Ok(Self {
                    host: host.clone(),
                    cluster: backends.iter().fold(cluster, add).build()?,
                })
            })
            .collect()
    }
}
