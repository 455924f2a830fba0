//! Who gets a slot, who waits and who loses one: the state machine, without tasks or time.
//!
//! ```text
//! arrive ─▶ Waiting ─ grant ─▶ Holding ─ displace ─▶ gone
//!              └──── leave ───────┴─────── leave ──▶ gone
//! ```
//!
//! A handshake that finds its way free goes from `arrive` to `Holding` at once. A source's share is
//! `max(1, slots / sources)`, counting the sources that hold or wait. After every step:
//!
//! - no more slots are held than there are, and nobody waits while one is free;
//! - no source holds more than its share while another waits with less than its own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The slots, who holds them, and who waits. `T` stands for a handshake in [`Action`]s.
///
/// A step costs O(log n) for each handshake that it moves. An arrival moves at most two. A source
/// that leaves may raise the share so far that several move; each was one arrival, and moves once
/// into a slot and once out of it.
pub(super) struct Fair<T> {
    slots: usize,
    held: usize,
    waiting: usize,
    next: u64,
    // Not a hash map: what a flood of sources made it grow by is given back.
    sources: BTreeMap<Source, Queue<T>>,
    /// The last one holds most. Of several, the last one's handshake is the oldest.
    holders: BTreeSet<(HolderKey, Source)>,
    /// The first one holds fewest. Of several, the first one has waited longest.
    waiters: BTreeSet<(WaiterKey, Source)>,
}

/// Names a handshake, to its end and never another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    source: Source,
    number: u64,
}

/// What becomes of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action<T> {
    /// It has a slot now.
    Grant(T),
    /// It has lost its slot, and is forgotten here.
    Displace(T),
}

/// Whom a handshake is charged to: an IPv4 address, or the first half of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    V4(u32),
    V6(u64),
}

impl<T> Fair<T> {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots,
            held: 0,
            waiting: 0,
            next: 0,
            sources: BTreeMap::new(),
            holders: BTreeSet::new(),
            waiters: BTreeSet::new(),
        }
    }

    /// How many slots are held. Who was displaced holds none.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// A handshake begins. It waits, unless `act` is told of its [`Grant`](Action::Grant).
    pub(super) fn arrive(
        &mut self,
        source: Source,
        handshake: T,
        act: &mut dyn FnMut(Action<T>),
    ) -> Id
    where
        T: Clone,
    {
        let number = self.next;
        self.next += 1;
        if self.held < self.slots {
            // Nobody waits then, so there is no one to go first.
            self.held += 1;
            self.change(source, |queue| queue.holding.insert(number, handshake.clone()));
            act(Action::Grant(handshake));
        } else {
            self.waiting += 1;
            self.change(source, |queue| queue.waiting.insert(number, handshake));
            self.settle(act);
        }
        Id { source, number }
    }

    /// A handshake ends, or gives up waiting. Nothing happens if it was displaced before.
    pub(super) fn leave(&mut self, id: Id, act: &mut dyn FnMut(Action<T>))
    where
        T: Clone,
    {
        let Id { source, number } = id;
        let (held, waited) = self.change(source, |queue| {
            let held = queue.holding.remove(&number).is_some();
            (held, !held && queue.waiting.remove(&number).is_some())
        });
        self.held -= usize::from(held);
        self.waiting -= usize::from(waited);
        if self.waiting > 0 {
            self.settle(act);
        }
    }

    fn settle(&mut self, act: &mut dyn FnMut(Action<T>))
    where
        T: Clone,
    {
        while let Some(&((fewest, _), next)) = self.waiters.first() {
            if self.held == self.slots {
                let share = self.share();
                match self.holders.last() {
                    Some(&((most, _), greedy)) if fewest < share && most > share => {
                        self.displace(greedy, act);
                    }
                    _ => return,
                }
            }
            self.grant(next, act);
        }
    }

    fn share(&self) -> usize {
        (self.slots / self.sources.len().max(1)).max(1)
    }

    /// Gives a free slot to who of `source` has waited longest.
    fn grant(&mut self, source: Source, act: &mut dyn FnMut(Action<T>))
    where
        T: Clone,
    {
        let granted = self.change(source, |queue| {
            let (number, handshake) = queue.waiting.pop_first()?;
            queue.holding.insert(number, handshake.clone());
            Some(handshake)
        });
        if let Some(handshake) = granted {
            self.waiting -= 1;
            self.held += 1;
            act(Action::Grant(handshake));
        }
    }

    /// Takes the slot of the oldest handshake of `source`: honest ones end within milliseconds.
    fn displace(&mut self, source: Source, act: &mut dyn FnMut(Action<T>)) {
        // Slots are granted in the order of arrival within a source, so the lowest is the oldest.
        if let Some((_, handshake)) = self.change(source, |queue| queue.holding.pop_first()) {
            self.held -= 1;
            act(Action::Displace(handshake));
        }
    }

    /// Changes one source's queue, and what `holders` and `waiters` say of it.
    fn change<R>(&mut self, source: Source, change: impl FnOnce(&mut Queue<T>) -> R) -> R {
        let queue = self.sources.entry(source).or_default();
        let before = queue.keys();
        let result = change(queue);
        let after = queue.keys();
        if after == (None, None) {
            self.sources.remove(&source);
        }
        reindex(&mut self.holders, source, before.0, after.0);
        reindex(&mut self.waiters, source, before.1, after.1);
        result
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::V6((v6.to_bits() >> 64) as u64),
        }
    }
}

/// How many slots a source holds, and its oldest handshake that does.
type HolderKey = (usize, Reverse<u64>);

/// How many slots a source holds, and who of it has waited longest.
type WaiterKey = (usize, u64);

/// The handshakes of one source, by number, which is the order of arrival.
struct Queue<T> {
    holding: BTreeMap<u64, T>,
    waiting: BTreeMap<u64, T>,
}

impl<T> Queue<T> {
    /// Its place among the holders, if it holds, and among the waiters, if it waits.
    fn keys(&self) -> (Option<HolderKey>, Option<WaiterKey>) {
        let held = self.holding.len();
        (
            self.holding.keys().next().map(|oldest| (held, Reverse(*oldest))),
            self.waiting.keys().next().map(|first| (held, *first)),
        )
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { holding: BTreeMap::new(), waiting: BTreeMap::new() }
    }
}

fn reindex<K: Ord>(
    index: &mut BTreeSet<(K, Source)>,
    source: Source,
    before: Option<K>,
    after: Option<K>,
) {
    if before == after {
        return;
    }
    if let Some(key) = before {
        index.remove(&(key, source));
    }
    if let Some(key) = after {
        index.insert((key, source));
    }
}

#[cfg(test)]
mod tests;
