//! A bit per position.

use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) struct Bits(Arc<[u64]>);

impl Bits {
    pub(super) fn new(bits: impl ExactSizeIterator<Item = bool>) -> Self {
        let mut words = vec![0; bits.len().div_ceil(64)];
        for (position, bit) in bits.enumerate() {
            words[position / 64] |= u64::from(bit) << (position % 64);
        }
        Self(words.into())
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    pub(super) fn get(&self, position: usize) -> bool {
        self.0.get(position / 64).is_some_and(|word| word >> (position % 64) & 1 == 1)
    }

    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The first set bit of `start..end`.
    pub(super) fn next(&self, start: usize, end: usize) -> Option<usize> {
        let mut at = start / 64;
        let mut word = self.0.get(at)? & (u64::MAX << (start % 64));
        loop {
            if word != 0 {
                let position = at * 64 + word.trailing_zeros() as usize;
                return (position < end).then_some(position);
            }
            at += 1;
            if at * 64 >= end {
                return None;
            }
            word = *self.0.get(at)?;
        }
    }

    pub(super) fn iter(&self, start: usize, end: usize) -> impl Iterator<Item = usize> {
        let mut from = start;
        std::iter::from_fn(move || {
            let position = self.next(from, end)?;
            from = position + 1;
            Some(position)
        })
    }
}
