use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bartizan_balance::{
    Backend, Observer, Pick, PickContext, Policy, Reason, RoundRobin, SlowStart, Table,
};

use crate::chance::{Chance, Work, Zipf};
use crate::policies::{Make, policies};
use crate::run::{Outcome, run};
use crate::setup::{Outage, Setup};
use crate::studies::{moved, shares};

const TURNS: Make = |_| Box::new(RoundRobin::new());

/// Drawn by weight as it is at the moment.
struct Drawn(AtomicUsize);

impl Drawn {
    const MAKE: Make = |_| Box::new(Self(AtomicUsize::new(0)));
}

impl Policy for Drawn {
    fn pick(&self, table: &Table, _: &PickContext<'_>) -> Option<Pick> {
        let random = Chance::new(self.0.fetch_add(1, Ordering::Relaxed) as u64).bits();
        Some(Pick::new(table.members()[table.draw(random)?].clone(), "drawn", Reason::Drawn))
    }
}

/// The first of those with the least to do.
struct Least;

impl Policy for Least {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let free = (0..table.members().len()).filter(|i| table.check(*i, context).is_ok());
        let least = free.min_by_key(|i| table.members()[*i].in_flight())?;
        Some(Pick::new(table.members()[least].clone(), "least", Reason::Drawn))
    }
}

/// To the backend with the highest hash with the key.
struct Highest;

impl Policy for Highest {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let weigh = |i: &usize| Chance::new(context.hash.unwrap_or(0) ^ *i as u64).bits();
        let place = table.eligible_from(0).max_by_key(weigh)?;
        Some(Pick::new(table.members()[place].clone(), "highest", Reason::Drawn))
    }
}

#[test]
fn two_runs_are_the_same() {
    let outage = Outage { server: 1, from: Duration::from_millis(100), to: Duration::from_secs(1) };
    let setup = Setup {
        outages: vec![outage],
        work: Work::HeavyTail,
        balancers: 3,
        detection: Duration::from_millis(50),
        keys: Some(Arc::new(Zipf::new(100))),
        ..Setup::equal(5, 0.7, 3_000)
    };
    let mut makes: Vec<Make> = policies().into_iter().map(|(_, make)| make).collect();
    makes.extend([Drawn::MAKE, |_: usize| -> Box<dyn Policy> { Box::new(Highest) }]);
    for make in makes {
        let first = run(&setup, make);
        assert!(first.failures > 0);
        assert!(first == run(&setup, make));
        assert!(first != run(&Setup { seed: 1, ..setup.clone() }, make));
    }
}

#[test]
fn each_request_is_answered_once() {
    let setup = Setup::equal(3, 0.9, 3_000);
    let Outcome { answered, lost, failures, latencies, .. } = run(&setup, TURNS);
    assert_eq!((answered.iter().sum::<u64>(), lost, failures), (3_000, 0, 0));
    assert_eq!(answered, [1_000; 3]);
    assert_eq!(latencies.len(), 2_700, "without those that found empty servers");
}

#[test]
fn latencies_are_those_of_queueing_theory() {
    // One server, four processors, 80 % load. Erlang's C formula gives a probability to wait of
    // 0.5964, so a mean of 10 ms of work and 0.5964 × 10 ms / (4 × (1 - 0.8)) of waiting.
    let outcome = run(&Setup::equal(1, 0.8, 100_000), TURNS);
    let mean = outcome.latencies.iter().sum::<f64>() / outcome.latencies.len() as f64;
    assert!((mean - 0.01746).abs() < 0.001, "{mean}");
}

#[test]
fn a_policy_that_sees_counts_beats_turns() {
    let setup = Setup::equal(5, 0.8, 10_000);
    let least = run(&setup, |_| Box::new(Least)).percentile(0.99);
    let turns = run(&setup, TURNS).percentile(0.99);
    assert!(least < turns, "{least} ms, {turns} ms");
    // What another balancer has in flight is out of sight.
    let apart = Setup { balancers: 5, ..setup };
    let blind = run(&apart, |_| Box::new(Least)).percentile(0.99);
    assert!(least < blind, "{least} ms, {blind} ms");
}

