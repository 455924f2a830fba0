//! Keys as they are kept.

use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Key;

/// The key of an entry of a [`StickTable`](crate::StickTable).
///
/// Displays as an address, as text with what is not printable escaped, or as a digest in
/// hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StickKey {
    /// An address, or the network that it is in.
    Ip(IpAddr),
    /// A text or other bytes.
    Bytes(Box<[u8]>),
    /// The digest of bytes that are longer than the table keeps. It is another one in each table.
    Digest([u64; 2]),
}

impl fmt::Display for StickKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Bytes(bytes) => bytes.escape_ascii().fmt(f),
            Self::Digest([high, low]) => write!(f, "digest:{high:016x}{low:016x}"),
        }
    }
}

/// A key in the form in which it is compared. Each kind lies in a slab of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stored {
    V4(u32),
    V6([u8; 16]),
    Text(Text),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Text {
    Bytes(Box<[u8]>),
    Digest([u64; 2]),
}

/// What a slab can be keyed by. The default is what lies in free places.
pub(super) trait SlabKey: Hash + Eq + Default + fmt::Debug {
    /// What it has on the heap, in bytes.
    fn heap(&self) -> usize {
        0
    }

    fn stored(&self) -> StickKey;
}

impl SlabKey for u32 {
    fn stored(&self) -> StickKey {
        StickKey::Ip(Ipv4Addr::from_bits(*self).into())
    }
}

impl SlabKey for [u8; 16] {
    fn stored(&self) -> StickKey {
        StickKey::Ip(Ipv6Addr::from(*self).into())
    }
}

impl SlabKey for Text {
    fn heap(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Digest(_) => 0,
        }
    }

    fn stored(&self) -> StickKey {
        match self {
            Self::Bytes(bytes) => StickKey::Bytes(bytes.clone()),
            Self::Digest(digest) => StickKey::Digest(*digest),
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::Digest([0; 2])
    }
}

/// Hashes with secrets of this table, so that nobody can choose whose shard is crowded, or make two
/// long keys share a digest.
#[derive(Debug)]
pub(super) struct Hashers {
    place: RandomState,
    digest: [RandomState; 2],
    key_len: usize,
}

impl Hashers {
    pub(super) fn new(key_len: usize) -> Self {
        let digest = [RandomState::new(), RandomState::new()];
        Self { place: RandomState::new(), digest, key_len }
    }

    pub(super) fn stored(&self, key: &Key<'_>) -> Stored {
        match key {
            Key::Ip(IpAddr::V4(ip)) => Stored::V4(ip.to_bits()),
            Key::Ip(IpAddr::V6(ip)) => Stored::V6(ip.octets()),
            Key::Bytes(bytes) if bytes.len() <= self.key_len => {
                Stored::Text(Text::Bytes(bytes.as_ref().into()))
            }
            Key::Bytes(bytes) => {
                let half = |i: usize| self.digest[i].hash_one(bytes.as_ref());
                Stored::Text(Text::Digest([half(0), half(1)]))
            }
        }
    }

    pub(super) fn hash(&self, key: &Stored) -> u64 {
        match key {
            Stored::V4(key) => self.place.hash_one(key),
            Stored::V6(key) => self.place.hash_one(key),
            Stored::Text(key) => self.place.hash_one(key),
        }
    }

    pub(super) fn places(&self) -> &RandomState {
        &self.place
    }
}
