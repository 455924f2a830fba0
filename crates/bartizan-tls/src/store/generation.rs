//! One generation: all that handshakes are governed by, loaded together and never changed.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bartizan_net::clock::{Clock, SystemClock};
use bartizan_net::{ClientAuthMode, HostMap, ServedCertificate};
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::{CipherSuite, ServerConfig, SignatureScheme};

use super::config::Config;
use super::entry::Entry;
use super::error::StoreError;
use super::files::{self, Loading};
use super::index::{CertIndex, NoCertificate, Offer};
use super::notice::Notice;
use super::settings::is_chacha;
use crate::client_auth::{ClientAuth, ClientPolicy};
use crate::tickets::{TicketKeys, TrustedSessions};

/// Certificates, trust in clients and ticket keys, as they were at one time.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) number: u64,
    pub(crate) loaded_at: SystemTime,
    pub(crate) entries: Box<[Arc<Entry>]>,
    pub(crate) notices: Vec<Notice>,
    index: CertIndex,
    policies: Box<[Policy]>,
    policy_by_name: HostMap<u32>,
    policies_differ: bool,
    /// The cipher suites that are spoken, in the versions that are.
    suites: Vec<CipherSuite>,
    client_order: bool,
    /// For each entry, what is made of it when it is first served.
    served: Box<[OnceLock<Box<Made>>]>,
}

/// The rules for some names.
#[derive(Debug)]
struct Policy {
    client: Arc<ClientPolicy>,
    /// Of policies with the same number, clients have to show the same.
    class: u32,
    template: ServerConfig,
}

/// An entry under a policy, ready for handshakes. A list, because most entries have one.
#[derive(Debug)]
struct Made {
    policy: u32,
    how: How,
    config: Arc<ServerConfig>,
    served: Arc<ServedCertificate>,
    next: OnceLock<Box<Self>>,
}

/// In what an entry under one policy is served differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct How {
    stapled: bool,
    client_order: bool,
}

/// What one handshake goes on with.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) served: Arc<ServedCertificate>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) policy: u32,
    pub(crate) is_default: bool,
}

/// Why a handshake does not go on.
#[derive(Debug)]
pub(crate) enum Refusal {
    Name(NoCertificate),
    Key { source: Arc<str>, error: Arc<rustls::Error> },
}

impl Generation {
    /// Loads everything that `config` names, after `previous`.
    pub(crate) fn load(config: &Config, previous: Option<&Self>) -> Result<Self, StoreError> {
        let now = config.clock.now();
        let known = previous.iter().flat_map(|p| p.entries.iter()).map(|e| (&*e.source, e));
        let settled = SystemClock.now();
        let loading = Loading { staple: config.staple, now, settled, known: known.collect() };
        let entries = files::load(&config.sources, &loading)
            .map_err(|(first, further)| StoreError::Load { first, further })?;
        // Even under strict SNI, what was served does not vanish because a directory was emptied.
        let served_some = previous.is_some_and(|p| !p.entries.is_empty());
        if entries.is_empty() && (!config.strict_sni || served_some) {
            return Err(StoreError::NoCertificate { places: config.places() });
        }
        let named = entries.iter().map(|e| (e.kind, &*e.patterns));
        let (index, shadowed) = CertIndex::build(named, config.strict_sni);
        let mut notices: Vec<Notice> = entries
            .iter()
            .flat_map(|e| e.notices.iter().cloned().chain(e.date_notice(now)))
            .collect();
        notices.extend(shadowed.iter().map(|s| {
            let source = |entry: u32| &entries[entry as usize].source;
            Notice::shadowed(&s.name, source(s.first), source(s.later))
        }));
        let tickets = config.tickets.load()?;
        let (policies, policy_by_name) = load_policies(config, &tickets, now, &mut notices)?;
        let served = entries.iter().map(|_| OnceLock::new()).collect();
        Ok(Self {
            number: previous.map_or(1, |p| p.number + 1),
            loaded_at: now,
            notices,
            index,
            policies_differ: policies.iter().any(|p| p.class != policies[0].class),
            policies,
            policy_by_name,
            suites: config.settings.suites(),
            client_order: config.settings.is_client_order(),
            served,
            entries: entries.into_boxed_slice(),
        })
    }

