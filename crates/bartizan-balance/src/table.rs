//! The immutable snapshot of a cluster.

use std::sync::Arc;

use crate::{Backend, BackendId};

/// The backends of a cluster at one moment, and which of them are eligible.
///
/// Members and eligibility are apart: when a check changes its mind, only the bits are made anew,
/// and whatever a policy has computed for the members stays right.
#[derive(Clone, Debug)]
pub struct Table {
    members: Arc<[Arc<Backend>]>,
    eligible: Bits,
    membership: u64,
}

impl Table {
    pub(crate) fn new(members: Arc<[Arc<Backend>]>, membership: u64) -> Self {
        let eligible = Bits::new(members.iter().map(|backend| backend.is_up()));
        Self { members, eligible, membership }
    }

    /// The same members, asked again whether they are up.
    pub(crate) fn refreshed(&self) -> Self {
        Self::new(Arc::clone(&self.members), self.membership)
    }

    /// All backends, in the order in which they were added.
    pub fn members(&self) -> &Arc<[Arc<Backend>]> {
        &self.members
    }

    /// Changes whenever [`members`](Self::members) does: what a policy keys its indexes by.
    pub fn membership(&self) -> u64 {
        self.membership
    }

    /// Whether the backend at this position may be picked; `false` past the end.
    pub fn is_eligible(&self, position: usize) -> bool {
        self.eligible.get(position)
    }

    /// How many backends may be picked.
    pub fn eligible_count(&self) -> usize {
        self.eligible.count()
    }

    /// The first eligible position at or after `start`, turning to the front once. Skips backends
    /// that are in `except`.
    ///
    /// Costs a few instructions per 64 backends that are not eligible.
    pub fn next_eligible(&self, start: usize, except: &[BackendId]) -> Option<usize> {
        let count = self.members.len();
        let start = if start < count { start } else { 0 };
        let free = |position: &usize| !except.contains(&self.members[*position].id());
        if except.is_empty() {
            return self.eligible.next(start, count).or_else(|| self.eligible.next(0, start));
        }
        let mut after = self.eligible.iter(start, count).chain(self.eligible.iter(0, start));
        after.find(free)
    }
}

/// A bit per position.
#[derive(Clone, Debug)]
struct Bits(Box<[u64]>);

impl Bits {
    fn new(bits: impl ExactSizeIterator<Item = bool>) -> Self {
        let mut words = vec![0; bits.len().div_ceil(64)];
        for (position, bit) in bits.enumerate() {
            words[position / 64] |= u64::from(bit) << (position % 64);
        }
        Self(words.into())
    }

    fn get(&self, position: usize) -> bool {
        self.0.get(position / 64).is_some_and(|word| word >> (position % 64) & 1 == 1)
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The first set bit of `start..end`.
    fn next(&self, start: usize, end: usize) -> Option<usize> {
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

    fn iter(&self, start: usize, end: usize) -> impl Iterator<Item = usize> {
        let mut from = start;
        std::iter::from_fn(move || {
            let position = self.next(from, end)?;
            from = position + 1;
            Some(position)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_next_eligible_is_what_a_walk_would_find(
            up in prop::collection::vec(any::<bool>(), 1..200),
            start in 0_usize..220,
            except in prop::collection::vec(0_usize..200, 0..4),
        ) {
            let members: Arc<[Arc<Backend>]> = up.iter().enumerate().map(|(i, up)| {
                let backend = Backend::new(format!("b{i}"), "127.0.0.1:1".parse().unwrap());
                backend.set_up(*up);
                Arc::new(backend)
            }).collect();
            let table = Table::new(Arc::clone(&members), 0);
            let except: Vec<_> = except.iter().filter_map(|i| Some(members.get(*i)?.id())).collect();
            let start_at = if start < up.len() { start } else { 0 };
            let walk = (start_at..up.len()).chain(0..start_at)
                .find(|i| up[*i] && !except.contains(&members[*i].id()));
            prop_assert_eq!(table.next_eligible(start, &except), walk);
            prop_assert_eq!(table.eligible_count(), up.iter().filter(|up| **up).count());
            prop_assert_eq!(table.is_eligible(start), up.get(start).copied().unwrap_or(false));
        }
    }

    #[test]
    fn an_empty_table_has_nothing_eligible() {
        let table = Table::new([].into(), 0);
        assert_eq!(table.next_eligible(0, &[]), None);
        assert_eq!(table.eligible_count(), 0);
    }
}
