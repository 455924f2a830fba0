//! The policies that are compared.

use bartizan_balance::{
    BalanceFactor, LeastConn, Maglev, PeakEwma, Policy, PowerOfTwo, Random, Rendezvous, RingHash,
    RoundRobin,
};

/// Makes a policy for the balancer with this number.
pub(crate) type Make = fn(balancer: usize) -> Box<dyn Policy>;

/// Policies of load, in the order in which charts show them.
pub(crate) fn policies() -> Vec<(&'static str, Make)> {
    vec![
        ("roundrobin", |balancer| Box::new(RoundRobin::starting_at(balancer))),
        ("leastconn", |_| Box::new(LeastConn::new())),
        ("random", |balancer| Box::new(Random::seeded(balancer as u64))),
        ("p2c", |balancer| Box::new(PowerOfTwo::seeded(balancer as u64))),
        ("ewma", |balancer| Box::new(PeakEwma::seeded(balancer as u64))),
    ]
}

/// Policies of keys, and beside them round robin, which knows no keys.
pub(crate) fn hashes() -> Vec<(&'static str, Make)> {
    vec![
        ("roundrobin", |balancer| Box::new(RoundRobin::starting_at(balancer))),
        ("ring", |_| Box::new(RingHash::new())),
        ("ring 125", |_| Box::new(RingHash::new().bounded(FACTOR))),
        ("maglev", |_| Box::new(Maglev::new())),
        ("maglev 125", |_| Box::new(Maglev::new().bounded(FACTOR))),
        ("rendezvous", |_| Box::new(Rendezvous::new())),
        ("rendezvous 125", |_| Box::new(Rendezvous::new().bounded(FACTOR))),
    ]
}

const FACTOR: BalanceFactor = BalanceFactor::percent(125);