    /// Chooses certificate and policy for a client.
    pub(crate) fn choose(
        &self,
        hello: &ClientHello<'_>,
        now: SystemTime,
    ) -> Result<Chosen, Refusal> {
        let schemes = hello.signature_schemes().iter().map(|s: &SignatureScheme| u16::from(*s));
        let spoken = |suite: &&CipherSuite| self.suites.contains(suite);
        let suites = hello.cipher_suites().iter().filter(spoken).map(|s| u16::from(*s));
        let offer = Offer::new(hello.server_name(), schemes, suites);
        let choice = self.index.choose(&offer).map_err(Refusal::Name)?;
        let policy = self.policy_of(hello.server_name());
        let entry = &self.entries[choice.entry as usize];
        // Without hardware for AES, ChaCha20 is three times faster, and who has none puts it first.
        let first = hello.cipher_suites().iter().find(|suite| self.suites.contains(suite));
        let client_order = self.client_order || first.is_some_and(|suite| is_chacha(*suite));
        let how = How { stapled: entry.has_staple(now), client_order };
        let made = self.made(choice.entry, policy, how, entry).map_err(|error| Refusal::Key {
            source: Arc::clone(&entry.source),
            error: Arc::clone(error),
        })?;
        Ok(Chosen {
            config: Arc::clone(&made.config),
            served: Arc::clone(&made.served),
            entry: Arc::clone(entry),
            policy,
            is_default: choice.is_default,
        })
    }

    /// The certificate that a client gets for a name, or for none, if it can check any key.
    pub(crate) fn find(&self, name: Option<&str>) -> Option<&Arc<Entry>> {
        let choice = self.index.choose(&Offer::of_all_kinds(name)).ok()?;
        self.entries.get(choice.entry as usize)
    }

    /// The policy for a name, or for none.
    pub(crate) fn policy_of(&self, name: Option<&str>) -> u32 {
        name.and_then(|name| self.policy_by_name.get(name)).copied().unwrap_or(0)
    }

    /// Tells apart policies under which clients have to show different things.
    pub(crate) fn class_of(&self, policy: u32) -> u32 {
        self.policies[policy as usize].class
    }

    /// Whether what clients have to show depends on the name.
    pub(crate) fn policies_differ(&self) -> bool {
        self.policies_differ
    }

    pub(crate) fn client_policy(&self, policy: u32) -> &Arc<ClientPolicy> {
        &self.policies[policy as usize].client
    }

    /// Whether a certificate is for `name` itself, not as the default.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.index.knows(name)
    }

    /// How many names there are certificates for.
    pub(crate) fn names(&self) -> usize {
        self.index.len()
    }

    fn made<'a>(
        &'a self,
        index: u32,
        policy: u32,
        how: How,
        entry: &'a Entry,
    ) -> Result<&'a Made, &'a Arc<rustls::Error>> {
        let mut slot = &self.served[index as usize];
        loop {
            let made = match slot.get() {
                Some(made) => made,
                None => {
                    let certified = if how.stapled { entry.stapled() } else { entry.certified() };
                    let made = self.make(policy, how, entry, Arc::clone(certified?));
                    slot.get_or_init(|| Box::new(made))
                }
            };
            // Another thread may have put what it needed here.
            if made.policy == policy && made.how == how {
                return Ok(made);
            }
            slot = &made.next;
        }
    }

    fn make(&self, policy: u32, how: How, entry: &Entry, key: Arc<CertifiedKey>) -> Made {
        let rules = &self.policies[policy as usize];
        let mut config = rules.template.clone();
        config.ignore_client_order = !how.client_order;
        config.cert_resolver = Arc::new(SingleCertAndKey::from(key));
        let source = Arc::clone(&entry.source);
        let served = ServedCertificate::new(source, entry.not_after, self.number, self.loaded_at)
            .with_client_auth(rules.client.mode);
        Made {
            policy,
            how,
            config: Arc::new(config),
            served: Arc::new(served),
            next: OnceLock::new(),
        }
    }
}

