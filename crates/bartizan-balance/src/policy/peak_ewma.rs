//! The quicker of two that are drawn.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::chance::Chance;
use crate::latency::Weighing;
use crate::{Backend, Observer, Pick, PickContext, Policy, Reason, Table};

/// Draws two backends by weight, and takes the one that is expected to answer sooner: by its recent
/// latency, times what it has to do already.
///
/// The latency is an exponentially weighted moving average that follows a rise at once and a fall by
/// degrees (Finagle's "peak EWMA", as in linkerd and tower), so that a backend that stalls loses its
/// requests within one answer. Choose it where backends differ in speed, or become slow without
/// failing; not where quick answers are errors, unless those are told apart before.
///
/// | setting | default | why |
/// | --- | --- | --- |
/// | [`decay`](Self::decay) | 10 s | Finagle's and linkerd's |
/// | [`default_rtt`](Self::default_rtt) | 30 ms | linkerd's: dearer than a neighbour, cheaper than a continent |
/// | [`penalty`](Self::penalty) | 1 s | what a lost SYN costs (RFC 6298, 2.1) |
///
/// The cost of a backend is `latency * (1 + load)`, where the load, what is in flight or waits, is
/// counted in relation to the weight: of a backend of twice the mean weight, half counts. Draws are
/// by weight, and the latency itself is not divided by it, or weights would count twice in an idle
/// cluster; drawn evenly, they would count for at most 3 : 1.
///
/// A backend that has not been measured costs `default_rtt`, never nothing. What is not measured for
/// long becomes cheap by and by, until it is drawn and wins: for one request, because while that is
/// in flight the last experience counts in full. So neither a new backend is flooded, nor is a slow
/// one forgotten.
///
/// Finagle and linkerd have no weights, and draw two different ones. HAProxy and open nginx have
/// nothing like it; nginx' `least_time` and Traefik's `leasttime` average without peaks.
///
/// Latencies are kept with the [`Backend`], shared by all policies and workers that measure them.
/// Cost: as [`PowerOfTwo`](crate::PowerOfTwo), and an exponential function for each idle draw; one
/// atomic exchange per answer.
#[derive(Debug)]
pub struct PeakEwma {
    chance: Chance,
    measure: Measure,
}

/// What is made of an answer, and of a failure.
#[derive(Clone, Copy, Debug)]
struct Measure {
    weighing: Weighing,
    penalty: Duration,
}

impl PeakEwma {
    /// With a seed of its own, so that workers differ.
    pub fn new() -> Self {
        Self::with(Chance::new())
    }

    /// Chooses the same again, under the same seed, with the same tables, loads and latencies.
    pub fn seeded(seed: u64) -> Self {
        Self::with(Chance::seeded(seed))
    }

    /// After this time, a measurement counts 1/e of what it did; at least 1 ms. Default: 10 s.
    pub fn decay(mut self, decay: Duration) -> Self {
        self.measure.weighing.decay = decay.max(Duration::from_millis(1)).as_secs_f32() * 1e3;
        self
    }

    /// What a backend is expected to take before it has been measured; at least 1 µs. Default:
    /// 30 ms.
    ///
    /// Less than backends really take makes new ones get more than their share at first.
    pub fn default_rtt(mut self, rtt: Duration) -> Self {
        self.measure.weighing.unknown = rtt.max(Duration::from_micros(1)).as_secs_f32() * 1e6;
        self
    }

    /// A failure counts as an answer that took this long, or as long as it did if that is more.
    /// Default: 1 s.
    ///
    /// Without it, a backend that refuses at once would be the quickest of all.
    pub fn penalty(mut self, penalty: Duration) -> Self {
        self.measure.penalty = penalty;
        self
    }

    fn with(chance: Chance) -> Self {
        let weighing = Weighing { decay: DECAY_MS, unknown: DEFAULT_RTT_US };
        Self { chance, measure: Measure { weighing, penalty: PENALTY } }
    }

    fn cost(&self, table: &Table, position: usize, mean: f32, now: Instant) -> f32 {
        let Some(member) = table.members().get(position) else { return f32::INFINITY };
        let load = member.in_flight() + member.queued();
        let share = table.share(position).max(1) as f32;
        let expected = member.latency.expected(load > 0, now, self.measure.weighing);
        expected * (1.0 + load as f32 * mean / share)
    }
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for PeakEwma {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let count: usize = table.classes().iter().map(|class| class.count()).sum();
        let mean = table.total_share() as f32 / count.max(1) as f32;
        let cost = |position| self.cost(table, position, mean, context.now);
        let better = |one, other| cost(one) < cost(other);
        let (position, rejected) = self.chance.choose(table, context, 2, better)?;
        let backend = table.members().get(position)?.clone();
        let reason = Reason::Latency { cost: f64::from(cost(position)) };
        Some(Pick::new(backend, "ewma", reason).rejected(rejected))
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        Some(Arc::new(self.measure))
    }
}

