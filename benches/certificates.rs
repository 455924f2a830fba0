//! What finding and loading certificates costs:
//! `cargo bench -p bartizan-benches --bench certificates`.

use std::hint::black_box;

use bartizan::tls::CertStore;
use bartizan_benches::{Key, fill, name};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn certificates(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("there is room for temporary files");
    fill(dir.path(), 1_000, Key::P256);
    c.bench_function("load/1000", |b| b.iter(|| CertStore::open(dir.path()).map(black_box)));

    let store = CertStore::open(dir.path()).expect("all of them are good");
    c.bench_function("reload_unchanged/1000", |b| b.iter(|| store.reload().map(black_box)));

    let dir = tempfile::tempdir().expect("there is room for temporary files");
    fill(dir.path(), 50_000, Key::P256);
    let store = CertStore::open(dir.path()).expect("all of them are good");
    let mut group = c.benchmark_group("look_up");
    // Far apart, so that each look-up finds the caches cold.
    let names: Vec<String> = (0..50_000).map(|i| name(i * 7_919 % 50_000)).collect();
    for (what, names) in [
        ("known", names.clone()),
        ("unknown", names.iter().map(|name| format!("not-{name}")).collect()),
    ] {
        let mut next = names.iter().cycle();
        group.bench_function(BenchmarkId::new(what, 50_000), |b| {
            b.iter(|| store.serves(next.next().expect("it goes round")));
        });
    }
    group.finish();
}

criterion_group!(benches, certificates);
criterion_main!(benches);
