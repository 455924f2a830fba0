//! What is remembered of sources, in memory of a fixed size. Pure but for its locks.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// An IPv4 address or an IPv6 network of 64 bits.
///
/// An IPv4 address is a number below 2^33, which as a network lies in `::/8`: nobody has one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source(u64);

impl Source {
    pub(super) fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(v4) => Self(u64::from(v4.to_bits()) | V4),
            IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64),
        }
    }
}

/// A number for each source. Sources are spread over sets of eight by a keyed hash, so that nobody
/// can choose whose set is crowded.
#[derive(Debug)]
pub(super) struct Table {
    hasher: RandomState,
    shards: Box<[Mutex<Box<[Set]>>]>,
}

type Set = [Entry; WAYS];

#[derive(Clone, Copy, Debug)]
struct Entry {
    source: Source,
    // 0 where nobody is remembered: no number is.
    due: u64,
}

impl Table {
    pub(super) fn new(sources: usize) -> Self {
        let sets = sources.div_ceil(SHARDS * WAYS);
        let shard = |_| Mutex::new(vec![[EMPTY; WAYS]; sets].into_boxed_slice());
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(shard).collect() }
    }

    /// Changes the number of `source`, which is `now` if it is not known. A source that `change`
    /// has no new number for stays as it is. Returns whether there was one. Numbers are above 0.
    pub(super) fn update(
        &self,
        source: Source,
        now: u64,
        change: impl FnOnce(u64) -> Option<u64>,
    ) -> bool {
        let hash = self.hasher.hash_one(source.0) as usize;
        let mut shard = self.shards[hash % SHARDS].lock().unwrap_or_else(PoisonError::into_inner);
        let place = hash / SHARDS % shard.len();
        let set = &mut shard[place];
        let known = set.iter_mut().find(|entry| entry.due != 0 && entry.source == source);
        if let Some(entry) = known {
            let Some(due) = change(entry.due) else { return false };
            entry.due = due;
            return true;
        }
        let Some(due) = change(now) else { return false };
        // An empty place, or that of the bucket that is full the soonest.
        if let Some(place) = set.iter_mut().min_by_key(|entry| entry.due) {
            *place = Entry { source, due };
        }
        true
    }
}

const V4: u64 = 1 << 32;

const EMPTY: Entry = Entry { source: Source(0), due: 0 };

/// Two cache lines; the chance that a set is crowded while the table is half empty is small.
const WAYS: usize = 8;

/// Enough that the threads of a large machine seldom meet.
const SHARDS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_64_bits_of_ipv6() {
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_ne!(source("0.0.0.0"), source("::"));
    }

    #[test]
    fn remembers_and_leaves_alone_what_is_not_changed() {
        let table = Table::new(1_024);
        let a = source("192.0.2.1");
        assert!(table.update(a, 5, |due| (due == 5).then_some(7)), "unknown, so it is now");
        assert!(!table.update(a, 6, |due| (due != 7).then_some(9)), "known, and not changed");
        assert!(table.update(a, 6, |due| (due == 7).then_some(8)));
        assert!(!table.update(source("192.0.2.2"), 6, |_| None));
        assert!(table.update(source("192.0.2.2"), 6, |due| (due == 6).then_some(1)));
    }

    #[test]
    fn forgets_the_fullest_bucket_when_there_is_no_room() {
        let table = Table::new(1_024);
        let flood = |i: u32| Source::of(IpAddr::V4(i.into()));
        let emptiest = source("2001:db8::1");
        table.update(emptiest, 0, |_| Some(u64::MAX));
        for i in 0..100_000 {
            table.update(flood(i), 0, |_| Some(10 + u64::from(i)));
        }
        assert!(table.update(emptiest, 0, |due| (due == u64::MAX).then_some(due)));
        let known =
            (0..100_000).filter(|i| !table.update(flood(*i), 0, |due| (due == 0).then_some(1)));
        assert!(known.count() <= 1_024);
    }
}
