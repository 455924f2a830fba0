//! Backends as hashes know them, and exact rendezvous hashing among them.

use std::f64::consts::{LN_2, SQRT_2};

use twox_hash::XxHash3_64;

use super::mix;
use crate::Table;

/// The members of a table by position: what they are called, as a hash, and what they weigh.
#[derive(Debug)]
pub(super) struct Roster {
    seats: Box<[Seat]>,
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    seed: u64,
    weight: f64,
}

impl Roster {
    pub(super) fn new(table: &Table) -> Self {
        let seat = |(position, member): (usize, &std::sync::Arc<crate::Backend>)| Seat {
            seed: seed(member.name()),
            weight: f64::from(table.weight(position)),
        };
        Self { seats: table.members().iter().enumerate().map(seat).collect() }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.seats)
    }

    /// A hash of the key for this backend, independent of the one that ranks it.
    pub(super) fn warming_hash(&self, position: usize, hash: u64) -> u64 {
        let seed = self.seats.get(position).map_or(0, |seat| seat.seed);
        mix(hash ^ seed.rotate_left(32) ^ WARMING)
    }

    /// Who comes first for this key among those that `takes` it, and its cost.
    pub(super) fn best(
        &self,
        hash: u64,
        mut takes: impl FnMut(usize) -> bool,
    ) -> Option<(usize, f64)> {
        let (mut best, mut least) = (None, f64::INFINITY);
        for (position, seat) in self.seats.iter().enumerate() {
            if let Some(cost) = seat.cost_below(hash, least)
                && takes(position)
            {
                (best, least) = (Some((position, cost)), cost);
            }
        }
        best
    }

    /// Who comes before the one with this cost, the first one first.
    pub(super) fn before(&self, hash: u64, cost: f64) -> impl Iterator<Item = usize> {
        let seats = self.seats.iter().enumerate();
        let mut before: Vec<_> = seats
            .filter_map(|(position, seat)| Some((seat.cost_below(hash, cost)?, position)))
            .collect();
        before.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        before.into_iter().map(|(_, position)| position)
    }
}

impl Seat {
    /// Uniform in (0, 1): the odd multiples of 2^-53.
    #[inline]
    fn uniform(&self, hash: u64) -> f64 {
        // From bits, because a conversion takes several times as long.
        f64::from_bits(mix(hash ^ self.seed) >> 12 | 1.0_f64.to_bits()) - (1.0 - f64::EPSILON / 2.0)
    }

    /// −ln u ⁄ w, if that is below `most`: the smallest wins, each with the probability that its
    /// weight is of all.
    #[inline]
    fn cost_below(&self, hash: u64, most: f64) -> Option<f64> {
        let uniform = self.uniform(hash);
        // −ln u is above 1 − u, so the logarithm is only for those that have a chance: about
        // ln n of n. A weight of 0 has none: 0 times infinity is no number, and compares false.
        if 1.0 - uniform < most * self.weight {
            Some(-ln(uniform) / self.weight).filter(|cost| *cost < most)
        } else {
            None
        }
    }
}

/// What a name is to the hashes.
pub(super) fn seed(name: &str) -> u64 {
    XxHash3_64::oneshot(name.as_bytes())
}

/// The natural logarithm of a positive normal number.
///
/// By basic operations, which IEEE 754 defines to the last bit: that of the standard library differs
/// from platform to platform, and the mapping has to be the same on all.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as f64 - 1_023.0;
    let mut fraction = f64::from_bits(bits & FRACTION | 1.0_f64.to_bits());
    if fraction > SQRT_2 {
        fraction /= 2.0;
        exponent += 1.0;
    }
    // ln m = 2 artanh s.
    let s = (fraction - 1.0) / (fraction + 1.0);
    let series = ARTANH.iter().rev().fold(0.0, |sum, term| sum * (s * s) + term);
    exponent * LN_2 + 2.0 * s * series
}

/// The series of artanh s ⁄ s in s²: s is below 0.172, so 11 terms reach the last bit.
const ARTANH: [f64; 11] = [
    1.0,
    1.0 / 3.0,
    1.0 / 5.0,
    1.0 / 7.0,
    1.0 / 9.0,
    1.0 / 11.0,
    1.0 / 13.0,
    1.0 / 15.0,
    1.0 / 17.0,
    1.0 / 19.0,
    1.0 / 21.0,
];

const FRACTION: u64 = (1 << 52) - 1;

/// Sets the hash for slow start apart; any number does.
const WARMING: u64 = 0x5741_524d_494e_4721;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_to_the_last_digits() {
        let mut x = f64::EPSILON / 2.0;
        while x < 1.0 {
            for x in [x, x * 1.3, x * SQRT_2, 1.0 - x] {
                let difference = (ln(x) - x.ln()).abs();
                assert!(difference <= x.ln().abs() * 1e-15, "ln {x}: off by {difference:e}");
            }
            x *= 1.7;
        }
    }
}
