//! What choosing a backend costs: `cargo bench -p bartizan-benches --bench pick`.
//!
//! A pick of each policy at three sizes, with equal and with unequal weights; two threads that pick
//! at once; and a change of one backend's state in a cluster of 10,000.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use bartizan::balance::{
    Backend, Cluster, First, Lease, LeastConn, Observer, PeakEwma, PickContext, Policy, PowerOfTwo,
    Random, RoundRobin, State,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

type Shared = Arc<dyn Policy + Send + Sync>;
type Make = fn() -> Shared;

/// Every policy: its name, and how it is made.
const POLICIES: &[(&str, Make)] = &[
    ("roundrobin", || Arc::new(RoundRobin::new())),
    ("random", || Arc::new(Random::seeded(1))),
    ("p2c", || Arc::new(PowerOfTwo::seeded(1))),
    ("first", || Arc::new(First::new())),
    ("leastconn", || Arc::new(LeastConn::new())),
    ("ewma", || Arc::new(PeakEwma::seeded(1))),
];

const SIZES: [usize; 3] = [10, 1_000, 10_000];

const WEIGHTS: [(&str, &[u16]); 2] = [("equal", &[1]), ("unequal", &[1, 2, 5])];

fn cluster(size: usize, weights: &[u16]) -> Cluster {
    let backends = (0..size).zip(weights.iter().cycle()).map(|(i, weight)| {
        let address = "127.0.0.1:1".parse().expect("an address");
        Backend::new(format!("b{i}"), address).with_weight(*weight)
    });
    backends.fold(Cluster::builder("web"), |web, b| web.add(b)).build().expect("names differ")
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Another key for each pick, where a policy goes by keys.
fn context(now: Instant, i: u64) -> PickContext<'static> {
    PickContext::new(now).hash(Some(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// A pick, its lease, and the end of that, with everybody told.
fn pick_and_lease(policy: &Shared, observer: Option<&dyn Observer>, web: &Cluster, now: Instant) {
    let Some(pick) = policy.pick(&web.table(), &context(now, 0)) else { return };
    let lease = Lease::new(pick.backend.clone());
    if let Some(observer) = observer {
        observer.more(&pick.backend);
        observer.answered(&pick.backend, Duration::from_millis(1), now);
    }
    drop(lease);
    if let Some(observer) = observer {
        observer.less(&pick.backend);
    }
}

fn pick(c: &mut Criterion) {
    for (name, make) in POLICIES {
        let mut group = c.benchmark_group(*name);
        for (weighing, weights) in WEIGHTS {
            for size in SIZES {
                let (web, policy, now) = (cluster(size, weights), make(), now());
                let table = Arc::clone(&web.table());
                let mut i = 0;
                group.bench_function(BenchmarkId::new(format!("pick/{weighing}"), size), |b| {
                    b.iter(|| {
                        i += 1;
                        black_box(policy.pick(&table, &context(now, i)))
                    });
                });
                let observer = policy.observer();
                let id = BenchmarkId::new(format!("pick_and_lease/{weighing}"), size);
                group.bench_function(id, |b| {
                    b.iter(|| pick_and_lease(&policy, observer.as_deref(), &web, now));
                });
            }
        }
        group.finish();
    }
}

/// Nanoseconds per pick of each of two threads that share a policy and a cluster.
fn two_threads(_: &mut Criterion) {
    for (name, make) in POLICIES {
        for (weighing, weights) in WEIGHTS {
            let (web, policy) = (cluster(1_000, weights), make());
            let start = Arc::new(Barrier::new(2));
            let threads = [0, PICKS].map(|first| {
                let (web, policy, start) = (web.clone(), policy.clone(), start.clone());
                std::thread::spawn(move || {
                    start.wait();
                    let began = now();
                    for i in first..first + PICKS {
                        black_box(policy.pick(&web.table(), &context(began, i)));
                    }
                    now() - began
                })
            });
            let took = threads.map(|thread| thread.join().unwrap_or(Duration::MAX));
            let each = took.map(|took| took.as_nanos() / u128::from(PICKS));
            println!("two threads, 1000 backends: {name}/{weighing} {each:?} ns per pick");
        }
    }
}

/// What one load takes that no cache of the core's own has: of thousands of backends, a policy that
/// jumps among them meets one of these per backend that it looks at.
fn cache_miss(_: &mut Criterion) {
    let count = MISSED_BYTES / size_of::<[usize; 8]>();
    let mut order: Vec<usize> = (0..count).collect();
    let mut i = 1_u64;
    for last in (1..count).rev() {
        i = i.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        order.swap(last, (i >> 33) as usize % last);
    }
    let mut next = vec![[0_usize; 8]; count];
    order.iter().zip(order.iter().cycle().skip(1)).for_each(|(from, to)| next[*from][0] = *to);
    let (began, mut at) = (now(), 0);
    (0..PICKS).for_each(|_| at = next[at][0]);
    black_box(at);
    println!(
        "a load beyond the caches of a core: {} ns",
        (now() - began).as_nanos() / u128::from(PICKS)
    );
}

/// A backend drains, or is ready again: the table is made anew and published; then the next pick.
fn flip(c: &mut Criterion) {
    let mut group = c.benchmark_group("flip_one_of_10000");
    for (weighing, weights) in WEIGHTS {
        let (web, mut ready) = (cluster(10_000, weights), true);
        let mut flip = || {
            ready = !ready;
            let state = if ready { State::Ready } else { State::Drain };
            web.update(|change| change.set_state("b5000", state)).expect("it is there");
        };
        group.bench_function(BenchmarkId::new("publish", weighing), |b| b.iter(&mut flip));
        for (name, make) in POLICIES {
            let (policy, now) = (make(), now());
            group.bench_function(BenchmarkId::new(format!("publish_and_{name}"), weighing), |b| {
                b.iter(|| {
                    flip();
                    black_box(policy.pick(&web.table(), &context(now, 0)))
                });
            });
        }
    }
    group.finish();
}

const PICKS: u64 = 1_000_000;

/// What 10,000 backends take, about.
const MISSED_BYTES: usize = 4 << 20;

fn short() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .sample_size(20)
}

criterion_group! { name = benches; config = short(); targets = cache_miss, pick, two_threads, flip }
criterion_main!(benches);
