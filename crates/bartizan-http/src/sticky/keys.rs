//! The keys that cookies are made with.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::tokens::Tokens;

/// The keys that persistence cookies are made with: the current one, and earlier ones, whose cookies
/// are still believed.
///
/// Clones are handles on the same keys, and [`replace`](Self::replace) and [`rotate`](Self::rotate)
/// take effect on all layers that were made with them, at once. A client with a cookie of an earlier
/// key is given one of the current key with its next response.
///
/// Instances that serve the same clients need the same keys. To rotate theirs without losing a
/// client, have all of them know the new key as an earlier one first, then make it the current one.
///
/// The keys are overwritten when they are dropped, and never shown.
#[derive(Clone)]
pub struct StickyKeys {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    ring: Arc<Ring>,
    users: Vec<Weak<Tokens>>,
}

/// Keys at one moment, the current one first; never empty.
pub(super) struct Ring {
    keys: Vec<StickyKey>,
}

/// A key, padded to a block or hashed as RFC 2104 §2 has it, so that it cannot be of a wrong length.
///
/// Boxed, so that a list that grows leaves no copy of it behind.
pub(super) struct StickyKey(Box<Zeroizing<[u8; BLOCK]>>);

impl StickyKeys {
    /// One key of at least 32 bytes, from a good source of chance: `openssl rand 32`.
    ///
    /// # Errors
    ///
    /// [`StickyKeyError::TooShort`].
    pub fn new(current: impl AsRef<[u8]>) -> Result<Self, StickyKeyError> {
        Ok(Self::of(Ring { keys: vec![StickyKey::new(current.as_ref())?] }))
    }

    /// A current key, and earlier ones.
    ///
    /// # Errors
    ///
    /// [`StickyKeyError`].
    pub fn with_earlier<K: AsRef<[u8]>>(
        current: impl AsRef<[u8]>,
        earlier: impl IntoIterator<Item = K>,
    ) -> Result<Self, StickyKeyError> {
        Ring::new(current.as_ref(), earlier).map(Self::of)
    }

    /// One key by chance. For single instances: others do not know it, nor does the next start of
    /// this program, so clients are then distributed anew.
    pub fn random() -> Self {
        let mut key = StickyKey::zero();
        rand::fill(&mut key.0[..]);
        Self::of(Ring { keys: vec![key] })
    }

    /// Has these keys from now on, and no others.
    ///
    /// Makes the cookies of all backends anew before it returns: a few microseconds for each.
    ///
    /// # Errors
    ///
    /// [`StickyKeyError`]; the keys then stay as they were.
    pub fn replace<K: AsRef<[u8]>>(
        &self,
        current: impl AsRef<[u8]>,
        earlier: impl IntoIterator<Item = K>,
    ) -> Result<(), StickyKeyError> {
        let ring = Ring::new(current.as_ref(), earlier)?;
        self.lock().publish(ring);
        Ok(())
    }

    /// Makes `current` the current key, and the one that was the first of the earlier ones. The
    /// oldest is forgotten when there are more than eight.
    ///
    /// # Errors
    ///
    /// [`StickyKeyError::TooShort`]; the keys then stay as they were.
    pub fn rotate(&self, current: impl AsRef<[u8]>) -> Result<(), StickyKeyError> {
        let mut keys = vec![StickyKey::new(current.as_ref())?];
        let mut shared = self.lock();
        keys.extend(shared.ring.keys.iter().take(MAX_KEYS - 1).map(StickyKey::copy));
        shared.publish(Ring { keys });
        Ok(())
    }

    /// Has `tokens` made of these keys, now and whenever they are replaced.
    pub(super) fn serve(&self, tokens: &Arc<Tokens>) {
        let mut shared = self.lock();
        tokens.rekey(&shared.ring);
        shared.users.retain(|user| user.strong_count() > 0);
        shared.users.push(Arc::downgrade(tokens));
    }

