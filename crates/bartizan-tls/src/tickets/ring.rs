//! Which secrets make and open tickets in an epoch: values and arithmetic, without a clock.
//!
//! A random ring, by the epoch that the clock is in:
//!
//! ```text
//! next            ⇒ Rotate: a fresh secret makes tickets, the one before still opens
//! later           ⇒ Rotate: a fresh secret, no other; what it made is older than a period
//! same, or before ⇒ Stay: a clock that is set back across the border must not rotate twice
//! earlier         ⇒ Follow: the same secrets; else they would stay until the clock is back here
//! ```
//!
//! A shared ring is a function of the epoch, with nothing to remember.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// What the keys of tickets are derived from.
pub(super) type Secret = Zeroizing<[u8; 32]>;

/// Wall time, cut into periods that are numbered from 1970 on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epochs {
    seconds: u64,
}

impl Epochs {
    /// Whole seconds, within [`SHORTEST`] and [`LONGEST`].
    pub(super) fn every(period: Duration) -> Self {
        Self { seconds: period.clamp(SHORTEST, LONGEST).as_secs() }
    }

    pub(super) fn period(self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The epoch that `now` is in. Before 1970, where only a clock that is not set is: the first.
    pub(super) fn at(self, now: SystemTime) -> u64 {
        now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / self.seconds)
    }
}

/// Where secrets come from.
pub(super) enum Origin {
    /// Chance, as the ring rotates.
    Random,
    /// Keys that other instances have as well.
    Shared(Masters),
}

/// Shared keys. Every epoch has a secret of its own from each of them.
pub(super) struct Masters {
    pub(super) keys: Vec<Zeroizing<Vec<u8>>>,
    /// The place of the key that makes tickets. All of them open.
    pub(super) makes: usize,
}

/// The secrets of one epoch.
pub(super) struct Ring {
    /// Differs from that of every ring before.
    pub(super) generation: u64,
    epoch: u64,
    pub(super) secrets: Vec<Secret>,
    /// The place of the secret that makes tickets.
    pub(super) makes: usize,
}

impl Ring {
    /// The ring before the first epoch, which holds nothing.
    pub(super) fn empty() -> Self {
        Self { generation: 0, epoch: 0, secrets: Vec::new(), makes: 0 }
    }
}

impl Origin {
    /// Whether `ring` is the one for `epoch`, or close enough.
    pub(super) fn stays(&self, ring: &Ring, epoch: u64) -> bool {
        !ring.secrets.is_empty()
            && match self {
                Self::Random => matches!(ring.epoch.checked_sub(epoch), Some(0 | 1)),
                Self::Shared(_) => ring.epoch == epoch,
            }
    }

    /// The ring for `epoch`, after `ring`, which does not [stay](Self::stays).
    ///
    /// `None` if a fresh secret is due and `fresh` gives none.
    pub(super) fn next(
        &self,
        ring: &Ring,
        epochs: Epochs,
        epoch: u64,
        fresh: impl FnOnce() -> Option<Secret>,
    ) -> Option<Ring> {
        let (secrets, makes) = match self {
            Self::Random => (rotate(ring, epoch, fresh)?, 0),
            Self::Shared(masters) => masters.secrets(epochs, epoch),
        };
        Some(Ring { generation: ring.generation + 1, epoch, secrets, makes })
    }
}

/// The one that makes tickets, then the one before it.
fn rotate(ring: &Ring, epoch: u64, fresh: impl FnOnce() -> Option<Secret>) -> Option<Vec<Secret>> {
    let steps = epoch.checked_sub(ring.epoch);
    Some(match (ring.secrets.first(), steps) {
        (Some(_), None | Some(0)) => ring.secrets.clone(),
        (Some(last), Some(1)) => vec![fresh()?, last.clone()],
        _ => vec![fresh()?],
    })
}

impl Masters {
    /// Each key's secrets of the epoch before, this one and the one after: clocks differ.
    fn secrets(&self, epochs: Epochs, epoch: u64) -> (Vec<Secret>, usize) {
        let mut secrets = Vec::with_capacity(3 * self.keys.len());
        let mut makes = 0;
        for (place, key) in self.keys.iter().enumerate() {
            for near in epoch.saturating_sub(1)..=epoch.saturating_add(1) {
                if place == self.makes && near == epoch {
                    makes = secrets.len();
                }
                // With the period: epochs of another length have the same numbers at other times.
                let info = [EPOCH_LABEL, &epochs.seconds.to_be_bytes(), &near.to_be_bytes()];
                secrets.push(hkdf(key, &info));
            }
        }
        (secrets, makes)
    }
}

/// HKDF-SHA256 (RFC 5869) without salt: what comes in is a key, not a password.
pub(super) fn hkdf<const N: usize>(secret: &[u8], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    Salt::none(HKDF_SHA256)
        .extract(secret)
        .expand(info, Length(N))
        .and_then(|key| key.fill(out.as_mut_slice()))
        .expect("the length is what it was asked for, and below 255 hashes");
    out
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Every instance that shares a key has to say the same; a new format of tickets, another.
const EPOCH_LABEL: &[u8] = b"bartizan ticket epoch 1";

/// Below, clocks of instances differ by more than a period.
const SHORTEST: Duration = Duration::from_secs(60);

/// RFC 8446 §4.6.1: no ticket is used for longer.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

#[cfg(test)]
mod tests;
