//! The hashes of libketama.

use std::fmt::{self, Write as _};

use md5::{Digest, Md5};

use super::index::Entry;
use crate::{Key, KeyOf};

/// Hashes keys as libketama does, for [`RingHash::ketama`](crate::RingHash::ketama).
///
/// By MD5; of an address, that of its text, because libketama's keys are texts. The low half of the
/// hash is libketama's: the first four bytes of the digest, the lowest first. For stick tables, the
/// key is the one that it reads.
#[derive(Clone, Copy, Debug)]
pub struct KetamaKey<K>(K);

impl<K> KetamaKey<K> {
    /// Hashes what this one reads.
    pub const fn new(key: K) -> Self {
        Self(key)
    }
}

impl<K: KeyOf<Req>, Req> KeyOf<Req> for KetamaKey<K> {
    fn key<'r>(&self, request: &'r Req) -> Option<Key<'r>> {
        self.0.key(request)
    }

    fn hash(&self, request: &Req) -> Option<u64> {
        let mut text = Text(Md5::new());
        match self.0.key(request)? {
            Key::Ip(ip) => write!(text, "{ip}").ok()?,
            Key::Bytes(bytes) => text.0.update(&bytes),
        }
        let [low, high, ..] = quarters(text.0);
        Some(u64::from(high) << 32 | u64::from(low))
    }
}

/// The points of libketama's continuum, as place and owner.
pub(super) fn points(entries: &[Entry<'_>]) -> impl Iterator<Item = (u32, u32)> {
    let all = entries.iter().map(|entry| entry.weight).sum::<u32>() as f32;
    let count = entries.len() as f32;
    entries.iter().flat_map(move |entry| {
        // In the types that libketama has it in, because what is rounded down is its result: it is
        // 39 in place of 40 for some numbers of servers.
        let share = entry.weight as f32 / all;
        let digests = (f64::from(share) * 40.0 * f64::from(count)) as f32;
        (0..digests.floor() as u32).flat_map(move |i| {
            let mut text = Text(Md5::new());
            // MD5 takes any text.
            let _ = write!(text, "{}-{i}", entry.name);
            quarters(text.0).map(|at| (at, entry.position))
        })
    })
}

/// The four numbers that a digest is taken for, the lowest byte of each first.
fn quarters(digest: Md5) -> [u32; 4] {
    let digest = u128::from_le_bytes(digest.finalize().into());
    [0, 32, 64, 96].map(|shift| (digest >> shift) as u32)
}

/// Digests what is written.
struct Text(Md5);

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}
