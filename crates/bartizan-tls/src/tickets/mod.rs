//! The keys of session tickets, shared by configurations and kept over reloads.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};
use bartizan_net::clock::Clock;
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use import::Place;
use ring::{Epochs, Masters, Origin, Ring, Secret};
use ticketer::Ticketer;

mod import;
mod ring;
mod sessions;
mod ticketer;

pub use import::{TicketKeyError, TicketKeyProblem};

pub(crate) use sessions::TrustedSessions;
#[cfg(fuzzing)]
pub(crate) use sessions::client_chain;

/// The secrets that session tickets are made and opened with. Clones share them.
///
/// Keep one for the whole process: sessions then resume under whichever [`ServerConfig`] has the
/// same trust, also after a reload. To let them resume on other instances too, give all of them the
/// same secret ([`derived`](Self::derived)) or the same key files.
///
/// Secrets change every period, by default of 6 h, at the same wall times everywhere. Whatever they
/// come from, a ticket opens for at least one period after it was made, and never after the end of
/// the one that follows; a clock of another instance that is off shortens or extends that by as
/// much. A secret that is no longer needed is erased when the next ticket is made or opened.
///
/// Tickets weaken forward secrecy. Who learns a secret can read the TLS 1.2 connections whose tickets
/// it made, and those resumed from them; those of TLS 1.3 have a key exchange of their own. Random
/// secrets are never stored and soon forgotten; a shared one tells those of all periods, so exchange
/// it from time to time.
///
/// AES-256-GCM, with keys derived by HKDF-SHA256. One key may encrypt 2^32 tickets, so all
/// instances that share secrets must make fewer in a period and under one trust: 99,000 handshakes
/// of TLS 1.3 a second, two tickets each, with the default period.
///
/// [`ServerConfig`]: rustls::ServerConfig
#[derive(Clone)]
pub struct TicketKeys {
    shared: Arc<Shared>,
}

impl TicketKeys {
    /// Random secrets of this process alone, new ones every 6 h.
    pub fn random() -> Self {
        Self::random_every(PERIOD)
    }

    /// [`random`](Self::random), with another period: at least a minute, at most 7 days.
    pub fn random_every(period: Duration) -> Self {
        Self::new(Origin::Random, period)
    }

    /// Secrets derived from one that instances share, and from the time, new ones every 6 h.
    ///
    /// Instances with the same `secret` open each other's tickets, without a message between them,
    /// as long as their clocks differ by a period at most.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] if the secret has fewer than 32 bytes.
    pub fn derived(secret: &[u8]) -> Result<Self, TicketKeyError> {
        Self::derived_every(secret, PERIOD)
    }

    /// [`derived`](Self::derived), with another period: at least a minute, at most 7 days.
    ///
    /// Instances with different periods do not open each other's tickets.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] if the secret has fewer than 32 bytes.
    pub fn derived_every(secret: &[u8], period: Duration) -> Result<Self, TicketKeyError> {
        Ok(Self::shared(import::secret(secret, Place::Bytes)?, period))
    }

    /// [`derived`](Self::derived) from what a file holds, without the white space at its ends.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] if it cannot be read, or has fewer than 32 bytes.
    pub fn from_secret_file(path: impl AsRef<Path>) -> Result<Self, TicketKeyError> {
        let path = path.as_ref();
        let text = import::read(path)?;
        let masters = import::secret(text.trim_ascii(), Place::File(path.to_owned()))?;
        Ok(Self::shared(masters, PERIOD))
    }

    /// The keys of a file for HAProxy's `tls-ticket-keys`.
    ///
    /// One key a line in base64, of 48 or of 80 bytes, all of the same length, and at least three.
    /// The last three are used: all open tickets, the penultimate one makes them, so that a key is
    /// known everywhere before it is used.
    ///
    /// They serve as secrets that instances of bartizan share. Each period derives others from
    /// them, so a ticket ends with its period even where nobody rotates the file. Tickets have
    /// bartizan's own format: HAProxy does not open them, nor are HAProxy's opened here.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] tells the line and what is wrong with it.
    pub fn from_haproxy_file(path: impl AsRef<Path>) -> Result<Self, TicketKeyError> {
        let path = path.as_ref();
        Ok(Self::shared(import::haproxy(&import::read(path)?, Some(path))?, PERIOD))
    }