impl Observer for Measure {
    fn more(&self, _: &Arc<Backend>) {}

    fn less(&self, _: &Arc<Backend>) {}

    fn answered(&self, backend: &Arc<Backend>, took: Duration, now: Instant) {
        backend.latency.observe(took, now, self.weighing);
    }

    fn failed(&self, backend: &Arc<Backend>, took: Duration, now: Instant) {
        backend.latency.observe(took.max(self.penalty), now, self.weighing);
    }
}

/// Long enough for a few answers of a backend that gets one per second, short enough that a stall is
/// forgiven within a minute.
const DECAY_MS: f32 = 10_000.0;

/// In a cluster whose answers take less, a new backend is tried late rather than flooded.
const DEFAULT_RTT_US: f32 = 30_000.0;

/// The first retransmission of a lost SYN.
const PENALTY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{
        backend, cluster, leased, never_picks_what_it_may_not, now, picks, repeats_under_a_seed,
        shares_come_near_the_weights,
    };
    use crate::{Cluster, Lease};

    fn answers(policy: &PeakEwma, web: &Cluster, millis: &[u64]) {
        let observer = policy.observer().unwrap();
        for (member, millis) in web.table().members().iter().zip(millis) {
            observer.answered(member, Duration::from_millis(*millis), now());
        }
    }

    fn share_of(policy: &PeakEwma, web: &Cluster, position: usize) -> usize {
        picks(policy, web, 1_000).iter().filter(|picked| **picked == position).count()
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_cluster_is_used_by_weight() {
        shares_come_near_the_weights(&PeakEwma::seeded(7));
    }

    #[tokio::test(start_paused = true)]
    async fn ewma_repeats_itself_under_a_seed() {
        repeats_under_a_seed(PeakEwma::seeded);
    }

    #[test]
    fn ewma_never_picks_what_it_may_not() {
        never_picks_what_it_may_not(PeakEwma::new);
    }

    #[tokio::test(start_paused = true)]
    async fn the_slow_one_is_picked_only_when_it_is_drawn_twice() {
        let (web, policy) = (cluster((0..3).map(backend)), PeakEwma::seeded(5));
        answers(&policy, &web, &[10, 200, 10]);
        let slow = share_of(&policy, &web, 1);
        assert!((60..170).contains(&slow), "a ninth of 1000, not {slow}");
        let reason = policy.pick(&web.table(), &PickContext::new(now())).unwrap().reason;
        assert!(matches!(reason, Reason::Latency { cost } if cost >= 9_999.0), "{reason}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_failure_is_no_quick_answer() {
        let (web, policy) = (cluster((0..3).map(backend)), PeakEwma::seeded(5));
        answers(&policy, &web, &[10, 10, 10]);
        let failed = web.table().members()[0].clone();
        policy.observer().unwrap().failed(&failed, Duration::ZERO, now());
        assert!(share_of(&policy, &web, 0) < 170);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_backend_is_tried_and_not_flooded() {
        let (web, policy) = (cluster((0..2).map(backend)), PeakEwma::seeded(5));
        answers(&policy, &web, &[1]);
        let table = web.table();
        let new = table.members()[1].clone();
        assert!(share_of(&policy, &web, 1) < 300, "it is dearer than what is known to be quick");
        tokio::time::advance(Duration::from_secs(300)).await;
        answers(&policy, &web, &[1]);
        assert!(share_of(&policy, &web, 1) > 700, "and by now cheaper");
        let _one = Lease::new(new);
        assert!(share_of(&policy, &web, 1) < 300, "but one is enough");
    }

    #[tokio::test(start_paused = true)]
    async fn under_load_weights_hold_too() {
        let web = cluster([backend(0), backend(1).with_weight(3)]);
        let policy = PeakEwma::seeded(5);
        answers(&policy, &web, &[10, 10]);
        let _leases = leased(&policy, &web, 400);
        let light = web.table().members()[0].in_flight();
        assert!((85..=115).contains(&light), "a quarter of 400, not {light}");
    }
}
