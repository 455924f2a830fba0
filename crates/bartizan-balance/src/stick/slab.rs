//! Entries in the order of their last refresh.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::counters::Layout;
use super::stored::SlabKey;
use crate::BackendId;

/// Entries of one kind of key, linked from the newest to the oldest by their places.
///
/// An entry stays in its place until it is removed, so places are safe to walk along in steps.
pub(super) struct Slab<K> {
    nodes: Vec<Node<K>>,
    index: HashTable<u32>,
    // Of each place, as many as the layout has.
    words: Vec<u64>,
    newest: u32,
    oldest: u32,
    free: u32,
    // What the keys have on the heap, in bytes.
    heap: usize,
}

#[derive(Debug)]
struct Node<K> {
    key: K,
    // When it was refreshed, or `FREE`.
    stamp: u64,
    backend: Option<BackendId>,
    newer: u32,
    // Of a free place: the next free one.
    older: u32,
}

/// What may be changed of an entry.
#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) backend: &'a mut Option<BackendId>,
    pub(super) words: &'a mut [u64],
}

/// What there is to read of an entry.
#[derive(Debug)]
pub(super) struct Read<'a, K> {
    pub(super) key: &'a K,
    pub(super) stamp: u64,
    pub(super) backend: Option<BackendId>,
    pub(super) words: &'a [u64],
}

impl<K: SlabKey> Slab<K> {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            index: HashTable::new(),
            words: Vec::new(),
            newest: NONE,
            oldest: NONE,
            free: NONE,
            heap: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    /// How many places there are, taken and free.
    pub(super) fn places(&self) -> u32 {
        self.nodes.len() as u32
    }

    pub(super) fn find(&self, key: &K, hash: u64) -> Option<u32> {
        self.index.find(hash, |at| self.node(*at).key == *key).copied()
    }

    pub(super) fn read(&self, at: u32, layout: &Layout) -> Option<Read<'_, K>> {
        let node = self.nodes.get(at as usize).filter(|node| node.stamp != FREE)?;
        let words = &self.words[layout.range(at)];
        Some(Read { key: &node.key, stamp: node.stamp, backend: node.backend, words })
    }

    pub(super) fn view(&mut self, at: u32, layout: &Layout) -> View<'_> {
        let backend = &mut self.nodes[at as usize].backend;
        View { backend, words: &mut self.words[layout.range(at)] }
    }

    pub(super) fn stamp(&self, at: u32) -> u64 {
        self.node(at).stamp
    }

    /// The oldest entry, and when it was refreshed.
    pub(super) fn oldest(&self) -> Option<(u32, u64)> {
        (self.oldest != NONE).then(|| (self.oldest, self.node(self.oldest).stamp))
    }

    /// Makes it the newest.
    pub(super) fn refresh(&mut self, at: u32, now: u64) {
        if self.newest != at {
            self.unlink(at);
            self.link(at, now);
        } else {
            let node = self.node_mut(at);
            node.stamp = now.max(node.stamp);
        }
    }

    /// Adds an entry that is not there yet.
    pub(super) fn insert(
        &mut self,
        key: K,
        hash: u64,
        now: u64,
        layout: &Layout,
        hasher: &RandomState,
    ) -> u32 {
        self.heap += key.heap();
        let node = Node { key, stamp: now, backend: None, newer: NONE, older: NONE };
        let at = self.take_place(node, layout);
        layout.start(&mut self.words[layout.range(at)], now);
        let nodes = &self.nodes;
        self.index.insert_unique(hash, at, |at| hasher.hash_one(&nodes[*at as usize].key));
        self.link(at, now);
        at
    }

    pub(super) fn remove(&mut self, at: u32, hasher: &RandomState) {
        let hash = hasher.hash_one(&self.node(at).key);
        if let Ok(found) = self.index.find_entry(hash, |other| *other == at) {
            found.remove();
        }
        self.unlink(at);
        self.heap -= self.node(at).key.heap();
        let older = self.free;
        *self.node_mut(at) =
            Node { key: K::default(), stamp: FREE, backend: None, newer: NONE, older };
        self.free = at;
    }

    /// What it has allocated, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.nodes.capacity() * size_of::<Node<K>>()
            + self.words.capacity() * size_of::<u64>()
            + self.index.allocation_size()
            + self.heap
    }

    fn take_place(&mut self, node: Node<K>, layout: &Layout) -> u32 {
        if self.free != NONE {
            let at = self.free;
            self.free = self.node(at).older;
            *self.node_mut(at) = node;
            return at;
        }
        if self.nodes.len() == self.nodes.capacity() {
            // By less than the double: the bytes of an entry are promised.
            let more = (self.nodes.len() / 8).max(SMALLEST);
            self.nodes.reserve_exact(more);
            self.words.reserve_exact(more * layout.width());
        }
        let at = self.places();
        self.nodes.push(node);
        self.words.resize(self.words.len() + layout.width(), 0);
        at
    }

    fn link(&mut self, at: u32, now: u64) {
        // Threads read the clock before they take the lock, so times may come out of order. Stamps
        // are kept in order, because who is the oldest, and who has expired, is read at the end.
        let before = if self.newest == NONE { 0 } else { self.node(self.newest).stamp };
        let older = self.newest;
        let node = self.node_mut(at);
        node.stamp = now.max(before);
        node.older = older;
        node.newer = NONE;
        match older {
            NONE => self.oldest = at,
            older => self.node_mut(older).newer = at,
        }
        self.newest = at;
    }

    fn unlink(&mut self, at: u32) {
        let (newer, older) = (self.node(at).newer, self.node(at).older);
        match newer {
            NONE => self.newest = older,
            newer => self.node_mut(newer).older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.node_mut(older).newer = newer,
        }
    }

    fn node(&self, at: u32) -> &Node<K> {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node<K> {
        &mut self.nodes[at as usize]
    }
}

