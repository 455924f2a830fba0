//! Who ejects: what is counted, when that is enough, and what comes of a trial.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::growth::ejection_time;
use super::mark::Mark;
use super::rates::{Rule, Suspect, suspects};
use super::tally::Window;
use super::{Growth, Outlier, Tally};
use crate::cluster::affect;
use crate::health::Ejection;
use crate::splitmix::{GAMMA, mix};
use crate::{Backend, Cluster, MinHealthy, Outcome};

/// Ejects backends of one cluster.
#[derive(Debug)]
pub(crate) struct Judge {
    rules: Outlier,
    chance: AtomicU64,
    // Whether there is a next sweep, to be read with every request.
    sweeps: AtomicBool,
    next_sweep: Mutex<Option<Instant>>,
    ejected: AtomicU64,
    refused: AtomicU64,
    rested: AtomicU64,
}

/// How often a cluster has taken backends out because of what requests had shown, since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutlierCounts {
    /// Ejections, those of failed trials included.
    pub ejected: u64,
    /// Ejections that did not happen, as too few backends would have been left.
    pub refused: u64,
    /// How often a backend was left alone because it wanted to be (`Retry-After`).
    pub rested: u64,
}

/// For how long a backend is to be out.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sentence {
    /// As long as its ejections of late make it.
    Grows,
    /// As long as it wants, which later ejections do not depend on.
    Rest(Duration),
}

impl Judge {
    pub(super) fn new(rules: Outlier) -> Self {
        Self {
            rules,
            chance: AtomicU64::new(RandomState::new().hash_one(0_u8)),
            sweeps: AtomicBool::new(false),
            next_sweep: Mutex::new(None),
            ejected: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            rested: AtomicU64::new(0),
        }
    }

    pub(crate) fn keep(&self) -> MinHealthy {
        self.rules.keep
    }

    /// Whether a check that passes ends an ejection.
    pub(crate) fn unejects(&self) -> bool {
        self.rules.unejects
    }

    /// How long only requests that can be sent again take part in a trial.
    pub(crate) fn patience(&self) -> Duration {
        self.rules.interval
    }

    pub(crate) fn counts(&self) -> OutlierCounts {
        OutlierCounts {
            ejected: self.ejected.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            rested: self.rested.load(Ordering::Relaxed),
        }
    }

    /// Takes in what became of a request at a backend that is in.
    pub(super) fn note(
        &self,
        cluster: &Cluster,
        backend: &Arc<Backend>,
        outcome: Outcome,
        now: Instant,
    ) {
        if let Some(rest) = self.rest(outcome) {
            let sentence = Sentence::Rest(rest);
            if cluster.eject(self, backend, sentence, "it asked for it (Retry-After)", now) {
                return;
            }
        }
        if self.compares() && !self.sweeps.load(Ordering::Relaxed) {
            self.begin(cluster, now);
        }
        if let Some((limit, of_what)) = self.count(&backend.tally, outcome) {
            let reason = format!("{limit} {of_what} in a row");
            cluster.eject(self, backend, Sentence::Grows, &reason, now);
        }
    }

    /// Takes in what became of a request that tried whether a backend works again.
    pub(super) fn tried(&self, backend: &Arc<Backend>, outcome: Outcome, now: Instant) {
        if let Some(rest) = self.rest(outcome) {
            self.end_trial(backend, Sentence::Rest(rest), "it asked for it (Retry-After)", now);
        } else if Mark::of(outcome) != Mark::Good {
            self.end_trial(backend, Sentence::Grows, "a request on trial failed", now);
        } else if backend.tally.trial.passed() >= self.rules.trial_successes {
            let reason = "requests on trial went well";
            affect(backend, |health| {
                if health.ejection() == Ejection::Trial {
                    health.eject(Ejection::In, reason, now);
                }
            });
            backend.tally.forget();
        }
    }

    /// Takes in what became of a request at a backend that wants to be left alone: perhaps for longer.
    pub(super) fn note_rest(&self, backend: &Backend, outcome: Outcome, now: Instant) {
        let Some(rest) = self.rest(outcome) else { return };
        let later = now + rest;
        // Nothing is to be published: at the time before, it will be seen that it is not over.
        backend.live.change(|health| match health.ejection() {
            Ejection::Rest { until } if until < later => {
                health.eject(Ejection::Rest { until: later }, "", now);
            }
            _ => {}
        });
    }

    /// Until when, by this sentence.
    pub(crate) fn sentence(
        &self,
        sentence: Sentence,
        growth: &mut Growth,
        now: Instant,
    ) -> Ejection {
        let rules = &self.rules;
        match sentence {
            Sentence::Rest(span) => {
                self.rested.fetch_add(1, Ordering::Relaxed);
                growth.goes_out(rules.interval, now);
                Ejection::Rest { until: now + span }
            }
            Sentence::Grows => {
                self.ejected.fetch_add(1, Ordering::Relaxed);
                let times = growth.ejected(rules.interval, now);
                let jitter = jitter(rules.max_ejection_time_jitter, self.random());
                let (base, longest) = (rules.base_ejection_time, rules.max_ejection_time);
                Ejection::Out { until: now + ejection_time(times, base, longest, jitter) }
            }
        }
    }

