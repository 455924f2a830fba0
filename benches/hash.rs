//! What policies of hashes cost, and how many keys they move: `cargo bench -p bartizan-benches --bench
//! hash`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use bartizan::balance::{
    BalanceFactor, Cluster, Maglev, PickContext, Policy, Rendezvous, RingHash, Table,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

/// A policy, and what its indexes take.
type Kind = (&'static str, Box<dyn Policy>, Box<dyn Fn() -> usize>);

fn kinds() -> Vec<Kind> {
    let ring = |name, policy: RingHash| -> Kind {
        let same = policy.clone();
        (name, Box::new(policy), Box::new(move || same.memory()))
    };
    let rendezvous = |name, policy: Rendezvous| -> Kind {
        let same = policy.clone();
        (name, Box::new(policy), Box::new(move || same.memory()))
    };
    let maglev = Maglev::new();
    let same = maglev.clone();
    vec![
        ring("ring", RingHash::new()),
        ring("ring_bounded", RingHash::new().bounded(BalanceFactor::percent(125))),
        ring("ketama", RingHash::ketama()),
        ("maglev", Box::new(maglev), Box::new(move || same.memory())),
        rendezvous("rendezvous", Rendezvous::new()),
        rendezvous("rendezvous_tree", Rendezvous::tree()),
    ]
}

fn cluster(size: usize) -> Cluster {
    let named = (0..size).fold(Cluster::builder("web"), |cluster, i| {
        cluster.backend(&format!("b{i}"), "127.0.0.1:1")
    });
    named.build().expect("names and addresses are right")
}

/// A key's hash, mixed as SplitMix64 mixes: rings look at the low half alone.
fn hash(key: u64) -> u64 {
    let bits = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn pick(c: &mut Criterion) {
    let now = now();
    for size in [10, 1_000, 10_000] {
        let cluster = cluster(size);
        for (name, policy, _) in kinds() {
            // A bound looks at what is in flight; here that is nothing.
            let mut key = 0;
            let mut group = c.benchmark_group(name);
            group.bench_function(BenchmarkId::new("pick", size), |b| {
                b.iter(|| {
                    key += 1;
                    let context = PickContext::new(now).hash(Some(hash(key)));
                    black_box(policy.pick(&cluster.table(), &context))
                });
            });
        }
    }
}

fn mapping(policy: &dyn Policy, table: &Table, keys: u64) -> Vec<Option<Arc<str>>> {
    let now = now();
    let name = |key| {
        let pick = policy.pick(table, &PickContext::new(now).hash(Some(hash(key))))?;
        Some(Arc::clone(pick.backend.name()))
    };
    (0..keys).map(name).collect()
}

/// Prints what cannot be timed in a loop.
fn making_and_moving(_: &mut Criterion) {
    for size in [100, 10_000] {
        for (name, policy, memory) in kinds() {
            let cluster = cluster(size);
            let preparation = policy.preparation().expect("all of them have indexes");
            let started = now();
            preparation.prepare(&cluster.table());
            let took = now() - started;
            println!("{name}/{size}: made in {took:?}, {} KiB", memory() / 1_024);
            // So many that even one backend of 10,000 has some.
            let keys = if name == "rendezvous" { 20_000 } else { 1_000_000 };
            let moved = |before: &[_], after: &[_]| {
                let moved = before.iter().zip(after).filter(|(before, after)| before != after);
                moved.count() as f64 / keys as f64 * size as f64
            };
            let before = mapping(&policy, &cluster.table(), keys);
            let drain = |weight| cluster.update(|change| change.set_weight("b7", weight));
            let state = |state| cluster.update(|change| change.set_state("b7", state));
            state(bartizan::balance::State::Drain).expect("b7 is there");
            let flipped = mapping(&policy, &cluster.table(), keys);
            state(bartizan::balance::State::Ready).expect("b7 is there");
            drain(0).expect("b7 is there");
            let removed = mapping(&policy, &cluster.table(), keys);
            println!(
                "{name}/{size}: moved, times 1/n: by a flip {:.2}, by a removal {:.2}",
                moved(&before, &flipped),
                moved(&before, &removed),
            );
        }
    }
}

criterion_group!(benches, making_and_moving, pick);
criterion_main!(benches);
