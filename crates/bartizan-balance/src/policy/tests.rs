//! What holds for every policy. Each policy's own tests are beside it.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::{Cluster, Lease, Limits, State};

pub(crate) fn backend(i: usize) -> Backend {
    Backend::new(format!("b{i}"), "127.0.0.1:1".parse().unwrap())
}

pub(crate) fn cluster(backends: impl IntoIterator<Item = Backend>) -> Cluster {
    backends.into_iter().fold(Cluster::builder("web"), |web, b| web.add(b)).build().unwrap()
}

pub(crate) fn weighed(weights: &[u16]) -> Cluster {
    cluster(weights.iter().enumerate().map(|(i, weight)| backend(i).with_weight(*weight)))
}

pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The positions that `policy` picks, `n` times, without leases.
pub(crate) fn picks(policy: &dyn Policy, web: &Cluster, n: usize) -> Vec<usize> {
    let table = web.table();
    let pick =
        |_| table.position(policy.pick(&table, &PickContext::new(now())).unwrap().backend.id());
    (0..n).filter_map(pick).collect()
}

/// How often each position was picked.
pub(crate) fn counts(picks: &[usize], members: usize) -> Vec<usize> {
    (0..members).map(|i| picks.iter().filter(|picked| **picked == i).count()).collect()
}

/// `n` picks that stay in flight.
pub(crate) fn leased(policy: &dyn Policy, web: &Cluster, n: usize) -> Vec<Lease> {
    let observer = policy.observer();
    let lease = |_| {
        let pick = policy.pick(&web.table(), &PickContext::new(now())).unwrap();
        let lease = Lease::new(pick.backend);
        observer.iter().for_each(|observer| observer.more(lease.backend()));
        lease
    };
    (0..n).map(lease).collect()
}

/// For policies that draw: within five standard deviations, in an idle cluster.
pub(crate) fn shares_come_near_the_weights(policy: &dyn Policy) {
    let weights = [1, 5, 0, 2, 2];
    let counts = counts(&picks(policy, &weighed(&weights), 10_000), weights.len());
    for (count, weight) in counts.iter().zip(weights) {
        let expected = usize::from(weight) * 1_000;
        assert!(count.abs_diff(expected) <= 250, "{counts:?} by {weights:?}");
        assert_eq!(*count == 0, weight == 0);
    }
}

