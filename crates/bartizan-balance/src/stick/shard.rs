//! A part of a table, behind a lock of its own.

use std::collections::HashMap;

use super::claims::Claim;
use super::counters::Layout;
use super::slab::{Read, Slab, View};
use super::stored::{Hashers, SlabKey, StickKey, Stored, Text};
use crate::BackendId;

#[derive(Debug)]
pub(super) struct Shard {
    v4: Slab<u32>,
    v6: Slab<[u8; 16]>,
    text: Slab<Text>,
    pub(super) claims: HashMap<Stored, Claim>,
}

/// What was read of an entry.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: StickKey,
    pub(super) stamp: u64,
    pub(super) backend: Option<BackendId>,
    pub(super) words: Box<[u64]>,
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    kind: Kind,
    at: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    V4,
    V6,
    Text,
}

macro_rules! slab {
    ($shard:expr, $kind:expr, $slab:ident => $do:expr) => {
        match $kind {
            Kind::V4 => {
                let $slab = &mut $shard.v4;
                $do
            }
            Kind::V6 => {
                let $slab = &mut $shard.v6;
                $do
            }
            Kind::Text => {
                let $slab = &mut $shard.text;
                $do
            }
        }
    };
}

impl Shard {
    pub(super) fn new() -> Self {
        Self { v4: Slab::new(), v6: Slab::new(), text: Slab::new(), claims: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len() + self.text.len()
    }

    pub(super) fn find(&self, key: &Stored, hash: u64) -> Option<Place> {
        let (kind, at) = match key {
            Stored::V4(key) => (Kind::V4, self.v4.find(key, hash)),
            Stored::V6(key) => (Kind::V6, self.v6.find(key, hash)),
            Stored::Text(key) => (Kind::Text, self.text.find(key, hash)),
        };
        at.map(|at| Place { kind, at })
    }

    pub(super) fn stamp(&mut self, place: Place) -> u64 {
        slab!(self, place.kind, slab => slab.stamp(place.at))
    }

    pub(super) fn refresh(&mut self, place: Place, now: u64) {
        slab!(self, place.kind, slab => slab.refresh(place.at, now));
    }

    pub(super) fn view(&mut self, place: Place, layout: &Layout) -> View<'_> {
        slab!(self, place.kind, slab => slab.view(place.at, layout))
    }

    pub(super) fn read(&mut self, place: Place, layout: &Layout) -> Option<Found> {
        slab!(self, place.kind, slab => slab.read(place.at, layout).map(Found::of))
    }

    pub(super) fn insert(
        &mut self,
        key: &Stored,
        hash: u64,
        now: u64,
        layout: &Layout,
        hashers: &Hashers,
    ) -> Place {
        let by = hashers.places();
        let (kind, at) = match key {
            Stored::V4(key) => (Kind::V4, self.v4.insert(*key, hash, now, layout, by)),
            Stored::V6(key) => (Kind::V6, self.v6.insert(*key, hash, now, layout, by)),
            Stored::Text(key) => (Kind::Text, self.text.insert(key.clone(), hash, now, layout, by)),
        };
        Place { kind, at }
    }

    pub(super) fn remove(&mut self, place: Place, hashers: &Hashers) {
        slab!(self, place.kind, slab => slab.remove(place.at, hashers.places()));
    }

    /// The oldest entry, and when it was refreshed.
    pub(super) fn oldest(&self) -> Option<(Place, u64)> {
        let place = |kind| move |(at, stamp)| (Place { kind, at }, stamp);
        let v4 = self.v4.oldest().map(place(Kind::V4));
        let v6 = self.v6.oldest().map(place(Kind::V6));
        let text = self.text.oldest().map(place(Kind::Text));
        [v4, v6, text].into_iter().flatten().min_by_key(|(_, stamp)| *stamp)
    }

    /// Removes the oldest entry if it was refreshed at `until` or before. Returns whether it did.
    pub(super) fn pop(&mut self, until: u64, hashers: &Hashers) -> bool {
        let oldest = self.oldest().filter(|(_, stamp)| *stamp <= until);
        if let Some((place, _)) = oldest {
            self.remove(place, hashers);
        }
        oldest.is_some()
    }

    /// Removes all entries, and returns how many there were.
    pub(super) fn clear(&mut self) -> usize {
        let len = self.len();
        (self.v4, self.v6, self.text) = (Slab::new(), Slab::new(), Slab::new());
        len
    }

    /// Reads the entries in up to `STEP` places from the `from`th on, in an order that entries keep
    /// while they stay. Returns where to go on, if there is more.
    pub(super) fn page(
        &self,
        from: u64,
        layout: &Layout,
        mut found: impl FnMut(Found),
    ) -> Option<u64> {
        let (kind, first) = ((from >> 32) as u8, from as u32);
        let end = first.saturating_add(STEP);
        let places = match kind {
            0 => step(&self.v4, first..end, layout, &mut found),
            1 => step(&self.v6, first..end, layout, &mut found),
            2 => step(&self.text, first..end, layout, &mut found),
            _ => return None,
        };
        let next = u64::from(kind) << 32 | u64::from(end);
        Some(if end < places { next } else { u64::from(kind + 1) << 32 })
    }

    /// What it has allocated, in bytes.
    pub(super) fn memory(&self) -> usize {
        let claims = self.claims.capacity() * (size_of::<(Stored, Claim)>() + 1);
        self.v4.memory() + self.v6.memory() + self.text.memory() + claims
    }
}

impl Found {
    fn of<K: SlabKey>(read: Read<'_, K>) -> Self {
        let Read { key, stamp, backend, words } = read;
        Self { key: key.stored(), stamp, backend, words: words.into() }
    }
}

fn step<K: SlabKey>(
    slab: &Slab<K>,
    places: std::ops::Range<u32>,
    layout: &Layout,
    found: &mut impl FnMut(Found),
) -> u32 {
    let end = places.end.min(slab.places());
    for at in places.start..end {
        if let Some(read) = slab.read(at, layout) {
            found(Found::of(read));
        }
    }
    slab.places()
}

/// So many places are read before the lock is let go: some microseconds.
const STEP: u32 = 64;
