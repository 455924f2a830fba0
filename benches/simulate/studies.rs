//! What is asked of the policies, one question a function.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bartizan_balance::{Cluster, PickContext, SlowStart, State};

use crate::chance::{Zipf, hash_of};
use crate::charts::{Bars, Line, Scale, Texts, Wrong, draw_bars, draw_lines};
use crate::policies::{Make, hashes, policies};
use crate::run::{Outcome, run};
use crate::setup::{Outage, Setup, scenes};

/// Median and 99th percentile of the latency, by scene.
pub(crate) fn latency(charts: &Path) -> Result<(), Wrong> {
    let (policies, mut groups) = (policies(), Vec::new());
    println!(
        "\nLatency (ms) at 70 % load\n\n| scene | policy | p50 | p99 | p99.9 | failed tries | lost |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (scene, setup) in scenes(REQUESTS) {
        let mut values = Vec::new();
        for (name, make) in &policies {
            let outcome = run(&setup, *make);
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| outcome.percentile(share));
            let Outcome { failures, lost, .. } = outcome;
            println!(
                "| {scene} | {name} | {p50:.1} | {p99:.1} | {p999:.1} | {failures} | {lost} |"
            );
            values.push((p50, p99));
        }
        groups.push((scene, values));
    }
    let texts =
        Texts { title: "Latency at 70 % load: median (dark), 99 % (light)", x: "", y: "ms" };
    let names = policies.iter().map(|(name, _)| *name).collect();
    draw_bars(&charts.join("latency.svg"), texts, &Bars { names, groups, floor: 1.0 })
}

/// The 99th percentile of the latency, by load.
pub(crate) fn load(charts: &Path) -> Result<(), Wrong> {
    println!("\np99 (ms) by load, 20 equal servers\n");
    let loads = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95];
    let lines = lines(&policies(), &loads, |load, make| {
        run(&Setup::equal(20, load, REQUESTS), make).percentile(0.99)
    });
    let texts = Texts { title: "99 % of latencies by load, 20 equal servers", x: "load", y: "ms" };
    draw_lines(&charts.join("load.svg"), texts, &lines, (Scale::Linear, Scale::Logarithmic))
}

/// How much more than the mean the busiest server gets, by their number.
pub(crate) fn imbalance(charts: &Path) -> Result<(), Wrong> {
    println!("\nBusiest server (% above the mean), 100 requests a server\n");
    let numbers = [10.0, 100.0, 1_000.0, 10_000.0];
    let lines = lines(&policies(), &numbers, |number, make| {
        let setup = Setup::equal(number as usize, 0.5, number as usize * 100);
        (run(&setup, make).imbalance(&setup) - 1.0) * 100.0
    });
    let title = "Busiest server, 100 requests a server";
    let texts = Texts { title, x: "servers", y: "% above the mean" };
    draw_lines(&charts.join("imbalance.svg"), texts, &lines, (Scale::Logarithmic, Scale::Linear))
}

/// What a server gets after it has recovered: with a slow start, and, by the first policy, without.
pub(crate) fn recovery(charts: &Path) -> Result<(), Wrong> {
    println!("\nShare (%) of a server of ten that is back after 5 s, with a slow start of 20 s\n");
    let policies = policies();
    let without = policies.first().map(|(name, make)| (format!("{name}, none"), *make, 0));
    let with = policies.iter().map(|(name, make)| ((*name).to_owned(), *make, 20));
    let mut lines = Vec::new();
    for (name, make, window) in without.into_iter().chain(with) {
        let (from, to) = (Duration::from_secs(1), Duration::from_secs(4));
        let setup = Setup {
            outages: vec![Outage { server: 4, from, to }],
            slow_start: Some(SlowStart::new(Duration::from_secs(window))),
            ..Setup::equal(10, 0.6, REQUESTS)
        };
        let line = Line { name, points: shares(&run(&setup, make), 4) };
        let every_fifth = line.points.iter().copied().step_by(5).collect();
        print_line(&Line { points: every_fifth, ..line.clone() });
        lines.push(line);
    }
    let title = "Share of a server of ten, down from 1 s to 4 s (noticed a second later)";
    let texts = Texts { title, x: "seconds", y: "% of requests" };
    draw_lines(&charts.join("recovery.svg"), texts, &lines, (Scale::Linear, Scale::Linear))
}

