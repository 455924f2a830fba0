//! Which name has which route. Pure.

use std::sync::Arc;

use http::Request;
use http::header::HOST;
use http::uri::Authority;

use super::OTHERWISE;
use crate::{
    BadHostPattern, ClientHello, ConnInfo, HostMap, HostPattern, HostScope, Misdirected, fold_host,
};

/// Routes by name. Routes are numbered by the services that they lead to.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    names: HostMap<Vec<Rule>>,
    not_tls: usize,
}

#[derive(Clone, Debug)]
struct Rule {
    protocol: Option<Box<[u8]>>,
    route: usize,
}

impl Plan {
    pub(super) fn new() -> Self {
        Self { names: HostMap::with_capacity(0), not_tls: OTHERWISE }
    }

    pub(super) fn set_not_tls(&mut self, route: usize) {
        self.not_tls = route;
    }

    pub(super) fn add(
        &mut self,
        host: &str,
        protocol: Option<&[u8]>,
        route: usize,
    ) -> Result<(), RouteError> {
        let pattern = HostPattern::parse(host)?;
        let rule = Rule { protocol: protocol.map(Into::into), route };
        let Some(rules) = self.names.get_mut(&pattern) else {
            self.names.insert(&pattern, vec![rule]);
            return Ok(());
        };
        if rules.iter().any(|other| other.protocol == rule.protocol) {
            return Err(RouteError::Twice { host: pattern.to_string() });
        }
        rules.push(rule);
        Ok(())
    }

    /// The route of a host alone.
    pub(super) fn of_host(&self, host: Option<&str>) -> usize {
        self.of(host, None)
    }

    pub(super) fn of_connection(&self, info: &ConnInfo) -> usize {
        let hello = info.client_hello().map(|hello| &**hello);
        match (hello, info.tls()) {
            (None, None) => self.not_tls,
            (None, Some(tls)) => self.of(tls.sni.as_deref(), None),
            (Some(hello), _) => self.of(hello.server_name(), Some(hello)),
        }
    }

    fn of(&self, host: Option<&str>, hello: Option<&ClientHello>) -> usize {
        let Some(host) = host else { return OTHERWISE };
        let host = fold_host(host);
        let rules = [self.names.exact(&host), self.names.wildcard(&host)];
        let route = rules.into_iter().flatten().find_map(|rules| route(rules, hello));
        route.unwrap_or(OTHERWISE)
    }
}

/// The client's first choice among the protocols that have routes, else the one for all.
fn route(rules: &[Rule], hello: Option<&ClientHello>) -> Option<usize> {
    let for_protocol = |wanted: Option<&[u8]>| {
        rules.iter().find(|rule| rule.protocol.as_deref() == wanted).map(|rule| rule.route)
    };
    // Most names have one rule for all, and need no look at what is offered.
    let only_for_all = rules.iter().all(|rule| rule.protocol.is_none());
    let offered = hello.filter(|_| !only_for_all);
    offered
        .and_then(|hello| hello.alpn().find_map(|protocol| for_protocol(Some(protocol))))
        .or_else(|| for_protocol(None))
}

/// Permits the hosts that have the connection's own route.
#[derive(Debug)]
pub(super) struct RouteScope {
    plan: Arc<Plan>,
    hello: Option<Arc<ClientHello>>,
    route: usize,
}

impl RouteScope {
    pub(super) fn new(plan: Arc<Plan>, info: &ConnInfo, route: usize) -> Self {
        Self { plan, hello: info.client_hello().cloned(), route }
    }
}

impl HostScope for RouteScope {
    fn permits(&self, host: &str) -> Result<(), Misdirected> {
        let host = (!host.is_empty()).then_some(host);
        let same = self.plan.of(host, self.hello.as_deref()) == self.route;
        if same { Ok(()) } else { Err(Misdirected::Route) }
    }
}

/// The host that a request is for, without its port.
pub(super) fn host_of<B>(request: &Request<B>) -> Option<&str> {
    if let Some(host) = request.uri().host() {
        return Some(host);
    }
    let mut fields = request.headers().get_all(HOST).iter();
    let only = fields.next().filter(|_| fields.next().is_none())?.to_str().ok()?;
    host_in(only)
}

/// The host of `host [":" port]`.
fn host_in(text: &str) -> Option<&str> {
    // What the `http` crate takes for an authority is judged by it; where it ends, by the text.
    text.parse::<Authority>().ok().filter(|authority| !authority.as_str().contains('@'))?;
    let port = text.rfind(':').filter(|colon| !text[*colon..].contains(']'));
    Some(&text[..port.unwrap_or(text.len())])
}

/// A route that cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The host is no name and no wildcard.
    #[error(transparent)]
    Host(#[from] BadHostPattern),
    /// The host has a route already.
    #[error("`{host}` has two routes: one of them must go")]
    Twice {
        /// The name or wildcard.
        host: String,
    },
}
