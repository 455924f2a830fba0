//! Chance that is cheap, shared by threads, and the same again under the same seed.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use super::passed::Passed;
use super::{PickContext, Rejected};
use crate::Table;
use crate::splitmix::{GAMMA, mix};

/// Splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): a
/// counter whose values are mixed. Threads that draw at once get different numbers of one sequence.
#[derive(Debug)]
pub(super) struct Chance(AtomicU64);

impl Chance {
    /// Differs from one to the next, so that workers do not all choose alike.
    pub(super) fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(0_u8))
    }

    pub(super) fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    pub(super) fn next(&self) -> u64 {
        mix(self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA))
    }

    /// Two numbers for the price of one: what takes time is to write what threads share.
    fn next_two(&self) -> [u64; 2] {
        let state = self.0.fetch_add(GAMMA.wrapping_mul(2), Ordering::Relaxed);
        [mix(state.wrapping_add(GAMMA)), mix(state.wrapping_add(GAMMA.wrapping_mul(2)))]
    }

    /// Draws, by weight, up to `draws` backends that may be picked, and keeps the one that no other
    /// is `better` than; among equals, the first.
    ///
    /// Who may not be picked is drawn anew, a few times. If chance has found nobody by then, it is
    /// the first that may be picked behind the one drawn last, so that there is an answer whenever
    /// there can be one.
    pub(super) fn choose(
        &self,
        table: &Table,
        context: &PickContext<'_>,
        draws: u32,
        better: impl Fn(usize, usize) -> bool,
    ) -> Option<(usize, Rejected)> {
        let [one, other] = if draws == 2 { self.next_two() } else { [self.next(); 2] };
        let first = table.draw(one)?;
        let second = if draws == 2 { table.draw(other)? } else { first };
        // Nearly always both may be picked, and there is nothing to be remembered of the way.
        let at_once = draws <= 2
            && table.check(first, context).is_ok()
            && (second == first || table.check(second, context).is_ok());
        if !at_once {
            return self.look_around(table, context, draws, better);
        }
        let (chosen, loser) = if second != first && better(second, first) {
            (second, first)
        } else {
            (first, second)
        };
        let mut rejected = Rejected::default();
        if loser != chosen {
            rejected.note_worse(table.members().get(loser)?.id(), super::Why::Busier);
        }
        Some((chosen, rejected))
    }

    #[cold]
    fn look_around(
        &self,
        table: &Table,
        context: &PickContext<'_>,
        draws: u32,
        better: impl Fn(usize, usize) -> bool,
    ) -> Option<(usize, Rejected)> {
        let (mut passed, mut best) = (Passed::default(), None);
        let (mut left, mut redraws, mut last) = (draws.max(1), REDRAWS, 0);
        while left > 0 && redraws > 0 {
            last = table.draw(self.next())?;
            if let Err(why) = table.check(last, context) {
                passed.better(table, last, why);
                redraws -= 1;
                continue;
            }
            left -= 1;
            let loser = match best {
                Some(other) if other == last => None,
                Some(other) if better(last, other) => best.replace(last),
                Some(_) => Some(last),
                None => best.replace(last),
            };
            if let Some(loser) = loser {
                passed.worse(table, loser, super::Why::Busier);
            }
        }
        let chosen = best.or_else(|| {
            table.eligible_from(last + 1).find(|position| match table.check(*position, context) {
                Ok(()) => true,
                Err(why) => {
                    passed.better(table, *position, why);
                    false
                }
            })
        });
        Some((chosen?, passed.into_rejected()))
    }
}

/// Half of the weight gone leaves one pick of 256 to the walk. More would make a pick in a cluster
/// that is nearly full dearer than the walk itself.
const REDRAWS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64() {
        // The published first outputs of the generator for the seed 1234567.
        let chance = Chance::seeded(1_234_567);
        let numbers: Vec<_> = (0..3).map(|_| chance.next()).collect();
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn two_that_are_not_seeded_differ() {
        assert_ne!(Chance::new().next(), Chance::new().next());
    }
}
