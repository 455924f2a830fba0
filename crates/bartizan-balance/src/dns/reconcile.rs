//! From answers to changes of backends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tower::discover::Change;

use super::memory::{Memory, News, Rules};
use super::{DnsBackends, Family, Found, ResolveError, SrvRecord, is_dialable};
use crate::backend::MAX_WEIGHT;
use crate::{Backend, Role};

/// All that was answered so far, and the backends made of it.
#[derive(Debug)]
pub(super) struct Follow {
    settings: DnsBackends,
    rules: Rules,
    services: Memory<SrvRecord>,
    hosts: HashMap<Arc<str>, Addresses>,
    held: BTreeMap<Arc<str>, Wanted>,
    // What the last event said was left out.
    surplus: usize,
}

/// Each family has a memory of its own: a failure for one is none for the other.
#[derive(Debug, Default)]
struct Addresses {
    v4: Memory<IpAddr>,
    v6: Memory<IpAddr>,
}

/// A backend as the answers want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: Arc<str>,
    pub(super) address: SocketAddr,
    pub(super) server_name: Arc<str>,
    pub(super) role: Role,
    pub(super) weight: u16,
}

impl Follow {
    pub(super) fn new(settings: DnsBackends) -> Self {
        let DnsBackends { shortest, longest, hold, .. } = settings;
        Self {
            rules: Rules { shortest, longest, hold },
            settings,
            services: Memory::default(),
            hosts: HashMap::new(),
            held: BTreeMap::new(),
            surplus: 0,
        }
    }

    /// When to ask again at the latest.
    pub(super) fn longest(&self) -> Duration {
        self.rules.longest
    }

    /// The service to ask for, if it is one.
    pub(super) fn service(&self) -> Option<Arc<str>> {
        self.settings.port.is_none().then(|| Arc::clone(&self.settings.name))
    }

    /// Takes in what was answered about the service. Returns when to ask again.
    pub(super) fn learn_services(
        &mut self,
        answer: Result<Found<SrvRecord>, ResolveError>,
        now: Instant,
    ) -> Duration {
        let answer = answer.map(|mut found| {
            // An empty target: "decidedly not available".
            found.records.retain(|record| !record.target.is_empty() && record.port != 0);
            found.records.sort_unstable();
            found.records.dedup();
            found
        });
        let (again, news) = self.services.learn(answer, &self.rules, now);
        tell(&self.settings.name, "SRV", news);
        again
    }

    /// The hosts whose addresses to ask for. All others are forgotten.
    pub(super) fn hosts(&mut self) -> Vec<Arc<str>> {
        let mut hosts = match self.settings.port {
            Some(_) => vec![Arc::clone(&self.settings.name)],
            None => self.targets(),
        };
        let surplus = hosts.len().saturating_sub(self.settings.max_backends);
        hosts.truncate(self.settings.max_backends);
        if surplus > 0 {
            tracing::debug!(name = %self.settings.name, surplus, "targets not asked for");
        }
        let stay: HashSet<_> = hosts.iter().collect();
        self.hosts.retain(|host, _| stay.contains(host));
        hosts
    }

    /// The targets of the service, each once, in the order of their priority.
    fn targets(&self) -> Vec<Arc<str>> {
        let mut seen = HashSet::new();
        let targets = self.services.records().iter().map(|record| &record.target);
        targets.filter(|target| seen.insert(Arc::clone(target))).cloned().collect()
    }

    /// Takes in what was answered about a host. Returns when to ask again.
    pub(super) fn learn_addresses(
        &mut self,
        host: &Arc<str>,
        family: Family,
        answer: Result<Found<IpAddr>, ResolveError>,
        now: Instant,
    ) -> Duration {
        let answer = answer.map(|mut found| {
            found.records.retain(is_dialable);
            found.records.sort_unstable();
            found.records.dedup();
            found
        });
        let addresses = self.hosts.entry(Arc::clone(host)).or_default();
        let (memory, record) = match family {
            Family::V4 => (&mut addresses.v4, "A"),
            Family::V6 => (&mut addresses.v6, "AAAA"),
        };
        let (again, news) = memory.learn(answer, &self.rules, now);
        tell(host, record, news);
        again
    }

