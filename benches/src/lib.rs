//! Micro-benchmarks. `cargo bench -p bartizan-benches` runs them.