    fn of(ring: Ring) -> Self {
        Self { shared: Arc::new(Mutex::new(Shared { ring: Arc::new(ring), users: Vec::new() })) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn publish(&mut self, ring: Ring) {
        self.ring = Arc::new(ring);
        self.users.retain(|user| user.strong_count() > 0);
        for user in self.users.iter().filter_map(Weak::upgrade) {
            user.rekey(&self.ring);
        }
    }
}

impl Ring {
    fn new<K: AsRef<[u8]>>(
        current: &[u8],
        earlier: impl IntoIterator<Item = K>,
    ) -> Result<Self, StickyKeyError> {
        let mut keys = vec![StickyKey::new(current)?];
        for key in earlier {
            if keys.len() == MAX_KEYS {
                return Err(StickyKeyError::TooMany);
            }
            keys.push(StickyKey::new(key.as_ref())?);
        }
        Ok(Self { keys })
    }

    pub(super) fn keys(&self) -> &[StickyKey] {
        &self.keys
    }
}

impl StickyKey {
    pub(super) fn new(key: &[u8]) -> Result<Self, StickyKeyError> {
        if key.len() < MIN_KEY {
            return Err(StickyKeyError::TooShort { length: key.len() });
        }
        let mut own = Self::zero();
        match own.0.get_mut(..key.len()) {
            Some(start) => start.copy_from_slice(key),
            None => own.0[..32].copy_from_slice(&Sha256::digest(key)),
        }
        Ok(own)
    }

    fn zero() -> Self {
        Self(Box::new(Zeroizing::new([0; BLOCK])))
    }

    fn copy(&self) -> Self {
        let mut copy = Self::zero();
        copy.0.copy_from_slice(&self.0[..]);
        copy
    }

    /// The key as a block of SHA-256.
    pub(super) fn block(&self) -> &[u8; BLOCK] {
        &self.0
    }
}

impl fmt::Debug for StickyKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StickyKeys").field("keys", &self.lock().ring.keys.len()).finish()
    }
}

/// Keys cannot be used for cookies. The operator's fault.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StickyKeyError {
    /// A key can be guessed.
    #[error("a key of {length} bytes is too short for cookies; take 32 random bytes or more")]
    TooShort {
        /// Its length, in bytes.
        length: usize,
    },

    /// Each key costs memory for each backend.
    #[error("there are more than 8 keys for cookies; leave out the oldest")]
    TooMany,
}

/// The strength of the MAC: RFC 2104 §3 advises against less than the length of the hash.
const MIN_KEY: usize = 32;

/// A block of SHA-256, in bytes.
const BLOCK: usize = 64;

/// A token takes some 100 bytes for each key and backend; nobody needs to rotate so often that more
/// than a few keys are in use at a time.
const MAX_KEYS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_32_bytes_or_more_and_there_are_8_of_them_at_most() {
        let short = StickyKeyError::TooShort { length: 31 };
        assert_eq!(StickyKeys::new([7; 31]).unwrap_err(), short);
        let keys = StickyKeys::new([7; 32]).unwrap();
        assert_eq!(keys.rotate([7; 31]), Err(short));
        assert_eq!(keys.replace([7; 32], [[7; 31]]), Err(short));
        assert_eq!(keys.replace([7; 32], [[8; 32]; 7]), Ok(()));
        assert_eq!(keys.replace([7; 32], [[8; 32]; 8]), Err(StickyKeyError::TooMany));
        assert_eq!(keys.rotate([9; 100]), Ok(()));
        assert_eq!(keys.lock().ring.keys.len(), MAX_KEYS);
    }

    #[test]
    fn keys_are_never_shown() {
        let keys = StickyKeys::new(*b"0123456789abcdef0123456789abcdef").unwrap();
        assert_eq!(format!("{keys:?}"), "StickyKeys { keys: 1 }");
        let keys = StickyKeys::with_earlier([7; 32], [[8; 32]]).unwrap();
        assert_eq!(format!("{keys:?}"), "StickyKeys { keys: 2 }");
    }

    #[test]
    fn random_keys_differ() {
        let block = |keys: StickyKeys| *keys.lock().ring.keys[0].block();
        assert_ne!(block(StickyKeys::random()), block(StickyKeys::random()));
    }
}
