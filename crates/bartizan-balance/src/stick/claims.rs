//! What simultaneous requests of one key have agreed on, before there is an entry.
//!
//! ```text
//! ## Nobody => Claimed     the first of them proposes
//! ## Claimed => Claimed    others follow; the only one who is left may move it
//! ## Claimed => Entry      the connection is established
//! ## Claimed => Nobody     the backend could not be had, or the last of them gave up
//! ```

use std::sync::atomic::Ordering;

use super::StickTable;
use super::stored::Stored;
use crate::clock::now;
use crate::{BackendId, Key};

/// The backend that requests of one key try.
#[derive(Debug)]
pub(super) struct Claim {
    // Tells it from later ones of the same key.
    id: u64,
    backend: BackendId,
    // How many requests follow it.
    sharers: usize,
}

/// A request's part in the claims and the entry of its key. Gives up its claim when dropped.
#[derive(Debug)]
pub(super) struct Part {
    table: StickTable,
    key: Stored,
    hash: u64,
    // The claim that it shares, if that still stands.
    claim: Option<u64>,
    // What the entry said when it was looked at or written last.
    pinned: Option<BackendId>,
    // Without an allocation until something has failed.
    failed: Vec<BackendId>,
}

impl Part {
    pub(super) fn new(table: &StickTable, key: &Key<'_>) -> Self {
        let key = table.inner.hashers.stored(key);
        let hash = table.inner.hashers.hash(&key);
        let table = table.clone();
        Self { table, key, hash, claim: None, pinned: None, failed: Vec::new() }
    }

    /// The backend of the entry, which is refreshed.
    pub(super) fn find(&mut self, now: u64) -> Option<BackendId> {
        self.pinned = self.table.inner.find(&self.key, self.hash, now);
        self.pinned
    }

    /// Notes the backend of the entry, which stays as old as it is.
    pub(super) fn look_up(&mut self, now: u64) {
        let inner = &self.table.inner;
        self.pinned = inner
            .with(inner.place(self.hash), |shard| inner.peek(shard, &self.key, self.hash, now));
    }

    /// What another table says, or else what was noted.
    pub(super) fn pinned_first_by(&mut self, other: Option<BackendId>) -> Option<BackendId> {
        self.pinned = other.or(self.pinned);
        self.pinned
    }

    /// Claims `wanted`, or follows who was first.
    pub(super) fn propose(&mut self, wanted: BackendId, now: u64) -> BackendId {
        let inner = &self.table.inner;
        inner.with(inner.place(self.hash), |shard| {
            let entry = inner.peek(shard, &self.key, self.hash, now);
            if let Some(claim) = shard.claims.get_mut(&self.key) {
                let mine = self.claim == Some(claim.id);
                if mine && claim.sharers == 1 {
                    claim.backend = wanted;
                }
                if !self.failed.contains(&claim.backend) {
                    claim.sharers += usize::from(!mine);
                    self.claim = Some(claim.id);
                    return claim.backend;
                }
                // It failed here: those who wait for it find out, and follow this one then.
            } else if let Some(entry) = entry
                && Some(entry) != self.pinned
                && !self.failed.contains(&entry)
            {
                // Somebody has connected since the entry was looked at.
                self.claim = None;
                return entry;
            }
            let id = inner.serial.fetch_add(1, Ordering::Relaxed);
            self.claim = Some(id);
            shard.claims.insert(self.key.clone(), Claim { id, backend: wanted, sharers: 1 });
            wanted
        })
    }

    /// The backend could not be had: whoever follows a claim on it proposes anew.
    pub(super) fn failed(&mut self, backend: BackendId) {
        if !self.failed.contains(&backend) {
            self.failed.push(backend);
        }
        let inner = &self.table.inner;
        inner.with(inner.place(self.hash), |shard| {
            if shard.claims.get(&self.key).is_some_and(|claim| claim.backend == backend) {
                shard.claims.remove(&self.key);
            }
        });
        self.give_up();
    }

    /// The connection is established. Writes the entry, unless it says so already.
    pub(super) fn settled(&mut self, backend: BackendId) {
        // The request's own time may be long past: it may have waited for a slot.
        let now = self.table.inner.time(now());
        let news = self.pinned != Some(backend);
        if news {
            self.pinned = Some(backend);
            self.table.inner.upsert(&self.key, self.hash, now, |view| {
                *view.backend = Some(backend);
            });
        }
        if news || self.claim.is_some() {
            let inner = &self.table.inner;
            inner.with(inner.place(self.hash), |shard| {
                if shard.claims.get(&self.key).is_some_and(|claim| claim.backend == backend) {
                    shard.claims.remove(&self.key);
                }
            });
        }
        self.give_up();
    }

    fn give_up(&mut self) {
        let Some(id) = self.claim.take() else { return };
        let inner = &self.table.inner;
        inner.with(inner.place(self.hash), |shard| {
            let Some(claim) = shard.claims.get_mut(&self.key).filter(|claim| claim.id == id) else {
                return;
            };
            claim.sharers -= 1;
            if claim.sharers == 0 {
                shard.claims.remove(&self.key);
            }
        });
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.give_up();
    }
}
