//! Remembered keys: who is pinned to which backend, and what was counted of whom.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::{BackendId, Key};
use counters::Layout;
use inner::Inner;

mod claims;
mod counters;
mod dump;
mod inner;
mod shard;
mod shared;
mod slab;
mod sticky;
mod stored;
mod tracked;

pub use counters::{StickCount, StickCounter, StickRate};
pub use dump::{StickEntries, StickEntry};
pub use shared::{SharedSticky, SharedTie, StickStore};
pub use sticky::{Sticky, StickyTie};
pub use stored::StickKey;
pub use tracked::Tracked;

/// Remembers a backend, and counters, for each of a limited number of keys, as HAProxy's stick
/// tables do. Clones are handles on the same table.
///
/// HAProxy's `stick-table type ip size 200k expire 30m` with `stick on src` is:
///
/// ```
/// use std::time::Duration;
/// use bartizan_balance::{SourceKey, StickTable};
///
/// let table = StickTable::new(204_800, Duration::from_secs(30 * 60));
/// let affinity = table.by(SourceKey::new());
/// # let _ = affinity;
/// ```
///
/// # Expiry and eviction
///
/// An entry expires so long after it was made, or [matched](Self::find) or [tracked](Self::track)
/// last. What matches within a 4,096th of that after the last refresh (within 0.44 s, of 30 minutes)
/// is not refreshed again, because that costs more than the match. An expired entry is never found. Its memory is given back when it is looked for, in small
/// steps by insertions, or by [`expire_some`](Self::expire_some).
///
/// A full table makes room by evicting what was refreshed the longest ago in the whole table, not
/// in a part of it: after any number of insertions by one thread the last [`capacity`
/// ](Self::capacity) keys are there. Entries of the same instant have no order among each other;
/// threads that insert at once may each be off by what the others do at the moment. Shards lie
/// under this promise: one holds at most 8 standard deviations more than the average of what a
/// secret hash gives it, and evicts its own oldest one beyond that, which happens to one full table
/// in a billion.
///
/// # Memory
///
/// Bounded by the number of entries; nothing is allocated beforehand. An entry takes 32 bytes for
/// an IPv4 address, 40 for an IPv6 address, 48 and its length for other keys, and what is
/// [stored](StickTableBuilder::store). To that come about 7 to 12 bytes of index and up to an
/// eighth for growth: an IPv4 entry stays below 60 bytes. Shards may, one after the other, come to
/// hold as many entries as they may; [`memory`](Self::memory) says what is in use.
///
/// # Cost
///
/// A match takes one hash, the lock of one of up to 64 shards, and a few cache lines. Backends are
/// remembered by their numbers, so that one that has left is never mistaken for another.
#[derive(Clone)]
pub struct StickTable {
    inner: Arc<Inner>,
}

/// Makes a [`StickTable`].
///
/// | setting | default | HAProxy |
/// | --- | --- | --- |
/// | [`expire`](Self::expire) | never | `expire` |
/// | [`no_purge`](Self::no_purge) | evicts | `nopurge` |
/// | [`key_len`](Self::key_len) | 32 bytes | `len` |
/// | [`store`](Self::store), [`store_rate`](Self::store_rate) | nothing | `store` |
#[derive(Clone, Debug)]
pub struct StickTableBuilder {
    entries: usize,
    expire: Option<Duration>,
    no_purge: bool,
    key_len: usize,
    layout: Layout,
}

impl StickTableBuilder {
    /// Forgets entries so long after their last refresh.
    pub fn expire(self, expire: Duration) -> Self {
        Self { expire: Some(expire), ..self }
    }

    /// Refuses new entries while the table is full, instead of evicting the oldest.
    pub fn no_purge(self) -> Self {
        Self { no_purge: true, ..self }
    }

    /// Keeps keys of up to this many bytes as they are, and of longer ones a digest of 128 bits.
    ///
    /// HAProxy cuts longer keys off, so that clients whose keys begin alike are pinned together;
    /// here they are not.
    pub fn key_len(self, key_len: usize) -> Self {
        Self { key_len, ..self }
    }

    /// Has room in each entry for this count.
    pub fn store(mut self, count: StickCount) -> Self {
        self.layout.add(count.into(), Duration::ZERO);
        self
    }

    /// Has room in each entry for this rate, over so long a period.
    pub fn store_rate(mut self, rate: StickRate, period: Duration) -> Self {
        self.layout.add(rate.into(), period);
        self
    }

    /// Makes the table.
    pub fn build(self) -> StickTable {
        let Self { entries, expire, no_purge, key_len, layout } = self;
        let inner = Inner::new(entries, expire, no_purge, key_len, layout);
        StickTable { inner: Arc::new(inner) }
    }
}

