//! The less busy of two that are drawn.

use super::chance::Chance;
use crate::{Pick, PickContext, Policy, Reason, Table};

/// Draws two backends by weight, and takes the one with less to do in relation to its weight.
///
/// Two choices instead of one bring the busiest of `n` backends down from about `ln n / ln ln n` to
/// `ln ln n / ln 2` above the mean (Mitzenmacher, "The power of two choices in randomized load
/// balancing", 2001), and unlike [`LeastConn`](crate::LeastConn) it neither needs an index nor sends
/// everybody to a backend that has just come back. Choose it for clusters of more than a few
/// backends, and wherever several balancers share them.
///
/// What is compared is what is in flight and waits there, times the weight of the other one. Among
/// equals it is the first draw, so that an idle cluster is used exactly by weight: a comparison that
/// settles ties by weight would give heavy backends more than that (tower#696).
///
/// | | differs in |
/// | --- | --- |
/// | HAProxy `random(2)`, its default | draws from a ring of hashes; a tie goes by the rate of sessions; a full winner makes the request wait |
/// | nginx `random two` | draws two different ones |
/// | Envoy `LEAST_REQUEST` | draws two by chance alone only if all weigh the same |
///
/// Cost: one atomic addition, one search among the different weights, and one look at a backend for
/// each draw.
#[derive(Debug)]
pub struct PowerOfTwo {
    chance: Chance,
    draws: u32,
}

impl PowerOfTwo {
    /// With a seed of its own, so that workers differ.
    pub fn new() -> Self {
        Self { chance: Chance::new(), draws: 2 }
    }

    /// Chooses the same again, under the same seed, with the same tables and loads.
    pub fn seeded(seed: u64) -> Self {
        Self { chance: Chance::seeded(seed), draws: 2 }
    }

    /// Compares so many draws; 0 counts as 1, which is [`Random`](crate::Random). Default: 2.
    ///
    /// More come nearer to the least busy one of all, and make those who choose at the same time
    /// more likely to choose the same.
    pub fn draws(self, draws: u32) -> Self {
        Self { draws: draws.max(1), ..self }
    }
}

impl Default for PowerOfTwo {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for PowerOfTwo {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let better = |one: usize, other: usize| {
            // A load of 2^52 requests would overflow, and there is no memory for that.
            let product = |load: usize, weight: usize| {
                (self::load(table, load) as u64).saturating_mul(u64::from(table.share(weight)))
            };
            product(one, other) < product(other, one)
        };
        let (position, rejected) = self.chance.choose(table, context, self.draws, better)?;
        let backend = table.members().get(position)?.clone();
        let reason = Reason::Least { load: load(table, position), weight: table.share(position) };
        Some(Pick::new(backend, "p2c", reason).rejected(rejected))
    }
}

fn load(table: &Table, position: usize) -> usize {
    table.members().get(position).map_or(0, |member| member.in_flight() + member.queued())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{
        backend, cluster, leased, never_picks_what_it_may_not, now, repeats_under_a_seed,
        shares_come_near_the_weights,
    };
    use crate::{Lease, Why};

    #[test]
    fn an_idle_cluster_is_used_by_weight() {
        shares_come_near_the_weights(&PowerOfTwo::seeded(7));
        shares_come_near_the_weights(&PowerOfTwo::seeded(7).draws(5));
    }

    #[test]
    fn p2c_repeats_itself_under_a_seed() {
        repeats_under_a_seed(PowerOfTwo::seeded);
    }

    #[test]
    fn p2c_never_picks_what_it_may_not() {
        never_picks_what_it_may_not(PowerOfTwo::new);
        never_picks_what_it_may_not(|| PowerOfTwo::new().draws(0));
    }

    #[test]
    fn with_many_draws_the_least_busy_for_its_weight_is_chosen() {
        let web = cluster([backend(0), backend(1).with_weight(4), backend(2)]);
        let table = web.table();
        let take = |position: usize| Lease::new(table.members()[position].clone());
        let _busy = [take(0), take(1), take(1), take(1), take(2), take(2)];
        let pick = PowerOfTwo::seeded(1).draws(100).pick(&table, &PickContext::new(now())).unwrap();
        assert_eq!(pick.reason, Reason::Least { load: 3, weight: 64 });
        assert_eq!((pick.rank, pick.rejected.count()), (0, 2));
        assert!(pick.rejected.iter().all(|rejection| rejection.why == Why::Busier));
    }

    #[test]
    fn two_choices_keep_the_busiest_near_the_mean() {
        let web = cluster((0..50).map(backend));
        let busiest = |policy: &dyn Policy| {
            let _leases = leased(policy, &web, 500);
            web.table().members().iter().map(|member| member.in_flight()).max().unwrap()
        };
        let (two, one) = (PowerOfTwo::seeded(3), PowerOfTwo::seeded(3).draws(1));
        // 10 each would be even.
        assert!(busiest(&two) <= 13, "{}", busiest(&two));
        assert!(busiest(&one) > 13, "one draw is no choice");
    }
}
