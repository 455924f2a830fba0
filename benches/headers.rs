//! What removing fields for one hop costs: `cargo bench -p bartizan-benches --bench headers`.

use std::hint::black_box;

use bartizan::http::strip_hop_by_hop;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use http::header::{ACCEPT, CONNECTION, HOST, HeaderValue, USER_AGENT};

fn browser() -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in [(HOST, "example.com"), (ACCEPT, "*/*"), (USER_AGENT, "browser")] {
        map.insert(name, HeaderValue::from_static(value));
    }
    map
}

fn strip(c: &mut Criterion) {
    let plain = browser();
    let mut named = browser();
    named.insert(CONNECTION, HeaderValue::from_static("keep-alive, x-named"));
    for (label, map) in [("nothing_to_strip", plain), ("connection_names_one", named)] {
        c.bench_function(label, |b| {
            let strip = |mut map: HeaderMap| {
                strip_hop_by_hop(&mut map);
                black_box(map)
            };
            b.iter_batched(|| map.clone(), strip, BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, strip);
criterion_main!(benches);