pub(crate) fn repeats_under_a_seed<P: Policy>(make: impl Fn(u64) -> P) {
    let web = weighed(&[1, 2, 5, 1, 1, 1, 3]);
    let run = |seed| picks(&make(seed), &web, 50);
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// For policies of load: whatever happens to the cluster between picks, nobody is picked who is not
/// eligible, was tried, or has no room; and somebody is picked if anybody may be.
pub(crate) fn never_picks_what_it_may_not<P: Policy>(make: impl Fn() -> P) {
    picks_only(make, |_| true);
}

/// For policies of affinity: as [`never_picks_what_it_may_not`], but who has no room may be picked.
pub(crate) fn never_picks_but_the_full<P: Policy>(make: impl Fn() -> P) {
    picks_only(make, |why| why != Why::Full);
}

/// Something that happens to a cluster.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A pick, of the key with this hash, after those of the bits have been tried.
    Pick {
        tried: u8,
        hash: u64,
        leased: bool,
    },
    /// The oldest lease but so many is over; not everybody tells the policy.
    Release {
        lease: usize,
        told: bool,
    },
    Up(usize, bool),
    Weight(usize, u16),
    State(usize, State),
    Replace(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let states = prop_oneof![Just(State::Ready), Just(State::Drain), Just(State::Maintenance)];
    prop_oneof![
        12 => (any::<u8>(), any::<u8>(), any::<u64>(), any::<bool>()).prop_map(
            |(tried, mask, hash, leased)| Step::Pick { tried: tried & mask, hash, leased }
        ),
        3 => (0..8_usize, any::<bool>()).prop_map(|(lease, told)| Step::Release { lease, told }),
        2 => (0..8_usize, any::<bool>()).prop_map(|(i, up)| Step::Up(i, up)),
        2 => (0..8_usize, 0..6_u16).prop_map(|(i, weight)| Step::Weight(i, weight)),
        1 => (0..8_usize, states).prop_map(|(i, state)| Step::State(i, state)),
        1 => (0..8_usize).prop_map(Step::Replace),
    ]
}

fn picks_only<P: Policy>(make: impl Fn() -> P, forbids: impl Fn(Why) -> bool) {
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let members = prop::collection::vec((0..5_u16, 0..4_u32, 0..3_u32), 1..8);
    let steps = prop::collection::vec(step(), 1..80);
    TestRunner::new(config)
        .run(&(members, steps), |(members, steps)| {
            let backends = members.iter().enumerate().map(|(i, (weight, max, min))| {
                let limits = Limits::none().max(*max).min(*min);
                backend(i).with_weight(*weight).with_limits(limits)
            });
            let mut world = World::new(make(), cluster(backends));
            for step in steps {
                world.take(step, &forbids)?;
            }
            Ok(())
        })
        .unwrap();
}

struct World<P> {
    policy: P,
    observer: Option<Arc<dyn Observer>>,
    web: Cluster,
    leases: Vec<Lease>,
    replaced: usize,
}

impl<P: Policy> World<P> {
    fn new(policy: P, web: Cluster) -> Self {
        let (observer, preparation) = (policy.observer(), policy.preparation());
        preparation.iter().for_each(|preparation| preparation.prepare(&web.table()));
        Self { policy, observer, web, leases: Vec::new(), replaced: 100 }
    }

    fn take(&mut self, step: Step, forbids: &impl Fn(Why) -> bool) -> Result<(), TestCaseError> {
        let members = self.web.table().members().clone();
        let name = |i: usize| members[i % members.len()].name().clone();
        match step {
            Step::Pick { tried, hash, leased } => return self.pick(tried, hash, leased, forbids),
            Step::Release { lease, told } => {
                if lease < self.leases.len() {
                    let backend = self.leases.remove(lease).backend().clone();
                    self.observer.iter().filter(|_| told).for_each(|o| o.less(&backend));
                }
            }
            Step::Up(i, up) => {
                self.web.set_up(&members[i % members.len()], up);
            }
            Step::Weight(i, weight) => {
                self.web.update(|change| change.set_weight(&name(i), weight)).unwrap();
            }
            Step::State(i, state) => {
                self.web.update(|change| change.set_state(&name(i), state)).unwrap();
            }
            Step::Replace(i) => {
                self.replaced += 1;
                let new = Arc::new(backend(self.replaced));
                let at = i % members.len();
                self.web.update(|change| change.members_mut()[at] = new).unwrap();
            }
        }
        if let Some(preparation) = self.policy.preparation() {
            preparation.prepare(&self.web.table());
        }
        Ok(())
    }

    fn pick(
        &mut self,
        tried: u8,
        hash: u64,
        leased: bool,
        forbids: &impl Fn(Why) -> bool,
    ) -> Result<(), TestCaseError> {
        let table = self.web.table();
        let tried: Vec<_> = (0..table.members().len())
            .filter(|i| tried >> i & 1 == 1)
            .map(|i| table.members()[i].id())
            .collect();
        let context = PickContext::new(now()).tried(&tried).hash(Some(hash));
        let may = |i: usize| table.check(i, &context).map_or_else(|why| !forbids(why), |()| true);
        let Some(pick) = self.policy.pick(&table, &context) else {
            let missed = (0..table.members().len()).find(|i| may(*i));
            prop_assert_eq!(missed, None, "somebody may be picked");
            return Ok(());
        };
        let position = table.position(pick.backend.id());
        prop_assert!(position.is_some_and(may), "{} may not be picked", pick.explain(&table));
        let kept: Vec<_> = pick.rejected.iter().map(|rejection| rejection.backend).collect();
        prop_assert!(!kept.contains(&pick.backend.id()), "it was not rejected");
        prop_assert!(pick.rejected.count() as usize <= table.members().len());
        if leased {
            self.leases.push(Lease::new(pick.backend.clone()));
            self.observer.iter().for_each(|observer| observer.more(&pick.backend));
        }
        Ok(())
    }
}
