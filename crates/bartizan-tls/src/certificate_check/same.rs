//! Whether the backends that share a certificate present the same chain.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bartizan_net::Address;

use crate::{CertificateProblem, Fingerprint};

/// Compares the certificate chains of the backends of a cluster: servers that share a certificate
/// are to present identical chains. Clones compare with each other.
///
/// The chain that most backends presented within the window counts, at a tie the one whose leaf has
/// the latest not-before date. A backend with another is named in a tracing event (target
/// `bartizan_tls`, warn, when it changes and once a day), or fails its check if that is
/// [enforced](Self::enforce).
///
/// A backend whose check failed or was broken off is forgotten until its next one. At most 10,000
/// are remembered, of more the latest.
#[derive(Clone, Debug)]
pub struct SameCertificate {
    seen: Arc<Mutex<Sightings>>,
}

impl SameCertificate {
    /// Reports backends that differ.
    pub fn report() -> Self {
        Self::new(false)
    }

    /// Fails the check of backends that differ.
    ///
    /// Not all are taken out at once, even while one after another gets a new certificate: one fails
    /// only while another one with the chain that counts has passed three times in a row, which
    /// brings backends up with a `rise` of up to three.
    pub fn enforce() -> Self {
        Self::new(true)
    }

    /// How long a chain counts after it was presented. Default: 60 s. It should be five intervals
    /// of the checks; with less than two, backends are compared with nobody.
    pub fn window(self, window: Duration) -> Self {
        self.lock().window = window;
        self
    }

    fn new(enforce: bool) -> Self {
        Self { seen: Arc::new(Mutex::new(Sightings::new(enforce, WINDOW))) }
    }

    /// Takes in what `target` presented.
    pub(super) fn observe(&self, target: &Address, chain: Chain, now: Instant) -> Outcome {
        self.lock().observe(target, chain, now)
    }

    pub(super) fn forget(&self, target: &Address) {
        self.lock().by_target.remove(target);
    }

    fn lock(&self) -> MutexGuard<'_, Sightings> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A chain, and what decides a tie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) fingerprint: Fingerprint,
    pub(super) not_before: SystemTime,
}

/// What comes of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It presents what it should, or it was told already that it does not.
    Same,
    /// It differs, which is to be told.
    Tell(CertificateProblem),
    /// It differs, and fails for it.
    Fail(CertificateProblem),
}

/// The pure core: what each target presented last.
#[derive(Debug)]
struct Sightings {
    enforce: bool,
    window: Duration,
    by_target: HashMap<Address, Sighting>,
}

#[derive(Debug)]
struct Sighting {
    chain: Chain,
    at: Instant,
    // How many times in a row it has passed; it is never out with `STEADY` and more.
    passes: u32,
    // What it was compared with when that was told, and when.
    told: Option<(Fingerprint, Fingerprint, Instant)>,
}

impl Sightings {
    fn new(enforce: bool, window: Duration) -> Self {
        Self { enforce, window, by_target: HashMap::new() }
    }

    fn observe(&mut self, target: &Address, chain: Chain, now: Instant) -> Outcome {
        let window = self.window;
        let earlier = self.by_target.remove(target);
        self.by_target.retain(|_, seen| now.saturating_duration_since(seen.at) <= window);
        if self.by_target.len() >= MOST_TARGETS {
            let oldest = self.by_target.iter().min_by_key(|(_, seen)| seen.at);
            if let Some(oldest) = oldest.map(|(target, _)| target.clone()) {
                self.by_target.remove(&oldest);
            }
        }
        let majority = self.majority(chain);
        let same = majority == chain.fingerprint;
        let (passes, told) = earlier.map_or((0, None), |seen| (seen.passes, seen.told));
        let witness = if same { None } else { self.witness(majority) };
        let fails = self.enforce && witness.as_ref().is_some_and(|(_, steady)| *steady);
        let mut mine = Sighting { chain, at: now, passes: passes.saturating_add(1), told };
        if fails {
            mine.passes = 0;
        }
        let outcome = match witness {
            Some((other, _)) => {
                let problem = different(chain.fingerprint, majority, other);
                if fails { Outcome::Fail(problem) } else { mine.tell(problem, majority, now) }
            }
            None => {
                mine.told = None;
                Outcome::Same
            }
        };
        self.by_target.insert(target.clone(), mine);
        outcome
    }

    /// The chain that counts among those remembered and `own`.
    fn majority(&self, own: Chain) -> Fingerprint {
        let mut counts: HashMap<Fingerprint, (usize, SystemTime)> = HashMap::new();
        for chain in self.by_target.values().map(|seen| seen.chain).chain([own]) {
            let count = counts.entry(chain.fingerprint).or_insert((0, chain.not_before));
            count.0 += 1;
        }
        // By the fingerprint in the end, so that all checks come to the same.
        let most = counts.into_iter().max_by_key(|(fingerprint, count)| (*count, *fingerprint));
        most.map_or(own.fingerprint, |(fingerprint, _)| fingerprint)
    }

    /// The target with this chain that has passed most often, and whether that keeps it in.
    fn witness(&self, chain: Fingerprint) -> Option<(Address, bool)> {
        let with = self.by_target.iter().filter(|(_, seen)| seen.chain.fingerprint == chain);
        // The name decides among equals, so that what is told does not change with each check.
        let rank = |(target, seen): &(&Address, &Sighting)| {
            (seen.passes.min(STEADY), std::cmp::Reverse(target.to_string()))
        };
        with.max_by_key(rank).map(|(target, seen)| (target.clone(), seen.passes >= STEADY))
    }
}

impl Sighting {
    fn tell(
        &mut self,
        problem: CertificateProblem,
        majority: Fingerprint,
        now: Instant,
    ) -> Outcome {
        let pair = (self.chain.fingerprint, majority);
        let said = self.told.is_some_and(|(chain, against, at)| {
            (chain, against) == pair && now.saturating_duration_since(at) < DAY
        });
        if said {
            return Outcome::Same;
        }
        self.told = Some((pair.0, pair.1, now));
        Outcome::Tell(problem)
    }
}

fn different(chain: Fingerprint, majority: Fingerprint, other: Address) -> CertificateProblem {
    CertificateProblem::Different { chain, majority, other }
}

/// Several checks at usual intervals.
const WINDOW: Duration = Duration::from_secs(60);

const DAY: Duration = Duration::from_secs(86_400);

/// Passes after which a backend is taken for one that is up: no usual `rise` is more.
const STEADY: u32 = 3;

/// Some megabytes at most; the largest clusters have about as many backends.
const MOST_TARGETS: usize = 10_000;

#[cfg(test)]
mod tests;