impl<K> fmt::Debug for Slab<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slab").field("len", &self.index.len()).finish_non_exhaustive()
    }
}

/// No place.
const NONE: u32 = u32::MAX;

/// No entry is as new: it would take centuries of nanoseconds.
const FREE: u64 = u64::MAX;

/// Places to begin with: a cache line or more of each kind.
const SMALLEST: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_entry_is_half_a_cache_line() {
        assert_eq!(size_of::<Node<u32>>(), 32);
    }

    #[test]
    fn keeps_the_order_of_refreshes_whatever_the_clocks_say() {
        let (layout, hasher) = (Layout::default(), RandomState::new());
        let mut slab = Slab::new();
        let mut add = |key: u32, now| slab.insert(key, hasher.hash_one(key), now, &layout, &hasher);
        let (a, b, c) = (add(1, 10), add(2, 20), add(3, 5));
        assert_eq!(slab.stamp(c), 20, "not before its neighbour");
        slab.refresh(a, 30);
        assert_eq!(slab.oldest(), Some((b, 20)));
        slab.refresh(a, 25);
        assert_eq!(slab.stamp(a), 30, "a refresh makes nothing older");
        slab.remove(b, &hasher);
        assert_eq!(slab.oldest(), Some((c, 20)));
        slab.remove(c, &hasher);
        slab.remove(a, &hasher);
        assert_eq!((slab.oldest(), slab.len(), slab.places()), (None, 0, 3));
        let again = slab.insert(4, hasher.hash_one(4_u32), 40, &layout, &hasher);
        assert_eq!((again, slab.places()), (a, 3), "takes the place that became free last");
        assert_eq!(slab.oldest(), Some((a, 40)));
    }

    #[test]
    fn gives_back_what_long_keys_took() {
        use crate::stick::stored::Text;
        let (layout, hasher) = (Layout::default(), RandomState::new());
        let mut slab = Slab::new();
        let key = Text::Bytes(b"0123456789"[..].into());
        let at = slab.insert(key.clone(), hasher.hash_one(&key), 0, &layout, &hasher);
        let with = slab.memory();
        slab.remove(at, &hasher);
        assert_eq!(with - slab.memory(), 10);
    }
}