    /// What has to change for the backends to be as the answers want them.
    pub(super) fn changes(&mut self) -> Vec<Change<Arc<str>, Arc<Backend>>> {
        let wanted = self.wanted();
        let surplus = wanted.len().saturating_sub(self.settings.max_backends);
        if surplus != self.surplus && surplus > 0 {
            let (name, max) = (&self.settings.name, self.settings.max_backends);
            tracing::warn!(%name, max, surplus, "more addresses than backends may be: left out");
        }
        self.surplus = surplus;
        let wanted = shorten(wanted, &self.held, self.settings.max_backends);
        let (removed, inserted) = reconcile(&mut self.held, wanted);
        let inserted = inserted.iter().map(|wanted| {
            let backend = Backend::new(Arc::clone(&wanted.name), wanted.address.into())
                .with_server_name(Arc::clone(&wanted.server_name))
                .with_role(wanted.role)
                .with_weight(wanted.weight)
                .with_limits(self.settings.limits);
            Change::Insert(Arc::clone(&wanted.name), Arc::new(backend))
        });
        removed.into_iter().map(Change::Remove).chain(inserted).collect()
    }

    /// Every address once, in the order of priority, then of hosts, then of addresses.
    fn wanted(&self) -> Vec<Wanted> {
        let mut names = HashSet::new();
        let mut wanted = match self.settings.port {
            Some(port) => {
                let plain = SrvRecord::new(0, 1, port, Arc::clone(&self.settings.name));
                self.wanted_of(&plain, Role::Active, 1)
            }
            None => self.wanted_of_services(),
        };
        wanted.retain(|wanted| names.insert(Arc::clone(&wanted.name)));
        wanted
    }

    fn wanted_of_services(&self) -> Vec<Wanted> {
        let records = self.services.records();
        let mut wanted = Vec::new();
        for (level, of_level) in records.chunk_by(|a, b| a.priority == b.priority).enumerate() {
            let role = if level == 0 { Role::Active } else { Role::Backup };
            let heaviest = of_level.iter().map(|record| record.weight).max().unwrap_or(0);
            for record in of_level {
                wanted.extend(self.wanted_of(record, role, scaled(record.weight, heaviest)));
            }
        }
        wanted
    }

    fn wanted_of(&self, record: &SrvRecord, role: Role, weight: u16) -> Vec<Wanted> {
        let Some(host) = self.hosts.get(&record.target) else { return Vec::new() };
        let server_name = self.settings.server_name.as_ref().unwrap_or(&record.target);
        let ips = host.v4.records().iter().chain(host.v6.records());
        ips.map(|ip| {
            let address = SocketAddr::new(*ip, record.port);
            Wanted {
                name: format!("{}/{address}", self.settings.name).into(),
                address,
                server_name: Arc::clone(server_name),
                role: self.settings.role.unwrap_or(role),
                weight: self.settings.weight.unwrap_or(weight).min(MAX_WEIGHT),
            }
        })
        .collect()
    }
}

/// Leaves out what is too much: first what is not held already.
fn shorten(wanted: Vec<Wanted>, held: &BTreeMap<Arc<str>, Wanted>, max: usize) -> Vec<Wanted> {
    if wanted.len() <= max {
        return wanted;
    }
    let (mut kept, new): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|wanted| held.contains_key(&wanted.name));
    kept.extend(new);
    kept.truncate(max);
    kept
}

/// Makes `held` what is wanted. Returns what is to be removed, and what is new or not as it was.
pub(super) fn reconcile(
    held: &mut BTreeMap<Arc<str>, Wanted>,
    wanted: Vec<Wanted>,
) -> (Vec<Arc<str>>, Vec<Wanted>) {
    let names: HashSet<_> = wanted.iter().map(|wanted| &wanted.name).collect();
    let removed: Vec<_> = held.keys().filter(|name| !names.contains(name)).cloned().collect();
    removed.iter().for_each(|name| drop(held.remove(name)));
    let mut inserted = wanted;
    inserted.retain(|wanted| held.get(&wanted.name) != Some(wanted));
    for wanted in &inserted {
        held.insert(Arc::clone(&wanted.name), wanted.clone());
    }
    (removed, inserted)
}

/// From RFC 2782's range to that of backends; as it is, if it fits.
fn scaled(weight: u16, heaviest: u16) -> u16 {
    let fits = match heaviest > MAX_WEIGHT {
        // At most 256, because no weight is above the heaviest.
        true => (u32::from(weight) * u32::from(MAX_WEIGHT) / u32::from(heaviest)) as u16,
        false => weight,
    };
    fits.max(1)
}

fn tell(name: &str, record: &str, news: Option<News>) {
    match news {
        Some(News::Failed(error)) => {
            tracing::warn!(name, record, %error, "name not resolved: its backends stay");
        }
        Some(News::Missing) => tracing::warn!(name, record, "name is gone: its backends are held"),
        Some(News::Gone) => tracing::warn!(name, record, "name stays gone: its backends go"),
        Some(News::Back) => tracing::info!(name, record, "name is resolved again"),
        None => {}
    }
}
