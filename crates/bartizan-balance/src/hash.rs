//! Policies of hashes: a key always leads to the same backend.
//!
//! Each of them puts the backends into an order of preference for each key, from names and
//! configured weights alone, and picks the first of that order that takes the key now. What may not
//! be picked, has failed for the request, is warming up or is over its bound is passed over. The
//! order does not depend on any of these, and that is why
//!
//! - a backend that goes down takes no keys but its own away, and gets exactly these back;
//! - a change of health costs no rebuild;
//! - slow start moves the keys of the backend that is back, by degrees, and no others.
//!
//! | | look-up | at 10,000 backends | keys moved when one of 100, of 10,000 backends leaves |
//! | --- | --- | --- | --- |
//! | [`RingHash`] | O(1) | 14 MB | its own |
//! | [`Maglev`] | O(1), one load | 4 MB | 1.6 times, 9 times as many |
//! | [`Rendezvous`] | O(n) | 0.2 MB | its own |
//! | [`Rendezvous::tree`] | O(log n) | 0.4 MB | 3 times, 6 times as many |
//!
//! The order is cut short: the first backends come from the policy's own structure, and should 64
//! of them be passed over, the rest follow by exact rendezvous hashing, which costs a pass over all
//! backends. Either way `None` means that nothing may be picked at all.
//!
//! Backends are known to hashes by their *names*, and all seeds are fixed: the same names and
//! weights give the same mapping in every process, on every machine and in every version. Rename a
//! backend, and its keys move; give it another address, and they stay.
//!
//! A request without a key takes eligible backends with room in turn, as with HAProxy.

use crate::splitmix::{GAMMA, mix};

mod bound;
mod choose;
mod continuum;
mod index;
mod ketama;
mod maglev;
mod rendezvous;
mod ring;
mod roster;
mod shared;
mod tree;

pub use bound::BalanceFactor;
pub use ketama::KetamaKey;
pub use maglev::Maglev;
pub use rendezvous::Rendezvous;
pub use ring::RingHash;

/// The `n`th of the independent hashes that one hash gives, as SplitMix64 does.
#[inline]
fn nth(hash: u64, n: u64) -> u64 {
    mix(hash.wrapping_add(GAMMA.wrapping_mul(n.wrapping_add(1))))
}

/// Maps a hash evenly onto `0..count`.
#[inline]
fn onto(hash: u64, count: usize) -> usize {
    ((u128::from(hash) * count as u128) >> 64) as usize
}

#[cfg(test)]
mod tests;
