//! A binary tree over backends, by the bits of the hashes of their names.

use super::index::Entry;
use super::nth;

/// Without nodes that have one side only.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: Box<[Node]>,
    root: Option<Side>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    // Keys whose number is below this go left: the left side's part of the weight, of 2^64.
    left_below: u64,
    left: Side,
    right: Side,
    // The bit in which the sides differ; it numbers the hash that is drawn with.
    level: u32,
}

/// The number of a node, or, with the highest bit set, the position of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side(u32);

impl Tree {
    pub(super) fn new(entries: &[Entry<'_>]) -> Self {
        let mut entries = entries.to_vec();
        // Stable: of two names with the same hash, the smaller one stays first.
        entries.sort_by_key(|entry| entry.seed);
        let mut nodes = Vec::with_capacity(entries.len().saturating_sub(1));
        let root = grow(&mut nodes, &entries).map(|(root, _)| root);
        Self { nodes: nodes.into(), root }
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.nodes)
    }

    /// Where a hash leads; nowhere, if there are no backends.
    #[inline]
    pub(super) fn leaf(&self, hash: u64) -> Option<usize> {
        let mut side = self.root?;
        while side.0 & LEAF == 0 {
            let node = self.nodes.get(side.0 as usize)?;
            // By the level and not by the node: a key sees one node of each level.
            let left = nth(hash, u64::from(node.level)) < node.left_below;
            side = if left { node.left } else { node.right };
        }
        Some((side.0 & !LEAF) as usize)
    }
}

/// Adds the nodes over these entries, and returns the topmost one and its weight.
fn grow(nodes: &mut Vec<Node>, entries: &[Entry<'_>]) -> Option<(Side, u64)> {
    let (first, last) = (entries.first()?, entries.last()?);
    if entries.len() == 1 {
        return Some((Side(first.position | LEAF), u64::from(first.weight)));
    }
    let differ = (first.seed ^ last.seed).leading_zeros();
    let (level, middle) = match differ < u64::BITS {
        true => {
            let bit = 1 << (u64::BITS - 1 - differ);
            (differ, entries.partition_point(|entry| entry.seed & bit == 0))
        }
        // Names with the same hash: by halves, at levels that each number of them has for itself.
        false => (u64::BITS + entries.len() as u32, entries.len() / 2),
    };
    let place = nodes.len();
    let unknown = Side(0);
    nodes.push(Node { left_below: 0, left: unknown, right: unknown, level });
    let (left, left_weight) = grow(nodes, &entries[..middle])?;
    let (right, right_weight) = grow(nodes, &entries[middle..])?;
    let weight = left_weight + right_weight;
    let left_below = ((u128::from(left_weight) << 64) / u128::from(weight)) as u64;
    nodes[place] = Node { left_below, left, right, level };
    Some((Side(place as u32), weight))
}

const LEAF: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(position: u32, seed: u64) -> Entry<'static> {
        Entry { position, name: "", seed, weight: 1 }
    }

    #[test]
    fn leads_to_all_of_several_names_with_the_same_hash() {
        let tree = Tree::new(&[entry(0, 7), entry(1, 7), entry(2, 7), entry(3, 9)]);
        let mut counts = [0; 4];
        for n in 0..4_000 {
            counts[tree.leaf(nth(1, n)).unwrap()] += 1;
        }
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{counts:?}");
    }

    #[test]
    fn has_no_leaves_without_backends() {
        assert_eq!(Tree::new(&[]).leaf(1), None);
    }
}
