//! Any backend, by weight.

use super::chance::Chance;
use crate::{Pick, PickContext, Policy, Reason, Table};

/// Draws a backend, each as likely as its weight says.
///
/// It needs no knowledge of what others do, so many balancers in front of the same backends do not
/// fall into step. Choose [`PowerOfTwo`](crate::PowerOfTwo) where loads can be seen: it costs a few
/// nanoseconds more, and its busiest backend has far less to do.
///
/// HAProxy's `random(1)`, nginx' `random` and Envoy's `RANDOM` mean the same; Envoy's ignores
/// weights. HAProxy draws from a ring of hashes, so that its shares only come near the weights;
/// these are exact.
///
/// A backend that may not be picked is drawn anew, at most eight times; then the next one that may
/// is taken. Costs one atomic addition, a search among the different weights, and the answer.
#[derive(Debug)]
pub struct Random {
    chance: Chance,
}

impl Random {
    /// With a seed of its own, so that workers differ.
    pub fn new() -> Self {
        Self { chance: Chance::new() }
    }

    /// Chooses the same again, under the same seed and with the same tables.
    pub fn seeded(seed: u64) -> Self {
        Self { chance: Chance::seeded(seed) }
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for Random {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let (position, rejected) = self.chance.choose(table, context, 1, |_, _| false)?;
        let backend = table.members().get(position)?.clone();
        Some(Pick::new(backend, "random", Reason::Drawn).rejected(rejected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::{
        backend, cluster, never_picks_what_it_may_not, now, picks, repeats_under_a_seed,
        shares_come_near_the_weights,
    };
    use crate::{Why, backend::BackendId};

    #[test]
    fn random_honours_weights() {
        shares_come_near_the_weights(&Random::seeded(7));
    }

    #[test]
    fn random_repeats_itself_under_a_seed() {
        repeats_under_a_seed(Random::seeded);
    }

    #[test]
    fn random_never_picks_what_it_may_not() {
        never_picks_what_it_may_not(Random::new);
    }

    #[test]
    fn finds_the_one_that_is_left_though_it_is_hardly_ever_drawn() {
        let web = cluster([backend(0).with_weight(256), backend(1), backend(2).with_weight(256)]);
        let table = web.table();
        let id = |position: usize| -> BackendId { table.members()[position].id() };
        let tried = [id(0), id(2)];
        for seed in 0..50 {
            let context = PickContext::new(now()).tried(&tried);
            let pick = Random::seeded(seed).pick(&table, &context).unwrap();
            assert_eq!(pick.backend.id(), id(1));
            assert!(pick.rejected.count() <= 2, "each is counted once");
            assert!(pick.rejected.iter().all(|rejection| rejection.why == Why::Tried));
        }
    }

    #[test]
    fn two_workers_choose_differently() {
        let web = cluster((0..64).map(backend));
        assert_ne!(picks(&Random::new(), &web, 20), picks(&Random::new(), &web, 20));
    }
}
