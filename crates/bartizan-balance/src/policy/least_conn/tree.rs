//! Who has the least, kept up to date.

/// A tournament: each position has a leaf of a key and a number in the order of queueing, and each
/// node holds the lesser of its two. A change costs as many steps as the tree is deep.
#[derive(Debug, Default)]
pub(super) struct Tree {
    // The root at 1, the children of `n` at `2n` and `2n + 1`, the leaves from `leaves` on.
    nodes: Vec<u64>,
    leaves: usize,
    number: u32,
}

impl Tree {
    /// `len` positions, of which none takes part.
    pub(super) fn new(len: usize) -> Self {
        let leaves = len.next_power_of_two();
        Self { nodes: vec![OUT; leaves * 2], leaves, number: 0 }
    }

    /// The leaf of a position, to be [put](Self::put) back.
    pub(super) fn leaf(&self, position: usize) -> u64 {
        self.nodes.get(self.leaves + position).copied().unwrap_or(OUT)
    }

    /// Queues a position behind all of the same key.
    pub(super) fn queue(&mut self, position: usize, key: u32) {
        let leaf = u64::from(key) << 32 | u64::from(self.number);
        self.number += 1;
        self.put(position, leaf);
    }

    /// Sets a leaf, and what depends on it.
    pub(super) fn put(&mut self, position: usize, leaf: u64) {
        let mut at = self.leaves + position;
        let Some(node) = self.nodes.get_mut(at) else { return };
        *node = leaf;
        while at > 1 {
            at /= 2;
            let least = self.nodes[2 * at].min(self.nodes[2 * at + 1]);
            if self.nodes[at] == least {
                return;
            }
            self.nodes[at] = least;
        }
    }

    /// The position of the least key that has been queued the longest.
    pub(super) fn least(&self) -> Option<usize> {
        let least = self.nodes.get(1).copied().filter(|least| *least != OUT)?;
        let mut at = 1;
        while at < self.leaves {
            at *= 2;
            at += usize::from(self.nodes[at] != least);
        }
        Some(at - self.leaves)
    }

    /// Numbers from 0 on again, in the same order, if there may not be enough numbers for another
    /// round of changes.
    pub(super) fn renumber(&mut self) {
        if self.number < RENUMBER {
            return;
        }
        let mut order: Vec<_> =
            (0..self.leaves).filter(|position| self.leaf(*position) != OUT).collect();
        order.sort_by_key(|position| self.leaf(*position));
        self.number = 0;
        for position in order {
            self.queue(position, key_of(self.leaf(position)));
        }
    }

    #[cfg(test)]
    pub(super) fn set_number(&mut self, number: u32) {
        self.number = number;
    }
}

/// The key in a leaf.
pub(super) fn key_of(leaf: u64) -> u32 {
    (leaf >> 32) as u32
}

/// The leaf of who does not take part; above all others, because no key is `u32::MAX`.
pub(super) const OUT: u64 = u64::MAX;

/// Leaves more numbers than there can be positions, each of which a single pick may queue.
const RENUMBER: u32 = u32::MAX / 2;
