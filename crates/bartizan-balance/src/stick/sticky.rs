//! Clients pinned by a table of this process.

use std::task::{Context, Poll};
use std::time::Instant;

use super::StickTable;
use super::claims::Part;
use crate::{Affinity, Backend, BackendId, Free, Key, KeyOf, Pick, Pin, StickyContract, Tie};

/// Pins clients to backends by a key and a [`StickTable`].
///
/// The first pick for a key leaves a claim, which simultaneous requests of the same key follow. It
/// becomes an entry when the connection is established, moves with the request to another backend,
/// and lapses if the backend cannot be had or the last request that follows it is dropped. Dumps
/// show entries only.
///
/// It also lets a policy of hashes know the key, so that clients without an entry go where the hash
/// says. What has no key is left to the policy, and to what it is put [over](Self::over).
#[derive(Clone, Debug)]
pub struct Sticky<K, A = Free> {
    table: StickTable,
    key: K,
    contract: StickyContract,
    inner: A,
}

impl<K> Sticky<K> {
    pub(super) fn new(table: StickTable, key: K) -> Self {
        Self { table, key, contract: StickyContract::new(), inner: Free }
    }
}

impl<K, A> Sticky<K, A> {
    /// What pinned clients can rely on. Default: as with HAProxy.
    pub fn contract(self, contract: StickyContract) -> Self {
        Self { contract, ..self }
    }

    /// Lets `inner` decide what the table does not know: other pins, another hash. It is told what
    /// becomes of each request.
    pub fn over<B>(self, inner: B) -> Sticky<K, B> {
        Sticky { table: self.table, key: self.key, contract: self.contract, inner }
    }
}

impl<K: KeyOf<Req>, A: Affinity<Req>, Req> Affinity<Req> for Sticky<K, A> {
    type Tie = StickyTie<A::Tie>;

    fn tie(&self, request: &Req, now: Instant) -> Self::Tie {
        let key = self.key.key(request);
        let hash = key.as_ref().map(Key::hash);
        let part = key.map(|key| Part::new(&self.table, &key));
        let inner = self.inner.tie(request, now);
        StickyTie { part, hash, now: self.table.inner.time(now), contract: self.contract, inner }
    }
}

/// What a [`Sticky`] ties one request to. Dropped before it settled, it gives up its claim.
#[derive(Debug)]
pub struct StickyTie<T = Free> {
    part: Option<Part>,
    hash: Option<u64>,
    now: u64,
    contract: StickyContract,
    inner: T,
}

impl<T: Tie> Tie for StickyTie<T> {
    fn hash(&self) -> Option<u64> {
        self.inner.hash().or(self.hash)
    }

    fn poll_pin(&mut self, cx: &mut Context<'_>) -> Poll<Option<Pin>> {
        let found = self.part.as_mut().and_then(|part| part.find(self.now));
        match found {
            Some(backend) => Poll::Ready(Some(Pin::new(backend, BY, self.contract))),
            None => self.inner.poll_pin(cx),
        }
    }

    fn propose(&mut self, backend: &Backend) -> BackendId {
        let wanted = self.inner.propose(backend);
        match &mut self.part {
            Some(part) => part.propose(wanted, self.now),
            None => wanted,
        }
    }

    fn failed(&mut self, backend: &Backend) {
        if let Some(part) = &mut self.part {
            part.failed(backend.id());
        }
        self.inner.failed(backend);
    }

    fn settled(&mut self, pick: &Pick) {
        if let Some(part) = &mut self.part {
            part.settled(pick.backend.id());
        }
        self.inner.settled(pick);
    }
}

/// What says so, in traces.
pub(super) const BY: &str = "stick table";