/// How keys spread, and how many move when a server leaves.
pub(crate) fn keys(charts: &Path) -> Result<(), Wrong> {
    println!("\nKeys after Zipf's law (100,000), 20 servers, 60 % load\n");
    println!("| policy | max / mean | p99 (ms) | keys moved of those that need not (%) |");
    println!("| --- | --- | --- | --- |");
    let (mut names, mut spread) = (Vec::new(), Vec::new());
    let zipf = Arc::new(Zipf::new(100_000));
    for (name, make) in hashes() {
        let setup = Setup { keys: Some(Arc::clone(&zipf)), ..Setup::equal(20, 0.6, REQUESTS) };
        let outcome = run(&setup, make);
        let (most, moved) = (outcome.imbalance(&setup), moved(make) * 100.0);
        println!("| {name} | {most:.2} | {:.1} | {moved:.2} |", outcome.percentile(0.99));
        names.push(name);
        spread.push((most, moved));
    }
    let group = |value: fn(&(f64, f64)) -> f64| {
        // On a logarithmic scale, and none is worth showing as such.
        spread.iter().map(|pair| value(pair).max(0.1)).map(|value| (value, value)).collect()
    };
    let groups =
        vec![("max / mean", group(|pair| pair.0)), ("keys moved, %", group(|pair| pair.1))];
    let title = "Keys after Zipf's law: busiest server; keys moved that need not";
    let texts = Texts { title, x: "", y: "" };
    draw_bars(&charts.join("keys.svg"), texts, &Bars { names, groups, floor: 0.1 })
}

/// The share of keys that go elsewhere when one of 20 servers leaves, among those of the others.
pub(crate) fn moved(make: Make) -> f64 {
    let builder = (0..20)
        .fold(Cluster::builder("keys"), |all, i| all.backend(&format!("b{i}"), "127.0.0.1:1"));
    let (cluster, policy) = (builder.build().expect("all names differ"), make(0));
    let now = tokio::time::Instant::now().into_std();
    let places = || -> Vec<_> {
        let table = cluster.table();
        policy.preparation().inspect(|prepare| prepare.prepare(&table));
        let at = |key| policy.pick(&table, &PickContext::new(now).hash(Some(hash_of(key))));
        (0..KEYS).map(|key| at(key).map(|pick| pick.backend)).collect()
    };
    let before = places();
    let leaves = |change: &mut bartizan_balance::Change| {
        change.set_state("b7", State::Maintenance);
    };
    cluster.update_at(now, leaves).expect("b7 is a member");
    let (mut others, mut moved) = (0_u32, 0_u32);
    for (before, after) in before.iter().flatten().zip(places().iter().flatten()) {
        if &**before.name() != "b7" {
            others += 1;
            moved += u32::from(before.id() != after.id());
        }
    }
    f64::from(moved) / f64::from(others.max(1))
}

/// A line of values for each policy, printed as a table.
fn lines(
    policies: &[(&'static str, Make)],
    at: &[f64],
    value: impl Fn(f64, Make) -> f64,
) -> Vec<Line> {
    let of = |(name, make): &(&'static str, Make)| {
        let points = at.iter().map(|x| (*x, value(*x, *make))).collect();
        let line = Line { name: (*name).to_owned(), points };
        print_line(&line);
        line
    };
    policies.iter().map(of).collect()
}

fn print_line(line: &Line) {
    let points = line.points.iter().map(|(x, y)| format!("{x}: {y:.2}"));
    println!("| {} | {} |", line.name, points.collect::<Vec<_>>().join(" | "));
}

/// What a server got of all requests, in per cent, second by second.
pub(crate) fn shares(outcome: &Outcome, server: u32) -> Vec<(f64, f64)> {
    let last = outcome.given.iter().map(|(when, _)| when.as_secs()).max().unwrap_or(0);
    let mut counts = vec![(0_u32, 0_u32); last as usize];
    for (when, to) in &outcome.given {
        // The last second is not a whole one.
        if let Some((its, all)) = counts.get_mut(when.as_secs() as usize) {
            *its += u32::from(*to == server);
            *all += 1;
        }
    }
    let share = |(its, all): (u32, u32)| f64::from(its) * 100.0 / f64::from(all.max(1));
    counts.into_iter().zip(0..).map(|(count, second)| (f64::from(second), share(count))).collect()
}

/// Enough for a 99th percentile that another seed changes by a few per cent.
const REQUESTS: usize = 100_000;

/// Enough for a share of keys that is right to a fifth of a per cent.
const KEYS: usize = 50_000;
