//! What a trust in servers is made of, and made into.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};
use bartizan_net::clock::SystemClock;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;

use super::Pin;
use super::dangerous::DangerousNoVerify;
use super::names::{NameRules, Names};
use super::verifier::{Judge, Verifier};
use crate::Clock;
use crate::generations::{Source, SourceError};
use crate::pem_source::PemSource;
use crate::server_roots::ServerRoots;
use crate::trust::{
    Chain, CrlRules, Peer, Root, TrustNotice, crl, digest, roots, tell_without_crl,
};

/// One generation of a trust in servers.
pub(crate) struct TrustValue {
    /// For `ClientConfig`s. The same for a whole generation: when a session is resumed, rustls
    /// compares the pointers.
    pub(crate) verifier: Arc<dyn ServerCertVerifier>,
    /// SHA-256 of everything that decides: authorities, lists, rules, pins and names, in whatever
    /// order they were given.
    pub(crate) fingerprint: [u8; 32],
    pub(super) notices: Vec<TrustNotice>,
}

impl fmt::Debug for TrustValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustValue").field("verifier", &self.verifier).finish_non_exhaustive()
    }
}

/// Where the roots come from.
#[derive(Clone, Debug)]
pub(super) enum RootSource {
    Pem(PemSource),
    System,
    Ready(ServerRoots),
}

/// A chain that is to be verified, as configured.
#[derive(Clone, Debug, Default)]
pub(super) struct ChainConfig {
    pub(super) roots: Vec<RootSource>,
    pub(super) crls: Vec<PemSource>,
    pub(super) rules: CrlRules,
    pub(super) pins: Vec<Pin>,
    pub(super) names: NameRules,
}

/// What is configured.
#[derive(Clone, Debug)]
pub(super) enum Config {
    Chain(ChainConfig),
    PinnedOnly(Vec<Pin>),
    Dangerous(DangerousNoVerify),
}

/// Where trust in servers comes from.
pub(super) struct TrustSource {
    config: Config,
    clock: Arc<dyn Clock>,
    // What was told of last, so that a reload of the same files is silent.
    told: Mutex<Vec<TrustNotice>>,
}

impl TrustSource {
    pub(super) fn new(config: Config, clock: Arc<dyn Clock>) -> Self {
        Self { config, clock, told: Mutex::default() }
    }

    /// For what needs no clock, because no file is read.
    pub(super) fn fixed(config: Config) -> Self {
        Self::new(config, Arc::new(SystemClock))
    }

    fn tell(&self, notices: &[TrustNotice]) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for notice in notices.iter().filter(|notice| !told.contains(notice)) {
            tracing::warn!(%notice, "a file with trust in backends is perhaps not as it was meant");
        }
        *told = notices.to_vec();
    }
}

impl Source for TrustSource {
    type Value = TrustValue;

    const WHAT: &'static str = "trust in backends";

    fn paths(&self) -> Vec<PathBuf> {
        let Config::Chain(config) = &self.config else { return Vec::new() };
        let roots = config.roots.iter().filter_map(|source| match source {
            RootSource::Pem(pem) => pem.path(),
            RootSource::System | RootSource::Ready(_) => None,
        });
        roots.chain(config.crls.iter().filter_map(PemSource::path)).map(Path::to_owned).collect()
    }

    fn load(&self) -> Result<TrustValue, SourceError> {
        let value = match &self.config {
            Config::Chain(config) => config.load(&*self.clock)?,
            Config::PinnedOnly(pins) if pins.is_empty() => return Err(SourceError::NoPins),
            Config::PinnedOnly(pins) => TrustValue::of_pins(Judge::Dates, pins),
            Config::Dangerous(decision) => TrustValue::of_pins(Judge::Nobody, &decision.pins),
        };
        self.tell(&value.notices);
        Ok(value)
    }

    fn is_same(a: &TrustValue, b: &TrustValue) -> bool {
        a.fingerprint == b.fingerprint
    }
}

impl TrustValue {
    /// No chain is verified.
    pub(super) fn of_pins(judge: Judge, pins: &[Pin]) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(match judge {
            Judge::Dates => b"bartizan server trust 1 pins\0",
            _ => b"bartizan server trust 1 none\0",
        });
        add_pins(&mut hash, pins);
        let verifier = Arc::new(Verifier::new(judge, pins.to_vec()));
        Self { verifier, fingerprint: finish(hash), notices: Vec::new() }
    }

    /// Of roots that were read already; those that cannot be used are passed over.
    pub(super) fn of_roots(roots: &ServerRoots) -> Self {
        let roots = usable(roots.certs());
        let config = ChainConfig::default();
        config.put_together(roots, Vec::new(), Names::Asked, Vec::new())
    }
}

impl ChainConfig {
    fn load(&self, clock: &dyn Clock) -> Result<TrustValue, SourceError> {
        if self.roots.is_empty() {
            return Err(SourceError::NoRoots);
        }
        let names = self.names.read()?;
        let now = clock.now();
        let mut notices = Vec::new();
        let mut all: Vec<Root> = Vec::new();
        let mut files = Vec::new();
        for source in &self.roots {
            let first = all.len();
            match source {
                RootSource::Pem(pem) => {
                    all.extend(roots::load(Peer::Server, pem, now, &mut notices)?);
                    files.push((pem.name(), first..all.len()));
                }
                RootSource::System => all.extend(usable(ServerRoots::system()?.certs())),
                RootSource::Ready(roots) => all.extend(usable(roots.certs())),
            }
        }
        let crls = crl::load(&self.crls, &all, now, &mut notices)?;
        for (path, range) in files {
            tell_without_crl(path, &all[range], &crls, &mut notices);
        }
        Ok(self.put_together(all, crls, names, notices))
    }

    fn put_together(
        &self,
        mut roots: Vec<Root>,
        crls: Vec<crl::Crl>,
        names: Names,
        notices: Vec<TrustNotice>,
    ) -> TrustValue {
        // One that comes from two sources counts once.
        roots.sort_by_key(|root| root.sha256);
        roots.dedup_by_key(|root| root.sha256);
        let mut hash = Context::new(&SHA256);
        hash.update(b"bartizan server trust 1 chain\0");
        hash.update(&self.rules.bytes());
        digest(&mut hash, &roots, &crls);
        add_pins(&mut hash, &self.pins);
        let mut texts = names.texts();
        texts.sort_unstable();
        texts.dedup();
        for text in texts {
            hash.update(&(text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        }
        let chain = Chain::new(Peer::Server, roots, crls, self.rules);
        let verifier = Verifier::new(Judge::Chain(chain, names), self.pins.clone());
        TrustValue { verifier: Arc::new(verifier), fingerprint: finish(hash), notices }
    }
}

/// Those that count and can be read. A system's store is not the operator's to repair.
fn usable(certs: &[CertificateDer<'static>]) -> Vec<Root> {
    let roots: Vec<_> = certs.iter().filter_map(|der| roots::from_der(Peer::Server, der)).collect();
    let ignored = certs.len() - roots.len();
    if ignored > 0 {
        tracing::debug!(ignored, "passed over roots that vouch for nobody");
    }
    roots
}

fn add_pins(hash: &mut Context, pins: &[Pin]) {
    let mut pins: Vec<_> = pins.iter().map(Pin::bytes).collect();
    pins.sort_unstable();
    pins.dedup();
    hash.update(&(pins.len() as u64).to_be_bytes());
    for pin in pins {
        hash.update(&pin);
    }
}

fn finish(hash: Context) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(hash.finish().as_ref());
    fingerprint
}