impl StickTable {
    /// Holds so many entries, at least 1 and at most 2^31, and forgets them so long after their
    /// last refresh, or never. HAProxy's `200k` is 204,800.
    pub fn new(entries: usize, expire: impl Into<Option<Duration>>) -> Self {
        StickTableBuilder { expire: expire.into(), ..Self::builder(entries) }.build()
    }

    /// Starts a table of so many entries, at least 1 and at most 2^31.
    pub fn builder(entries: usize) -> StickTableBuilder {
        StickTableBuilder {
            entries,
            expire: None,
            no_purge: false,
            key_len: KEY_LEN,
            layout: Layout::default(),
        }
    }

    /// Pins clients by this key.
    pub fn by<K>(&self, key: K) -> Sticky<K> {
        Sticky::new(self.clone(), key)
    }

    /// The backend that the key is pinned to. This is a match: the entry is refreshed.
    pub fn find(&self, key: &Key<'_>, now: Instant) -> Option<BackendId> {
        let key = self.inner.hashers.stored(key);
        self.inner.find(&key, self.inner.hashers.hash(&key), self.inner.time(now))
    }

    /// The entry of the key. It is not refreshed.
    pub fn get(&self, key: &Key<'_>, now: Instant) -> Option<StickEntry> {
        let (inner, now) = (&*self.inner, self.inner.time(now));
        let key = inner.hashers.stored(key);
        let hash = inner.hashers.hash(&key);
        let found = inner.with(inner.place(hash), |shard| {
            let place = inner.live(shard, &key, hash, now)?;
            shard.read(place, &inner.layout)
        })?;
        StickEntry::of(found, inner, now)
    }

    /// Pins the key to a backend, in an entry that is refreshed or new. Returns whether there was
    /// room for it, as there always is without [`no_purge`](StickTableBuilder::no_purge) but for
    /// tables of about as many entries as threads that write to them at once.
    pub fn set(&self, key: &Key<'_>, backend: BackendId, now: Instant) -> bool {
        let key = self.inner.hashers.stored(key);
        let hash = self.inner.hashers.hash(&key);
        let set = |view: slab::View<'_>| *view.backend = Some(backend);
        self.inner.upsert(&key, hash, self.inner.time(now), set).is_some()
    }

    /// Removes the entry of the key, and returns whether there was one. What simultaneous requests
    /// have agreed on, and is not established yet, stays.
    pub fn remove(&self, key: &Key<'_>) -> bool {
        let key = self.inner.hashers.stored(key);
        self.inner.remove_if(&key, self.inner.hashers.hash(&key), |_| true)
    }

    /// Removes the entry of the key if it is pinned to this backend.
    fn remove_if(&self, key: &Key<'_>, backend: BackendId) {
        let inner = &*self.inner;
        let key = inner.hashers.stored(key);
        inner.remove_if(&key, inner.hashers.hash(&key), |other| other == Some(backend));
    }

    /// Removes all entries, one shard after the other, and gives back their memory.
    pub fn clear(&self) {
        for place in 0..self.inner.shards() {
            let n = self.inner.with(place, |shard| shard.clear());
            self.inner.len.fetch_sub(n, Ordering::Relaxed);
        }
    }

    /// Counts for this key, in an entry that is refreshed or new. HAProxy's `track-sc`.
    pub fn track(&self, key: &Key<'_>, now: Instant) -> Tracked {
        Tracked::new(self.clone(), key, now)
    }

    /// How many entries there are, with those that have expired and are not removed yet.
    pub fn len(&self) -> usize {
        self.inner.len.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries there may be.
    pub fn capacity(&self) -> usize {
        self.inner.capacity
    }

    /// How many bytes are allocated, with the index and what is free, and without what the
    /// allocator itself needs.
    pub fn memory(&self) -> usize {
        self.inner.memory() + size_of::<Inner>()
    }

    /// All entries that have not expired. Claims of requests on their way are none.
    ///
    /// It reads up to 64 at a time, and holds no lock in between. An entry that is there all along
    /// comes exactly once.
    pub fn entries(&self, now: Instant) -> StickEntries {
        StickEntries::new(self.clone(), now)
    }

    /// Removes up to `n` expired entries, and returns how many; it never holds a lock for more than
    /// some of them. Not needed for the table to work, but it gives back places early.
    pub fn expire_some(&self, now: Instant, n: usize) -> usize {
        self.inner.expire_some(self.inner.time(now), n)
    }
}

impl fmt::Debug for StickTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = f.debug_struct("StickTable");
        table.field("len", &self.len()).field("capacity", &self.capacity()).finish_non_exhaustive()
    }
}

/// HAProxy's, for strings and binary keys.
const KEY_LEN: usize = 32;

#[cfg(test)]
mod tests;