#[test]
fn a_server_that_is_down_fails_requests_until_it_is_noticed_and_none_after() {
    let second = Duration::from_secs(1);
    let outage = Outage { server: 0, from: second, to: 3 * second };
    let setup =
        Setup { outages: vec![outage], detection: second / 2, ..Setup::equal(4, 0.5, 4_000) };
    let outcome = run(&setup, TURNS);
    assert_eq!(outcome.lost, 0, "others took them");
    let (rate, during) = (setup.rate() / 4.0, 0.5);
    let failures = outcome.failures as f64;
    assert!((failures / (rate * during) - 1.0).abs() < 0.3, "{failures} failures");
    let given = |from, to| {
        let there = |(when, to_whom): &&(Duration, u32)| *to_whom == 0 && (from..to).contains(when);
        outcome.given.iter().filter(there).count()
    };
    assert_eq!(given(second, 3 * second + second / 2), 0);
    assert!(given(3 * second + second / 2, 4 * second) > 50);
}

#[test]
fn slow_start_brings_a_server_back_by_degrees() {
    let outage = Outage { server: 0, from: Duration::ZERO, to: Duration::from_secs(1) };
    let setup = Setup {
        outages: vec![outage],
        slow_start: Some(SlowStart::new(Duration::from_secs(10))),
        detection: Duration::from_secs(1),
        ..Setup::equal(4, 0.5, 12_000)
    };
    let shares = shares(&run(&setup, Drawn::MAKE), 0);
    let at = |second: usize| shares[second].1;
    assert_eq!(at(1), 0.0, "{shares:?}");
    assert!(at(2) < 5.0 && at(7) > 8.0 && at(7) < 20.0 && at(13) > 20.0, "{shares:?}");
}

#[test]
fn only_keys_of_a_server_that_leaves_have_to_move() {
    assert_eq!(moved(|_| Box::new(Highest)), 0.0);
    assert!(moved(TURNS) > 0.5);
}

#[test]
fn zipf_asks_for_the_second_key_half_as_often_as_for_the_first() {
    let (zipf, mut chance) = (Zipf::new(3), Chance::new(1));
    let mut counts = std::collections::HashMap::new();
    for _ in 0..11_000 {
        *counts.entry(zipf.draw(&mut chance)).or_insert(0) += 1;
    }
    let mut counts: Vec<i32> = counts.into_values().collect();
    counts.sort_unstable();
    for (count, expected) in counts.iter().zip([2_000, 3_000, 6_000]) {
        assert!((count - expected).abs() < 200, "{counts:?}");
    }
}

/// Counts what it is told.
#[derive(Debug, Default)]
struct Told([AtomicUsize; 4]);

impl Observer for Told {
    fn more(&self, backend: &Arc<Backend>) {
        assert!(backend.in_flight() > 0, "the count is up to date");
        self.0[0].fetch_add(1, Ordering::Relaxed);
    }

    fn less(&self, _: &Arc<Backend>) {
        self.0[1].fetch_add(1, Ordering::Relaxed);
    }

    fn answered(&self, _: &Arc<Backend>, took: Duration, _: Instant) {
        assert!(took > Duration::ZERO);
        self.0[2].fetch_add(1, Ordering::Relaxed);
    }

    fn failed(&self, _: &Arc<Backend>, _: Duration, _: Instant) {
        self.0[3].fetch_add(1, Ordering::Relaxed);
    }
}

struct Watched(RoundRobin);

impl Policy for Watched {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        self.0.pick(table, context)
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        Some(TOLD.with(Arc::clone))
    }
}

thread_local! {
    static TOLD: Arc<Told> = Arc::default();
}

#[test]
fn the_policy_is_told_of_all_that_it_would_be_told_by_a_balancer() {
    let outage = Outage { server: 0, from: Duration::from_millis(50), to: Duration::from_secs(9) };
    let setup = Setup { outages: vec![outage], ..Setup::equal(3, 0.5, 500) };
    let outcome = run(&setup, |_| Box::new(Watched(RoundRobin::new())));
    let told = TOLD.with(|told| told.0.each_ref().map(|count| count.load(Ordering::Relaxed)));
    let [more, less, answered, failed] = told;
    assert_eq!((answered, failed as u64), (500, outcome.failures));
    assert!(failed > 0);
    assert_eq!((more, less), (answered + failed, answered + failed));
}
