//! What is simulated.

use std::sync::Arc;
use std::time::Duration;

use bartizan_balance::SlowStart;

use crate::chance::{Work, Zipf};

/// The scene of a run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) servers: Vec<Server>,
    /// What arrives, in relation to what all servers together can do.
    pub(crate) load: f64,
    pub(crate) work: Work,
    pub(crate) requests: usize,
    /// Balancers that do not see each other's counts. Each request goes to one of them by chance.
    pub(crate) balancers: usize,
    pub(crate) outages: Vec<Outage>,
    /// How long it takes balancers to notice that a server is down, or up again.
    pub(crate) detection: Duration,
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) keys: Option<Arc<Zipf>>,
}

/// A server, of which balancers know the weight alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) speed: f64,
    pub(crate) weight: u16,
}

/// A time during which a server refuses connections, having broken those that it had.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    pub(crate) server: usize,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Setup {
    /// Equal servers, and one balancer.
    pub(crate) fn equal(servers: usize, load: f64, requests: usize) -> Self {
        Self {
            seed: SEED,
            servers: vec![Server { speed: 1.0, weight: 1 }; servers],
            load,
            work: Work::Exponential,
            requests,
            balancers: 1,
            outages: Vec::new(),
            detection: Duration::from_secs(1),
            slow_start: None,
            keys: None,
        }
    }

    /// How many requests arrive a second.
    pub(crate) fn rate(&self) -> f64 {
        let speed: f64 = self.servers.iter().map(|server| server.speed).sum();
        self.load * speed * PROCESSORS as f64 / MEAN_WORK
    }
}

/// The scenes that policies are compared in.
pub(crate) fn scenes(requests: usize) -> Vec<(&'static str, Setup)> {
    let equal = Setup::equal(SERVERS, LOAD, requests);
    let mixed = (0..SERVERS).map(|i| [1, 2, 4][i % 3]);
    let mixed = mixed.map(|weight| Server { speed: f64::from(weight), weight });
    let mut one_slow = equal.clone();
    one_slow.servers[3].speed = 0.2;
    let outage = |server, from, to| Outage {
        server,
        from: Duration::from_secs(from),
        to: Duration::from_secs(to),
    };
    let failing = Setup {
        outages: vec![outage(3, 2, 5), outage(11, 4, 7), outage(3, 9, 12)],
        slow_start: Some(SlowStart::new(Duration::from_secs(2))),
        ..equal.clone()
    };
    vec![
        ("equal", equal.clone()),
        ("1:2:4", Setup { servers: mixed.collect(), ..equal.clone() }),
        ("one slow", one_slow),
        ("failing", failing),
        ("heavy tail", Setup { work: Work::HeavyTail, ..equal.clone() }),
        ("6 balancers", Setup { balancers: 6, ..equal }),
    ]
}

/// How many requests a server works at at a time; others wait for it in the order of arrival.
pub(crate) const PROCESSORS: usize = 4;

/// What a request takes a server of speed 1, in seconds.
pub(crate) const MEAN_WORK: f64 = 0.01;

const SERVERS: usize = 21;

/// Enough for queues to form, and not so much that they hide what the policies do.
const LOAD: f64 = 0.7;

const SEED: u64 = 20;
