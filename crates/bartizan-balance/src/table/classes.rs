//! Eligible backends, ordered by weight.

use std::sync::Arc;

use super::Bits;

/// Eligible backends of the same weight.
///
/// There are far fewer weights than backends, so a policy that treats what weighs the same alike
/// has little to keep: its state and its cost grow with the number of different weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightClass {
    weight: u32,
    first: u32,
    len: u32,
    // What all classes before it weigh.
    before: u64,
    // 2^64 by the weight, rounded up: divides by a multiplication, which takes a tenth of the time.
    inverse: u64,
}

impl WeightClass {
    fn new(weight: u32, first: u32, len: u32, before: u64) -> Self {
        let inverse = (u64::MAX / u64::from(weight.max(1))).saturating_add(1);
        Self { weight, first, len, before, inverse }
    }

    /// What each of them weighs, in sixteenths; never 0.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// How many there are; never 0.
    pub fn count(&self) -> usize {
        self.len as usize
    }

    /// What all of them weigh, in sixteenths.
    pub fn total(&self) -> u64 {
        u64::from(self.weight) * u64::from(self.len)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Classes {
    // Positions of eligible backends: by weight, the heavy ones first, then by position.
    order: Arc<[u32]>,
    classes: Arc<[WeightClass]>,
    total: u64,
}

impl Classes {
    pub(super) fn new(eligible: &Bits, weights: &[u32]) -> Self {
        let weight = |position: &u32| weights.get(*position as usize).copied().unwrap_or(0);
        let mut order: Vec<u32> =
            eligible.iter(0, weights.len()).map(|position| position as u32).collect();
        // Nearly always they all weigh the same.
        let first = order.first().map(weight);
        if order.iter().any(|position| Some(weight(position)) != first) {
            order.sort_by_key(|position| std::cmp::Reverse(weight(position)));
        }
        let mut classes = Vec::new();
        let (mut start, mut before) = (0, 0);
        for same in order.chunk_by(|a, b| weight(a) == weight(b)) {
            let len = same.len() as u32;
            let class = WeightClass::new(weight(&same[0]), start, len, before);
            start += len;
            before += class.total();
            classes.push(class);
        }
        Self { order: order.into(), classes: classes.into(), total: before }
    }

    pub(super) fn all(&self) -> &[WeightClass] {
        &self.classes
    }

    pub(super) fn positions(&self, class: &WeightClass) -> &[u32] {
        let first = class.first as usize;
        self.order.get(first..first + class.len as usize).unwrap_or(&[])
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn draw(&self, random: u64) -> Option<usize> {
        // The high half of a product maps evenly, but for what 2^64 leaves over.
        let onto = |total: u64| ((u128::from(random) * u128::from(total)) >> 64) as u64;
        let (class, index) = match &*self.classes {
            [one] => (one, onto(u64::from(one.len))),
            several => {
                let at = onto(self.total);
                let class = several.get(several.partition_point(|class| class.before <= at) - 1)?;
                // Exact: what is divided is below 2^45, and the inverse is off by less than 2^-51 of
                // itself.
                let index = (u128::from(at - class.before) * u128::from(class.inverse)) >> 64;
                (class, index as u64)
            }
        };
        let position = self.order.get(class.first as usize + index as usize)?;
        Some(*position as usize)
    }
}
