//! Shards, the count of all entries, and which of them is the oldest.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::counters::Layout;
use super::shard::{Place, Shard};
use super::slab::View;
use super::stored::{Hashers, Stored};
use crate::BackendId;

/// What the handles of a table share. Times are nanoseconds since the first time it was told.
#[derive(Debug)]
pub(super) struct Inner {
    start: OnceLock<Instant>,
    pub(super) expire: Option<u64>,
    // A match this soon after a refresh does not refresh.
    grain: u64,
    pub(super) capacity: usize,
    no_purge: bool,
    // Entries per shard; it is so much above the average that none is full before the table.
    most: usize,
    pub(super) layout: Layout,
    pub(super) hashers: Hashers,
    // Of claims and lives; never 0.
    pub(super) serial: AtomicU64,
    // At most `capacity`. Grows before an entry is added, and is not less before one is removed.
    pub(super) len: AtomicUsize,
    // When the oldest entry of each shard was refreshed; `EMPTY` if it has none.
    oldest: Box<[AtomicU64]>,
    shards: Box<[Mutex<Shard>]>,
}

impl Inner {
    pub(super) fn new(
        entries: usize,
        expire: Option<Duration>,
        no_purge: bool,
        key_len: usize,
        layout: Layout,
    ) -> Self {
        let capacity = entries.clamp(1, MOST);
        let shards = (capacity / PER_SHARD).clamp(1, SHARDS);
        let mean = capacity.div_ceil(shards);
        let slack = if shards == 1 { 0 } else { 8 * (mean.isqrt() + 1) };
        let expire = expire.map(|expire| u64::try_from(expire.as_nanos()).unwrap_or(u64::MAX));
        Self {
            start: OnceLock::new(),
            expire,
            grain: expire.map_or(0, |expire| expire / GRAINS),
            capacity,
            no_purge,
            most: mean + slack,
            layout,
            hashers: Hashers::new(key_len),
            serial: AtomicU64::new(1),
            len: AtomicUsize::new(0),
            oldest: (0..shards).map(|_| AtomicU64::new(EMPTY)).collect(),
            shards: (0..shards).map(|_| Mutex::new(Shard::new())).collect(),
        }
    }

    pub(super) fn time(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(*self.start.get_or_init(|| now));
        u64::try_from(since.as_nanos()).unwrap_or(EMPTY).min(EMPTY - 1)
    }

    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The shard that keys of this hash are in. By other bits than those that order it inside.
    pub(super) fn place(&self, hash: u64) -> usize {
        ((hash >> 32) & 0xffff) as usize % self.shards.len()
    }