    /// Records that too few would be left.
    pub(crate) fn refuse(&self, cluster: &Cluster, backend: &Backend, reason: &str) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        let (cluster, backend) = (cluster.name(), backend.name());
        tracing::debug!(%cluster, %backend, reason, "not ejected: too few would be left");
    }

    /// When rates are compared next.
    pub(crate) fn next_sweep(&self) -> Option<Instant> {
        *self.planned()
    }

    /// Plans the next sweep, or none. The cluster's lock has to be held.
    pub(crate) fn plan(&self, at: Option<Instant>) {
        *self.planned() = at;
        self.sweeps.store(at.is_some(), Ordering::Relaxed);
    }

    /// Ends the interval: whom it speaks against and why, the worst first. Plans the next one if
    /// anybody was asked anything.
    pub(crate) fn sweep(
        &self,
        members: &[Arc<Backend>],
        now: Instant,
    ) -> Vec<(Arc<Backend>, String)> {
        let rules = &self.rules;
        let mut used = false;
        let mut ended = |window: fn(&Tally) -> &Window| {
            let volume = |member: &Arc<Backend>| {
                let volume = window(&member.tally).take();
                used |= volume.total > 0;
                let is_in = member.live.ejection() == Ejection::In;
                if is_in { volume } else { Default::default() }
            };
            let volumes: Vec<_> = members.iter().map(volume).collect();
            suspects(&volumes, rules.success_rate, rules.failure_percentage)
        };
        let mut found = ended(|tally| &tally.answers);
        if rules.split {
            found.extend(ended(|tally| &tally.links));
        }
        self.plan(used.then(|| now + rules.interval));
        let named = |suspect: Suspect| (Arc::clone(&members[suspect.place]), accusation(&suspect));
        found.into_iter().map(named).collect()
    }

    fn end_trial(&self, backend: &Arc<Backend>, sentence: Sentence, reason: &str, now: Instant) {
        affect(backend, |health| {
            if health.ejection() == Ejection::Trial {
                let mut growth = health.growth();
                let ejection = self.sentence(sentence, &mut growth, now);
                health.grow(growth);
                health.eject(ejection, reason, now);
            }
        });
        backend.tally.forget();
    }

    /// For how long the backend wants to be left alone, if that is heard.
    fn rest(&self, outcome: Outcome) -> Option<Duration> {
        let Outcome::Answered { retry_after: Some(after), .. } = outcome else { return None };
        if self.rules.retry_after.is_zero() {
            return None;
        }
        let rest = after.from(self.rules.clock.now()).min(self.rules.retry_after);
        (!rest.is_zero()).then_some(rest)
    }

    fn compares(&self) -> bool {
        self.rules.success_rate.is_some() || self.rules.failure_percentage.is_some()
    }

    #[cold]
    fn begin(&self, cluster: &Cluster, now: Instant) {
        if !self.sweeps.swap(true, Ordering::Relaxed) {
            cluster.plan_sweep(self, now + self.rules.interval, now);
        }
    }

    /// Counts an outcome. Returns which limit it has reached, if any, and of what.
    fn count(&self, tally: &Tally, outcome: Outcome) -> Option<(u32, &'static str)> {
        let (rules, mark) = (&self.rules, Mark::of(outcome));
        if self.compares() {
            self.weigh(tally, outcome, mark);
        }
        let local = rules.split && mark == Mark::Local;
        if rules.split && !local {
            tally.local.end();
        }
        match mark {
            Mark::Good => {
                tally.errors.end();
                tally.gateway.end();
                None
            }
            Mark::Local if local => {
                let limit = rules.consecutive_local_origin_failure;
                tally.local.reaches(limit).then_some((limit, "requests were not answered"))
            }
            Mark::Error => {
                tally.gateway.end();
                self.errors(tally)
            }
            Mark::Gateway | Mark::Local => {
                let limit = rules.consecutive_gateway_failure;
                let gateway = tally.gateway.reaches(limit);
                let errors = self.errors(tally);
                if gateway { Some((limit, "gateway failures")) } else { errors }
            }
        }
    }

    fn errors(&self, tally: &Tally) -> Option<(u32, &'static str)> {
        let limit = self.rules.consecutive_5xx;
        tally.errors.reaches(limit).then_some((limit, "errors"))
    }

    /// Counts for the rates.
    fn weigh(&self, tally: &Tally, outcome: Outcome, mark: Mark) {
        let split = self.rules.split;
        if outcome == Outcome::BrokenOff {
            // Its head had counted as good.
            let window = if split { &tally.links } else { &tally.answers };
            window.take_back();
            return;
        }
        if split {
            tally.links.count(mark != Mark::Local);
        }
        if !split || matches!(outcome, Outcome::Answered { .. }) {
            tally.answers.count(mark == Mark::Good);
        }
    }

    fn random(&self) -> u64 {
        mix(self.chance.fetch_add(GAMMA, Ordering::Relaxed))
    }

    fn planned(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next_sweep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accusation(suspect: &Suspect) -> String {
    let rate = suspect.rate;
    match suspect.rule {
        Rule::SuccessRate(threshold) => {
            format!("its success rate of {rate:.1} % is below {threshold:.1} %")
        }
        Rule::FailurePercentage(percent) => {
            format!("{:.1} % of its requests failed, which {percent} % may not", 100.0 - rate)
        }
    }
}

/// Up to `most`, as `random` says.
pub(super) fn jitter(most: Duration, random: u64) -> Duration {
    // The upper 53 bits make an exact fraction below 1.
    most.mul_f64((random >> 11) as f64 / (1_u64 << 53) as f64)
}