fn load_policies(
    config: &Config,
    tickets: &TicketKeys,
    now: SystemTime,
    notices: &mut Vec<Notice>,
) -> Result<(Box<[Policy]>, HostMap<u32>), StoreError> {
    let mut loaded: Vec<(&ClientAuth, Arc<ClientPolicy>)> = Vec::new();
    let mut policies = Vec::new();
    let mut by_name = HostMap::with_capacity(config.hosts.len());
    // A thousand hosts with the same rules have one policy.
    let mut known: HashMap<(usize, &[Vec<u8>]), u32> = HashMap::new();
    let default = (None, &config.client_auth, config.settings.protocols());
    let hosts = config.hosts.iter().map(|host| {
        let auth = host.rules.client_auth.as_ref().unwrap_or(&config.client_auth);
        (Some(&host.name), auth, host.rules.alpn.as_deref().unwrap_or(default.2))
    });
    for (name, auth, alpn) in std::iter::once(default).chain(hosts) {
        let class = match loaded.iter().position(|(known, _)| *known == auth) {
            Some(class) => class,
            None => {
                let (policy, found) = auth.load(now)?;
                notices.extend(found.into_iter().map(Notice::Trust));
                loaded.push((auth, Arc::new(policy)));
                loaded.len() - 1
            }
        };
        let policy = match known.get(&(class, alpn)) {
            Some(policy) => *policy,
            None => {
                let client = Arc::clone(&loaded[class].1);
                let template = template(config, &client, tickets, alpn)?;
                policies.push(Policy { client, class: class as u32, template });
                let policy = policies.len() as u32 - 1;
                known.insert((class, alpn), policy);
                policy
            }
        };
        if let Some(name) = name {
            by_name.insert(name, policy);
        }
    }
    Ok((policies.into_boxed_slice(), by_name))
}

/// What all handshakes under a policy have in common.
fn template(
    config: &Config,
    client: &Arc<ClientPolicy>,
    tickets: &TicketKeys,
    alpn: &[Vec<u8>],
) -> Result<ServerConfig, StoreError> {
    let settings = &config.settings;
    let time = Arc::new(WallTime(Arc::clone(&config.clock)));
    let builder = ServerConfig::builder_with_details(Arc::clone(settings.provider()), time)
        .with_protocol_versions(settings.versions())
        .map_err(|error| crate::SettingsError::Unfit(error.to_string()))?;
    let mut template = builder
        .with_client_cert_verifier(Arc::clone(&client.verifier))
        .with_cert_resolver(Arc::new(NotChosen));
    // Tickets do all that a cache of sessions does, and any instance can open them.
    template.session_storage = Arc::new(NoServerSessionStorage {});
    let ticketer = tickets.ticketer(client.trust, Arc::clone(&config.clock));
    template.ticketer = match client.mode {
        ClientAuthMode::Off => ticketer,
        _ => {
            let (client, clock) = (Arc::clone(client), Arc::clone(&config.clock));
            Arc::new(TrustedSessions::new(ticketer, client, clock))
        }
    };
    template.alpn_protocols = alpn.to_vec();
    if let Some(log) = settings.key_log() {
        template.key_log = Arc::clone(log);
    }
    Ok(template)
}

/// Stands in a template for the certificate that is chosen later.
#[derive(Debug)]
struct NotChosen;

impl ResolvesServerCert for NotChosen {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// The clock, as rustls asks for the time.
#[derive(Debug)]
pub(crate) struct WallTime(pub(crate) Arc<dyn Clock>);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.now().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}