    /// [`from_haproxy_file`](Self::from_haproxy_file), from the text of one.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] tells the line and what is wrong with it.
    pub fn from_haproxy(text: &[u8]) -> Result<Self, TicketKeyError> {
        Ok(Self::shared(import::haproxy(text, None)?, PERIOD))
    }

    /// The keys of the files of nginx' `ssl_session_ticket_key`, in their order.
    ///
    /// Each file is a key of 48 or 80 bytes. All open tickets, the first one makes them. As with
    /// [HAProxy's](Self::from_haproxy_file), the tickets have another format than nginx'.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] tells the file and what is wrong with it, or that there is none.
    pub fn from_nginx_files<P: AsRef<Path>>(
        paths: impl IntoIterator<Item = P>,
    ) -> Result<Self, TicketKeyError> {
        let keys = paths.into_iter().map(|path| {
            let path = path.as_ref();
            Ok((import::read(path)?, Place::File(path.to_owned())))
        });
        Ok(Self::shared(import::nginx(keys)?, PERIOD))
    }

    /// [`from_nginx_files`](Self::from_nginx_files), from what is in them.
    ///
    /// # Errors
    ///
    /// [`TicketKeyError`] tells the number of the key and what is wrong with it, or that there is
    /// none.
    pub fn from_nginx<K: AsRef<[u8]>>(
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Self, TicketKeyError> {
        let keys = (1..)
            .zip(keys)
            .map(|(number, key)| Ok((Zeroizing::new(key.as_ref().to_vec()), Place::Key(number))));
        Ok(Self::shared(import::nginx(keys)?, PERIOD))
    }

    /// How long a ticket can be opened at least.
    pub fn period(&self) -> Duration {
        self.shared.epochs.period()
    }

    /// Makes and opens the tickets of one `trust` for a [`ServerConfig`](rustls::ServerConfig).
    ///
    /// `trust` is a digest of all that decides which clients are let in and as whom: policy, roots,
    /// revocation lists. (Not the name: rustls compares the server name itself.) Ticketers open each other's tickets if both their keys and their
    /// trust are the same. Without that a session that was made where no client certificate is
    /// needed would be resumed where one is.
    pub fn ticketer(&self, trust: [u8; 32], clock: Arc<dyn Clock>) -> Arc<dyn ProducesTickets> {
        Arc::new(Ticketer::new(self.clone(), trust, clock))
    }

    fn shared(masters: Masters, period: Duration) -> Self {
        Self::new(Origin::Shared(masters), period)
    }

    fn new(origin: Origin, period: Duration) -> Self {
        let shared = Shared {
            origin,
            epochs: Epochs::every(period),
            ring: ArcSwap::from_pointee(Ring::empty()),
            turning: Mutex::new(()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The ring for `now`. Locks only to make the next one.
    fn ring(&self, now: SystemTime) -> Guard<Arc<Ring>> {
        let Shared { origin, epochs, ring, turning } = &*self.shared;
        let epoch = epochs.at(now);
        let current = ring.load();
        if origin.stays(&current, epoch) {
            return current;
        }
        let _turning = turning.lock().unwrap_or_else(PoisonError::into_inner);
        let current = ring.load();
        if origin.stays(&current, epoch) {
            return current;
        }
        let Some(next) = origin.next(&current, *epochs, epoch, random_secret) else {
            return current;
        };
        let next = Arc::new(next);
        ring.store(Arc::clone(&next));
        Guard::from_inner(next)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: &dyn fmt::Debug = match &self.shared.origin {
            Origin::Random => &"random",
            Origin::Shared(masters) => &masters.keys.len(),
        };
        f.debug_struct("TicketKeys")
            .field("keys", keys)
            .field("period", &self.period())
            .finish_non_exhaustive()
    }
}

struct Shared {
    origin: Origin,
    epochs: Epochs,
    ring: ArcSwap<Ring>,
    /// Held to make the next ring, so that two threads do not rotate twice.
    turning: Mutex<()>,
}

fn random_secret() -> Option<Secret> {
    let mut secret = Secret::default();
    aws_lc_rs::rand::fill(secret.as_mut_slice())
        .inspect_err(|_| tracing::warn!("no randomness for ticket keys; the old ones stay"))
        .ok()?;
    Some(secret)
}

/// rustls' own ticketer rotates as often. Half a working day resumes, and what leaks is bounded.
const PERIOD: Duration = Duration::from_secs(6 * 60 * 60);

#[cfg(test)]
mod tests;
