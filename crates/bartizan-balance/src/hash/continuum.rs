//! Points on a circle of 2^32, each owned by a backend.

use super::index::Index;

/// Looked up by the leading bits of a place, then by a short walk.
#[derive(Debug)]
pub(super) struct Continuum {
    points: Box<[Point]>,
    // For each bucket of places with the same leading bits, the first point at or after its start.
    starts: Box<[u32]>,
    shift: u32,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    at: u32,
    owner: u32,
}

impl Continuum {
    /// `points`: place and owner. Of several at the same place, the owner that `rank`s first is
    /// first.
    pub(super) fn new<R: Ord>(
        points: impl Iterator<Item = (u32, u32)>,
        rank: impl Fn(u32) -> R,
    ) -> Self {
        // As one number each, because that sorts in half the time.
        let mut packed: Vec<u64> =
            points.map(|(at, owner)| u64::from(at) << 32 | u64::from(owner)).collect();
        packed.sort_unstable();
        let mut points: Box<[Point]> = packed
            .into_iter()
            .map(|packed| Point { at: (packed >> 32) as u32, owner: packed as u32 })
            .collect();
        for same in points.chunk_by_mut(|a, b| a.at == b.at) {
            // Positions differ between machines, and what ranks does not.
            same.sort_unstable_by_key(|point| rank(point.owner));
        }
        let bits = (points.len() / POINTS_PER_BUCKET).max(1).ilog2();
        let shift = u32::BITS - bits;
        let mut next = 0;
        let start = |bucket: u64| {
            while points.get(next).is_some_and(|point| u64::from(point.at) < bucket << shift) {
                next += 1;
            }
            next as u32
        };
        let starts = (0..1 << bits).map(start).collect();
        Self { points, starts, shift }
    }

    /// The index of the first point at or after this place; that of the first of all, if there is
    /// none.
    #[inline]
    fn first(&self, at: u32) -> usize {
        let bucket = (u64::from(at) >> self.shift) as usize;
        let mut index = self.starts.get(bucket).map_or(0, |start| *start as usize);
        while self.points.get(index).is_some_and(|point| point.at < at) {
            index += 1;
        }
        if index < self.points.len() { index } else { 0 }
    }
}

impl Index for Continuum {
    fn preferred(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (before, from) = self.points.split_at(self.first(hash as u32));
        from.iter().chain(before).map(|point| point.owner as usize)
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.points) + size_of_val(&*self.starts)
    }
}

/// A bucket's points lie in one or two cache lines, and the buckets take an eighth of the memory.
const POINTS_PER_BUCKET: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_place_leads_to_the_next_points_around_the_circle(
            places in prop::collection::vec(0_u32..64, 0..40),
            scale in prop::sample::select(vec![1_u32, 1 << 24, u32::MAX / 63]),
            at in 0_u32..64,
        ) {
            let at = at * scale;
            let points = places.iter().map(|place| place * scale).zip(0..);
            // Ranked against the order of the numbers.
            let rank = |owner: u32| std::cmp::Reverse(owner);
            let circle = Continuum::new(points.clone(), rank);
            let mut expected: Vec<_> = points.collect();
            expected.sort_by_key(|(place, owner)| (*place < at, *place, rank(*owner)));
            let expected: Vec<_> = expected.iter().map(|(_, owner)| *owner as usize).collect();
            prop_assert_eq!(circle.preferred(u64::from(at)).collect::<Vec<_>>(), expected);
        }
    }
}
