//! What a stick table of 204,800 IPv4 addresses costs: `cargo bench -p bartizan-benches --bench
//! stick`. Prints its bytes per entry first.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use bartizan::balance::{Backend, BackendId, Key, StickTable};
use criterion::{Criterion, criterion_group, criterion_main};

const ENTRIES: u32 = 204_800;

fn key(i: u32) -> Key<'static> {
    Key::Ip(std::net::Ipv4Addr::from_bits(i).into())
}

/// Any order that the processor cannot guess.
fn next(i: &mut u32) -> u32 {
    *i = i.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    ((u64::from(*i) * u64::from(ENTRIES)) >> 32) as u32
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

fn full(expire: Option<Duration>) -> (StickTable, BackendId) {
    let address = "127.0.0.1:1".parse().expect("an address");
    let backend = Backend::new("web1", address).id();
    let table = StickTable::new(ENTRIES as usize, expire);
    (0..ENTRIES).for_each(|i| {
        table.set(&key(i), backend, now());
    });
    (table, backend)
}

fn stick(c: &mut Criterion) {
    let (table, backend) = full(Some(Duration::from_secs(1_800)));
    println!(
        "{} entries in {} bytes: {:.1} each",
        table.len(),
        table.memory(),
        table.memory() as f64 / table.len() as f64
    );
    let mut group = c.benchmark_group("stick");
    let (mut i, at) = (1, now());
    group.bench_function("match", |b| {
        b.iter(|| black_box(table.find(&key(next(&mut i)), at)));
    });
    // Clients of the moment, whose entries a core's own caches hold.
    group.bench_function("match_of_2048", |b| {
        b.iter(|| black_box(table.find(&key(next(&mut i) >> 6 << 6 & 0x1_ffff), at)));
    });
    // Without expiry, each match is a refresh.
    let (ageless, _) = full(None);
    group.bench_function("match_that_refreshes", |b| {
        b.iter(|| black_box(ageless.find(&key(next(&mut i)), now())));
    });
    drop(ageless);
    group.bench_function("match_with_the_clock", |b| {
        b.iter(|| black_box(table.find(&key(next(&mut i)), now())));
    });
    let stop = Arc::new(AtomicBool::new(false));
    let other = {
        let (table, stop, mut i) = (table.clone(), Arc::clone(&stop), 2);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                black_box(table.find(&key(next(&mut i)), at));
            }
        })
    };
    group.bench_function("match_beside_another_thread", |b| {
        b.iter(|| black_box(table.find(&key(next(&mut i)), at)));
    });
    stop.store(true, Ordering::Relaxed);
    other.join().expect("the other thread only looks up");
    let fresh = AtomicU32::new(ENTRIES);
    group.bench_function("insert_with_eviction", |b| {
        b.iter(|| {
            black_box(table.set(&key(fresh.fetch_add(1, Ordering::Relaxed)), backend, now()))
        });
    });
    group.finish();
    println!("after evictions: {:.1} bytes each", table.memory() as f64 / table.len() as f64);
}

criterion_group!(benches, stick);
criterion_main!(benches);
