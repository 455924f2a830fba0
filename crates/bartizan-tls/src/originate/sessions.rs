//! The sessions of one backend, to be resumed.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// What a backend has given out to resume its sessions with.
///
/// There is one store for each (address, name, trust, identity), so names do not matter in it. rustls
/// keeps eight tickets per name; here are more, for many connections are opened at once after a
/// backend's restart, and each ticket is good for one.
#[derive(Default)]
pub(super) struct Sessions {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tickets: VecDeque<Tls13ClientSessionValue>,
    // Until when the first certificate is valid that a session here rests on.
    not_after: Option<SystemTime>,
    // Whether a ticket of TLS 1.3 has ever come.
    was_ticketed: bool,
}

impl Sessions {
    /// A full handshake has verified a certificate that is valid until then.
    ///
    /// Sessions do not tell whose they are, and the backends behind one address may have several
    /// certificates, of which some were renewed: the one that ends first counts for all.
    pub(super) fn verified_until(&self, not_after: Option<SystemTime>) {
        let mut kept = self.kept();
        kept.not_after = kept.not_after.into_iter().chain(not_after).min();
    }

    /// Forgets sessions whose certificate has expired: nothing is verified when one is resumed.
    pub(super) fn expire(&self, now: SystemTime) {
        if self.kept().not_after.is_some_and(|end| end < now) {
            self.forget();
        }
    }

    /// Forgets all sessions: the next handshake is a whole one.
    pub(super) fn forget(&self) {
        let mut kept = self.kept();
        kept.tls12 = None;
        kept.tickets.clear();
        kept.not_after = None;
    }

    /// Whether the backend sends tickets in TLS 1.3, be it late.
    pub(super) fn was_ticketed(&self) -> bool {
        self.kept().was_ticketed
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept().tls12 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.kept().tls12.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.kept().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        kept.was_ticketed = true;
        if kept.tickets.len() == MOST_TICKETS {
            kept.tickets.pop_front();
        }
        kept.tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.kept().tickets.pop_back()
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept();
        f.debug_struct("Sessions")
            .field("tickets", &kept.tickets.len())
            .field("tls12", &kept.tls12.is_some())
            .finish_non_exhaustive()
    }
}

/// A ticket takes some 4 KiB with the chain that belongs to it.
const MOST_TICKETS: usize = 32;
