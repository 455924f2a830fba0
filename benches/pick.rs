//! What choosing a backend costs: `cargo bench -p bartizan-benches --bench pick`.

use std::hint::black_box;

use bartizan::balance::{Cluster, Lease, PickContext, Policy, RoundRobin};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn cluster(size: usize) -> Cluster {
    let named = (0..size).fold(Cluster::builder("web"), |cluster, i| {
        cluster.backend(&format!("b{i}"), "127.0.0.1:1")
    });
    named.build().expect("names and addresses are right")
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("round_robin");
    for size in [10, 1_000, 10_000] {
        let (cluster, policy) = (cluster(size), RoundRobin::new());
        group.bench_function(BenchmarkId::new("pick", size), |b| {
            b.iter(|| black_box(policy.pick(&cluster.table(), &PickContext::new())));
        });
        group.bench_function(BenchmarkId::new("pick_and_lease", size), |b| {
            b.iter(|| {
                let pick = policy.pick(&cluster.table(), &PickContext::new());
                black_box(pick.map(|pick| Lease::new(pick.backend)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pick);
criterion_main!(benches);
