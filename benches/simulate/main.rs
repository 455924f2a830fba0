//! What the policies do with the same traffic: `cargo run --release -p bartizan-benches --bin simulate`.
//!
//! A simulation of requests, servers and balancers, in which the policies, tables and leases are the
//! crate's own. Time is virtual and chance is seeded, so two runs print the same. It prints tables, and
//! writes the charts of the guide. An argument names another directory for them.
//!
//! Requests arrive independently of each other and of the answers (an open loop, Poisson). A server
//! works at four at a time, the others wait there; 10 ms of work is the mean. Nothing is simulated of
//! networks and connections.

mod chance;
mod charts;
mod policies;
mod run;
mod setup;
mod studies;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use charts::Wrong;

fn main() -> ExitCode {
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/bartizan/src/guide/charts");
    let charts = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(guide), PathBuf::from);
    match all(&charts) {
        Ok(()) => ExitCode::SUCCESS,
        Err(wrong) => {
            eprintln!("{}: {wrong}", charts.display());
            ExitCode::FAILURE
        }
    }
}

fn all(charts: &Path) -> Result<(), Wrong> {
    std::fs::create_dir_all(charts)?;
    studies::latency(charts)?;
    studies::load(charts)?;
    studies::imbalance(charts)?;
    studies::recovery(charts)?;
    studies::keys(charts)
}
