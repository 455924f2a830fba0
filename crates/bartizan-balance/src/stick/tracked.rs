//! Counting for a key.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::StickTable;
use super::counters::{StickCount, StickCounter};
use super::slab::View;
use super::stored::Stored;
use crate::Key;

/// Counts for one key of a [`StickTable`]; see [`StickTable::track`].
///
/// It does not keep its entry from expiring or from being evicted; the next count then makes a new
/// one, which starts from 0. (HAProxy keeps entries that are tracked: a table for
/// [`StickCount::ConnCur`] should be large enough for all clients at a time.) Dropped, it gives back
/// the connections that it counted at the moment.
///
/// A limit of 20 requests in 10 seconds per client, in front of everything else:
///
/// ```
/// use std::time::{Duration, Instant};
/// use bartizan_balance::{Key, StickRate, StickTable};
/// use http::{Response, StatusCode};
///
/// fn table() -> StickTable {
///     StickTable::builder(204_800)
///         .expire(Duration::from_secs(30))
///         .store_rate(StickRate::HttpReq, Duration::from_secs(10))
///         .build()
/// }
///
/// /// The answer to a request that is one too many.
/// fn check(table: &StickTable, client: &Key<'_>, now: Instant) -> Result<(), Response<()>> {
///     let rate = table.track(client, now).count(StickRate::HttpReq, 1, now);
///     if rate.is_some_and(|rate| rate > 20) {
///         let mut answer = Response::new(());
///         *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
///         return Err(answer);
///     }
///     Ok(())
/// }
///
/// let now = tokio::time::Instant::now().into_std();
/// let (table, client) = (table(), Key::Ip([192, 0, 2, 1].into()));
/// assert!((0..20).all(|_| check(&table, &client, now).is_ok()));
/// assert_eq!(check(&table, &client, now).unwrap_err().status(), 429);
/// assert!(check(&table, &client, now + Duration::from_secs(20)).is_ok());
/// ```
#[derive(Debug)]
pub struct Tracked {
    table: StickTable,
    key: Stored,
    hash: u64,
    // Connections that were counted, and in which life of the entry.
    connections: u64,
    life: u64,
}

impl Tracked {
    pub(super) fn new(table: StickTable, key: &Key<'_>, now: Instant) -> Self {
        let key = table.inner.hashers.stored(key);
        let hash = table.inner.hashers.hash(&key);
        table.inner.upsert(&key, hash, table.inner.time(now), |_| ());
        Self { table, key, hash, connections: 0, life: 0 }
    }

    /// Counts `n`, and returns the new value: for a rate, what it is over the period up to `now`.
    /// Values stay at their largest instead of beginning anew.
    ///
    /// None if the table does not store it, or is full and does not [evict
    /// ](crate::StickTableBuilder::no_purge).
    pub fn count(&mut self, counter: impl Into<StickCounter>, n: u64, now: Instant) -> Option<u64> {
        let (counter, inner, now) =
            (counter.into(), &*self.table.inner, self.table.inner.time(now));
        let current = counter == StickCounter::Count(StickCount::ConnCur);
        let (value, life) =
            inner.count(&self.key, self.hash, now, |View { words, .. }| {
                let value = inner.layout.count(words, counter, n, now)?;
                let next = || inner.serial.fetch_add(1, Ordering::Relaxed);
                Some((value, if current { inner.layout.life(words, next) } else { 0 }))
            })??;
        if current {
            let before = if life == self.life { self.connections } else { 0 };
            (self.connections, self.life) = (before.saturating_add(n), life);
        }
        Some(value)
    }

    /// The value at the moment. None if the table does not store it, or the entry is gone.
    pub fn get(&self, counter: impl Into<StickCounter>, now: Instant) -> Option<u64> {
        let (inner, now) = (&*self.table.inner, self.table.inner.time(now));
        inner.with(inner.place(self.hash), |shard| {
            let place = inner.live(shard, &self.key, self.hash, now)?;
            inner.layout.get(shard.view(place, &inner.layout).words, counter.into(), now)
        })
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if self.connections == 0 {
            return;
        }
        let inner = &*self.table.inner;
        inner.with(inner.place(self.hash), |shard| {
            if let Some(place) = shard.find(&self.key, self.hash) {
                let words = shard.view(place, &inner.layout).words;
                inner.layout.give_back(words, self.connections, self.life);
            }
        });
    }
}
