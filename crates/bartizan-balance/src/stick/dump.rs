//! Reading a whole table.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::counters::StickCounter;
use super::inner::Inner;
use super::shard::Found;
use super::stored::StickKey;
use super::{StickTable, counters::Layout};
use crate::BackendId;

/// An entry of a [`StickTable`], as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StickEntry {
    /// Its key.
    pub key: StickKey,
    /// The backend that the key is pinned to, which may have left its cluster; none if something is
    /// only counted.
    pub backend: Option<BackendId>,
    /// When it expires, unless it is refreshed; none: never.
    pub expires_in: Option<Duration>,
    /// What was counted, in the order in which the table was told to store it.
    pub counters: Vec<(StickCounter, u64)>,
}

impl StickEntry {
    /// None if it has expired.
    pub(super) fn of(found: Found, inner: &Inner, now: u64) -> Option<Self> {
        if inner.expired(now).is_some_and(|until| found.stamp <= until) {
            return None;
        }
        let left = |expire| Duration::from_nanos(found.stamp.saturating_add(expire) - now);
        let layout: &Layout = &inner.layout;
        Some(Self {
            key: found.key,
            backend: found.backend,
            expires_in: inner.expire.map(left),
            counters: layout.all(&found.words, now),
        })
    }
}

/// The entries of a [`StickTable`]; see [`StickTable::entries`].
#[derive(Debug)]
pub struct StickEntries {
    table: StickTable,
    now: u64,
    shard: usize,
    from: u64,
    page: VecDeque<StickEntry>,
}

impl StickEntries {
    pub(super) fn new(table: StickTable, now: Instant) -> Self {
        let now = table.inner.time(now);
        Self { table, now, shard: 0, from: 0, page: VecDeque::new() }
    }

    /// Reads some more. Returns whether there was any left to be read.
    fn turn(&mut self) -> bool {
        let inner = &*self.table.inner;
        if self.shard >= inner.shards() {
            return false;
        }
        let mut found = Vec::new();
        let next = inner.with(self.shard, |shard| {
            shard.page(self.from, &inner.layout, |entry| found.push(entry))
        });
        self.page.extend(found.into_iter().filter_map(|f| StickEntry::of(f, inner, self.now)));
        match next {
            Some(from) => self.from = from,
            None => (self.shard, self.from) = (self.shard + 1, 0),
        }
        true
    }
}

impl Iterator for StickEntries {
    type Item = StickEntry;

    fn next(&mut self) -> Option<StickEntry> {
        loop {
            match self.page.pop_front() {
                Some(entry) => return Some(entry),
                None if self.turn() => {}
                None => return None,
            }
        }
    }
}
