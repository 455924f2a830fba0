//! Which routes browsers would mix up.
//!
//! A browser that has an HTTP/2 connection to one host uses it for another one as well, if the
//! certificate of the connection covers that host and its name resolves to the same address
//! (RFC 9113 §9.1.1). Hosts behind one listener have one address. Where TLS passes through closed,
//! the connection is at one backend already when the request for the other host comes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use bartizan_net::{BadHostPattern, HostPattern, wildcard_key};

/// A route, for [`lint_routes`]: hosts, where they go, and the certificate that was seen there.
#[derive(Clone, Debug)]
pub struct LintedRoute {
    host: HostPattern,
    destination: Arc<str>,
    names: Vec<HostPattern>,
    h2: bool,
}

impl LintedRoute {
    /// `host`, exact or `*.name`, goes to `destination`, a label such as the name of a cluster. No
    /// certificate was seen there yet, so nothing is found that begins at this route.
    ///
    /// # Errors
    ///
    /// [`BadHostPattern`]
    pub fn new(host: &str, destination: impl Into<Arc<str>>) -> Result<Self, BadHostPattern> {
        let host = HostPattern::parse(host)?;
        Ok(Self { host, destination: destination.into(), names: Vec::new(), h2: false })
    }

    /// The DNS names of the certificate that was seen at the destination, and whether HTTP/2 was
    /// agreed on there. Names that no client could ask for are left out.
    pub fn certificate<N: AsRef<str>>(self, names: impl IntoIterator<Item = N>, h2: bool) -> Self {
        let names = names.into_iter().filter_map(|name| HostPattern::parse(name.as_ref()).ok());
        Self { names: names.collect(), h2, ..self }
    }
}

/// Requests for one host may arrive at the destination of another. Displays as one line with advice.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Coalescing {
    /// The host, or `*.name`, that the browser has connected to.
    pub connection_host: String,
    /// Where that connection goes.
    pub connection_destination: Arc<str>,
    /// The host, or `*.name`, that the browser uses the same connection for.
    pub other_host: String,
    /// Where requests for it should have gone.
    pub other_destination: Arc<str>,
    /// The name in the certificate of the connection that covers the other host.
    pub covered_by: String,
    /// Whether HTTP/2 was agreed on there. If not, this will happen from the day that it is.
    pub h2: bool,
}

impl fmt::Display for Coalescing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection_host, connection_destination: here, other_host, .. } = self;
        let (there, name) = (&self.other_destination, &self.covered_by);
        if !self.h2 {
            write!(f, "as soon as {here} speaks HTTP/2, ")?;
        }
        write!(
            f,
            "browsers with an HTTP/2 connection to {connection_host} ({here}) may use it for \
             {other_host}, which goes to {there}: the certificate seen at {here} covers it as \
             {name}; give {here} a certificate without that name"
        )?;
        if self.h2 {
            f.write_str(", turn HTTP/2 off there")?;
        }
        f.write_str(", or let it answer such requests with 421")
    }
}

/// Finds the routes whose HTTP/2 connections browsers would use for a route to elsewhere; also where
/// HTTP/2 is not spoken yet.
///
/// Of routes for the same host the first counts; an exact one comes before a wildcard, which stands
/// for exactly one label. At most one finding per route and other host, ordered by these two, exact
/// before wildcard; the first 10,000 of them.
pub fn lint_routes(routes: &[LintedRoute]) -> Vec<Coalescing> {
    let index = Index::new(routes);
    let mut found = Vec::new();
    for route in index.by_host.values() {
        let Some(connection) = index.connection_host(route) else { continue };
        // By the other host, so that several names which cover it make one finding.
        let mut others = BTreeMap::new();
        for name in &route.names {
            for (host, other) in index.reached_by(name) {
                if other.destination != route.destination {
                    others.entry(order(&host)).or_insert((host, other, name));
                }
            }
        }
        for (host, other, name) in others.into_values().take(MOST - found.len()) {
            found.push(Coalescing {
                connection_host: connection.to_string(),
                connection_destination: Arc::clone(&route.destination),
                other_host: host.to_string(),
                other_destination: Arc::clone(&other.destination),
                covered_by: name.to_string(),
                h2: route.h2,
            });
        }
        if found.len() == MOST {
            break;
        }
    }
    found
}

/// Routes by what they are looked up by.
struct Index<'a> {
    by_host: BTreeMap<(bool, String), &'a LintedRoute>,
    by_key: HashMap<&'a str, &'a LintedRoute>,
    /// Exact routes, by the wildcard that stands for them.
    below: HashMap<&'a str, Vec<&'a LintedRoute>>,
}

impl<'a> Index<'a> {
    fn new(routes: &'a [LintedRoute]) -> Self {
        let (mut by_host, mut by_key) = (BTreeMap::new(), HashMap::new());
        let mut below: HashMap<_, Vec<_>> = HashMap::new();
        for route in routes {
            let key = route.host.key();
            if by_key.contains_key(key) {
                continue;
            }
            by_key.insert(key, route);
            by_host.insert(order(&route.host), route);
            if let Some(wildcard) = wildcard_key(key) {
                below.entry(wildcard).or_default().push(route);
            }
        }
        Self { by_host, by_key, below }
    }

    /// The hosts that `name` covers, and their routes.
    fn reached_by(&self, name: &HostPattern) -> Vec<(HostPattern, &'a LintedRoute)> {
        let key = name.key();
        let exact = self.by_key.get(key).copied();
        let same = exact.map(|route| (name.clone(), route));
        // Under a wildcard the exact routes, which are for parts of it.
        let below = self.below.get(key).into_iter().flatten();
        let mut reached: Vec<_> =
            same.into_iter().chain(below.map(|route| (route.host.clone(), *route))).collect();
        if exact.is_none() {
            let wildcard = wildcard_key(key).and_then(|wildcard| self.by_key.get(wildcard));
            reached.extend(wildcard.map(|route| (name.clone(), *route)));
        }
        reached
    }

    /// A host of `route` that its own certificate covers; else browsers do not connect at all.
    fn connection_host(&self, route: &LintedRoute) -> Option<HostPattern> {
        let own = |name: &HostPattern| {
            let reached = self.reached_by(name).into_iter();
            reached.filter(|(_, other)| other.host == route.host).map(|(host, _)| host).next()
        };
        route.names.iter().filter_map(own).max_by_key(order)
    }
}

/// Exact before wildcard, then by name.
fn order(host: &HostPattern) -> (bool, String) {
    (host.is_wildcard(), host.to_string())
}

/// More would not be read, and ten thousand hosts under one wildcard have a hundred million pairs.
const MOST: usize = 10_000;

#[cfg(test)]
mod tests;