    /// Does something with a shard, and notes which entry of it is the oldest then.
    pub(super) fn with<R>(&self, place: usize, work: impl FnOnce(&mut Shard) -> R) -> R {
        let mut shard = self.shards[place].lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut shard);
        self.note_oldest(place, &shard);
        done
    }

    /// To be called with the shard still locked.
    fn note_oldest(&self, place: usize, shard: &Shard) {
        let oldest = shard.oldest().map_or(EMPTY, |(_, stamp)| stamp);
        if self.oldest[place].load(Ordering::Relaxed) != oldest {
            self.oldest[place].store(oldest, Ordering::Relaxed);
        }
    }

    /// What was refreshed at this time or before has expired.
    pub(super) fn expired(&self, now: u64) -> Option<u64> {
        now.checked_sub(self.expire?)
    }

    /// The entry of the key, unless it has expired: then it is removed.
    pub(super) fn live(
        &self,
        shard: &mut Shard,
        key: &Stored,
        hash: u64,
        now: u64,
    ) -> Option<Place> {
        let place = shard.find(key, hash)?;
        if self.expired(now).is_some_and(|until| shard.stamp(place) <= until) {
            shard.remove(place, &self.hashers);
            self.len.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(place)
    }

    /// The backend of the entry, which stays as old as it is.
    pub(super) fn peek(
        &self,
        shard: &mut Shard,
        key: &Stored,
        hash: u64,
        now: u64,
    ) -> Option<BackendId> {
        let place = self.live(shard, key, hash, now)?;
        *shard.view(place, &self.layout).backend
    }

    /// The backend of the entry, which is refreshed if it has one and was not a moment ago.
    pub(super) fn find(&self, key: &Stored, hash: u64, now: u64) -> Option<BackendId> {
        let number = self.place(hash);
        let mut shard = self.shards[number].lock().unwrap_or_else(PoisonError::into_inner);
        let place = shard.find(key, hash)?;
        let backend = *shard.view(place, &self.layout).backend;
        if now.saturating_sub(shard.stamp(place)) < self.grain {
            return backend;
        }
        let place = self.live(&mut shard, key, hash, now);
        if let Some(place) = place.filter(|_| backend.is_some()) {
            shard.refresh(place, now);
        }
        self.note_oldest(number, &shard);
        backend.filter(|_| place.is_some())
    }

    /// Changes the entry of the key, as old as it is, or a new one. None if there is no room.
    pub(super) fn count<R>(
        &self,
        key: &Stored,
        hash: u64,
        now: u64,
        write: impl FnOnce(View<'_>) -> R,
    ) -> Option<R> {
        let mut write = Some(write);
        let done = self.with(self.place(hash), |shard| {
            let place = self.live(shard, key, hash, now)?;
            write.take().map(|write| write(shard.view(place, &self.layout)))
        });
        done.or_else(|| self.upsert(key, hash, now, write?))
    }

    /// Changes the entry of the key, refreshed, or a new one. None if there is no room for that.
    pub(super) fn upsert<R>(
        &self,
        key: &Stored,
        hash: u64,
        now: u64,
        write: impl FnOnce(View<'_>) -> R,
    ) -> Option<R> {
        let mut write = Some(write);
        // Whether room for one more is counted in `len` already.
        let mut credit = false;
        let mut done = None;
        for _ in 0..TRIES {
            done = self.with(self.place(hash), |shard| {
                let place = match self.live(shard, key, hash, now) {
                    Some(place) => place,
                    None if self.make_room(shard, now, &mut credit) => {
                        credit = false;
                        shard.insert(key, hash, now, &self.layout, &self.hashers)
                    }
                    None => return None,
                };
                shard.refresh(place, now);
                write.take().map(|write| write(shard.view(place, &self.layout)))
            });
            if done.is_some() {
                break;
            }
            // With no other shard locked, or two who do this might wait for each other.
            match self.evict(now) {
                Evicted::One if credit => {
                    self.len.fetch_sub(1, Ordering::Relaxed);
                }
                Evicted::One => credit = true,
                Evicted::Gone => {}
                Evicted::Refused => break,
            }
        }
        if credit {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
        done
    }

    /// Counts one more entry, which this shard has room for.
    fn make_room(&self, shard: &mut Shard, now: u64, credit: &mut bool) -> bool {
        self.drop_expired(shard, now, EACH);
        if shard.len() >= self.most {
            if self.no_purge || !shard.pop(EMPTY, &self.hashers) {
                return false;
            }
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
        if !*credit {
            let more = |len: usize| (len < self.capacity).then_some(len + 1);
            let order = Ordering::Relaxed;
            *credit = self.len.fetch_update(order, order, more).is_ok();
        }
        *credit
    }

    /// Removes the oldest entry of all without counting it out, so that its room is the caller's.
    fn evict(&self, now: u64) -> Evicted {
        let stamp = |place: &usize| self.oldest[*place].load(Ordering::Relaxed);
        let Some(place) = (0..self.shards.len()).min_by_key(stamp) else { return Evicted::Gone };
        let until = if self.no_purge { self.expired(now) } else { Some(EMPTY) };
        let Some(until) = until.filter(|until| stamp(&place) <= *until) else {
            return Evicted::Refused;
        };
        match self.with(place, |shard| shard.pop(until, &self.hashers)) {
            true => Evicted::One,
            false => Evicted::Gone,
        }
    }

    /// Removes up to `n` expired entries of the shard, and returns how many.
    fn drop_expired(&self, shard: &mut Shard, now: u64, n: usize) -> usize {
        let Some(until) = self.expired(now) else { return 0 };
        let dropped = (0..n).take_while(|_| shard.pop(until, &self.hashers)).count();
        self.len.fetch_sub(dropped, Ordering::Relaxed);
        dropped
    }

    /// Removes up to `n` expired entries, and returns how many.
    pub(super) fn expire_some(&self, now: u64, n: usize) -> usize {
        let Some(until) = self.expired(now) else { return 0 };
        let mut dropped = 0;
        for place in 0..self.shards.len() {
            while dropped < n && self.oldest[place].load(Ordering::Relaxed) <= until {
                let some = (n - dropped).min(AT_A_TIME);
                dropped += self.with(place, |shard| self.drop_expired(shard, now, some));
            }
        }
        dropped
    }

    pub(super) fn remove_if(
        &self,
        key: &Stored,
        hash: u64,
        condition: impl FnOnce(Option<BackendId>) -> bool,
    ) -> bool {
        self.with(self.place(hash), |shard| {
            let Some(place) = shard.find(key, hash) else { return false };
            let yes = condition(*shard.view(place, &self.layout).backend);
            if yes {
                shard.remove(place, &self.hashers);
                self.len.fetch_sub(1, Ordering::Relaxed);
            }
            yes
        })
    }

    pub(super) fn memory(&self) -> usize {
        let shards = (0..self.shards.len()).map(|place| self.with(place, |shard| shard.memory()));
        shards.sum::<usize>() + self.shards.len() * (size_of::<Mutex<Shard>>() + 8)
    }
}

/// What came of the search for the oldest entry.
enum Evicted {
    One,
    /// Somebody else was quicker.
    Gone,
    Refused,
}

/// No entry is as new.
const EMPTY: u64 = u64::MAX;

/// To move an entry to the new end costs two or three times what a match costs else, and the many
/// requests of one visit need it once.
const GRAINS: u64 = 4_096;

/// Places are numbers of 32 bits, and one of them means none.
const MOST: usize = 1 << 31;

/// Enough that the threads of a large machine seldom meet.
const SHARDS: usize = 64;

/// Fewer would be uneven: the slack would be as much as the entries.
const PER_SHARD: usize = 256;

/// Expired entries that an insertion clears away: more than it adds, so that they become fewer.
const EACH: usize = 2;

/// Expired entries that go before a lock is let go: some microseconds.
const AT_A_TIME: usize = 32;

/// Tries to take the place of the oldest entry, each of which somebody else may win. More happen
/// only when about as many threads as the table has entries write at once.
const TRIES: usize = 16;
