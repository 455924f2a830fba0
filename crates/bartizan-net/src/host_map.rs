//! Values by host name.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::HostPattern;
use crate::host_pattern::{fold_host, wildcard_key};

/// Values by host name: exact first, then by a wildcard of one label.
///
/// Among 50,000 certificates, what a look-up costs is the memory that it waits for, so a name lies
/// in the slot that is looked at, in one cache line. foldhash is enough, because clients can only
/// look up; what they choose cannot make the map grow.
#[derive(Clone, Debug)]
pub struct HostMap<T> {
    slots: HashTable<Slot<T>>,
    hasher: RandomState,
    /// Names that are too long for their slots.
    long: Vec<Box<[u8]>>,
}

#[derive(Clone, Debug)]
#[repr(align(64))]
struct Slot<T> {
    /// The length of the name, and the name; or `LONG`, and its place among the long ones.
    len: u8,
    bytes: [u8; SHORT],
    value: T,
}

impl<T> HostMap<T> {
    /// Empty, with room for so many names.
    pub fn with_capacity(names: usize) -> Self {
        let slots = HashTable::with_capacity(names);
        Self { slots, hasher: RandomState::default(), long: Vec::new() }
    }

    /// The value of exactly this name, which is folded ([`fold_host`]).
    pub fn exact(&self, name: &str) -> Option<&T> {
        // What begins with a dot is how wildcards are kept, and no name.
        if name.starts_with('.') { None } else { self.find(name.as_bytes()) }
    }

    /// The value of the wildcard that stands for this name, which is folded.
    pub fn wildcard(&self, name: &str) -> Option<&T> {
        self.find(wildcard_key(name)?.as_bytes())
    }

    /// The value of `name`, in any case.
    pub fn get(&self, name: &str) -> Option<&T> {
        let name = fold_host(name);
        self.exact(&name).or_else(|| self.wildcard(&name))
    }

    fn find(&self, key: &[u8]) -> Option<&T> {
        let is_it = |slot: &Slot<T>| slot.key(&self.long) == key;
        self.slots.find(self.hasher.hash_one(key), is_it).map(|slot| &slot.value)
    }

    /// The value that was set for this very name or wildcard.
    pub fn get_mut(&mut self, name: &HostPattern) -> Option<&mut T> {
        let (key, long) = (name.key().as_bytes(), &self.long);
        let found = self.slots.find_mut(self.hasher.hash_one(key), |slot| slot.key(long) == key);
        found.map(|slot| &mut slot.value)
    }

    /// Sets the value of `name` unless it has one.
    pub fn insert(&mut self, name: &HostPattern, value: T) {
        let key = name.key().as_bytes();
        if self.find(key).is_some() {
            return;
        }
        let mut slot = Slot { len: LONG, bytes: [0; SHORT], value };
        if key.len() <= SHORT {
            slot.len = key.len() as u8;
            slot.bytes[..key.len()].copy_from_slice(key);
        } else {
            slot.bytes[..size_of::<usize>()].copy_from_slice(&self.long.len().to_ne_bytes());
            self.long.push(key.into());
        }
        let (long, hasher) = (&self.long, &self.hasher);
        self.slots.insert_unique(hasher.hash_one(key), slot, |s| hasher.hash_one(s.key(long)));
    }

    /// How many names have a value.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no name has a value.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

impl<T> Slot<T> {
    fn key<'a>(&'a self, long: &'a [Box<[u8]>]) -> &'a [u8] {
        if self.len != LONG {
            return &self.bytes[..usize::from(self.len)];
        }
        let mut place = [0; size_of::<usize>()];
        place.copy_from_slice(&self.bytes[..size_of::<usize>()]);
        &long[usize::from_ne_bytes(place)]
    }
}

/// With a value of 16 bytes, a slot is a cache line. Nine in ten names are not longer.
const SHORT: usize = 47;

/// No name in a slot is as long.
const LONG: u8 = u8::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_length_are_found() {
        let name =
            |len: usize| format!("{}.example.com", "a.".repeat(len / 2) + &"b".repeat(len % 2 + 1));
        let names: Vec<String> = (0..110).map(name).collect();
        let mut map = HostMap::with_capacity(1);
        for (i, name) in names.iter().enumerate() {
            map.insert(&HostPattern::parse(name).unwrap(), i);
            map.insert(&HostPattern::parse(&format!("*.{name}")).unwrap(), i + 1_000);
        }
        assert_eq!(map.len(), 2 * names.len());
        for (i, name) in names.iter().enumerate() {
            assert_eq!(map.get(name), Some(&i), "{name}");
            assert_eq!(map.get(&format!("x.{name}")), Some(&(i + 1_000)), "{name}");
            assert_eq!(map.get(&format!("{name}x")), None, "{name}");
        }
        assert_eq!(size_of::<Slot<[u64; 2]>>(), 64, "a cache line");
    }
}
