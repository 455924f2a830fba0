//! Tickets of one trust epoch, for rustls.
//!
//! ```text
//! key name 16 ‖ nonce 12 ‖ AES-256-GCM(session), tag 16      the key name is authenticated too
//! ```
//!
//! Name and key are derived from a secret of the ring and from the trust, so a ticket of another
//! trust or of a forgotten epoch is known by its name, and dropped without a trial.
//!
//! Nonces are random, so one key may encrypt 2^32 times (NIST SP 800-38D §8.3: two nonces are the
//! same with a probability below 2^-32 then). A key lives for a period and for one trust. With the
//! default of 6 h, that is 198,000 tickets a second, or 99,000 handshakes of TLS 1.3, which has two
//! tickets each: more than a machine does, and a limit on all instances together that share a key.

use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use bartizan_net::clock::Clock;
use rustls::server::ProducesTickets;

use super::TicketKeys;
use super::ring::{Ring, Secret, hkdf};

/// Makes and opens tickets under one trust with the keys of one [`TicketKeys`].
pub(super) struct Ticketer {
    keys: TicketKeys,
    trust: [u8; 32],
    clock: Arc<dyn Clock>,
    cached: ArcSwap<Keyring>,
}

impl Ticketer {
    pub(super) fn new(keys: TicketKeys, trust: [u8; 32], clock: Arc<dyn Clock>) -> Self {
        let cached = ArcSwap::from_pointee(Keyring::new(&Ring::empty(), &trust));
        Self { keys, trust, clock, cached }
    }

    /// The keys of now: derived when the ring has changed, else those derived before.
    fn keyring(&self) -> Guard<Arc<Keyring>> {
        let ring = self.keys.ring(self.clock.now());
        let cached = self.cached.load();
        if cached.generation == ring.generation {
            return cached;
        }
        // Two threads may do this at once. What they derive is the same; neither waits.
        let derived = Arc::new(Keyring::new(&ring, &self.trust));
        self.cached.store(Arc::clone(&derived));
        Guard::from_inner(derived)
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // At most the seven days that RFC 8446 §4.6.1 allows; see `Epochs::every`.
        u32::try_from(self.keys.period().as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let length = HEAD + plain.len() + TAG;
        // A session holds the client's certificates, and TLS has two bytes for a ticket's length.
        u16::try_from(length).ok()?;
        let keyring = self.keyring();
        let key = keyring.keys.get(keyring.makes)?;
        let mut ticket = Vec::with_capacity(length);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&[0; HEAD - NAME]);
        ticket.extend_from_slice(plain);
        let (nonce, tag) =
            key.aead.seal_in_place_separate_tag(Aad::from(key.name), &mut ticket[HEAD..]).ok()?;
        ticket[NAME..HEAD].copy_from_slice(nonce.as_ref());
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk()?;
        let keyring = self.keyring();
        // Not in constant time: names travel in the clear.
        let key = keyring.keys.iter().find(|key| key.name == *name)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key.aead.open_in_place(nonce, Aad::from(name), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticketer").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// The keys of a [`Ring`] for one trust.
struct Keyring {
    generation: u64,
    keys: Vec<Key>,
    makes: usize,
}

struct Key {
    name: [u8; NAME],
    aead: RandomizedNonceKey,
}

impl Keyring {
    fn new(ring: &Ring, trust: &[u8; 32]) -> Self {
        let keys = ring.secrets.iter().map(|secret| Key::new(secret, trust)).collect();
        Self { generation: ring.generation, keys, makes: ring.makes }
    }
}

impl Key {
    fn new(secret: &Secret, trust: &[u8; 32]) -> Self {
        let key = hkdf::<32>(secret.as_slice(), &[KEY_LABEL, trust]);
        let aead = RandomizedNonceKey::new(&AES_256_GCM, key.as_slice())
            .expect("AES-256-GCM takes 32 bytes");
        Self { name: *hkdf(secret.as_slice(), &[NAME_LABEL, trust]), aead }
    }
}

const NAME: usize = 16;

/// Name and nonce.
const HEAD: usize = NAME + 12;

const TAG: usize = 16;

/// As for the epochs' label: the same on every instance, another for another format.
const KEY_LABEL: &[u8] = b"bartizan ticket key 1";

const NAME_LABEL: &[u8] = b"bartizan ticket name 1";

#[cfg(test)]
mod tests;
