//! Where the layer and the balancer meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bartizan_balance::{
    Affinity, Backend, BackendId, Free, OnDrain, OnPinnedDown, Pick, Pin, Standing, Tie,
};
use http::Request;

use super::layer::Shared;
use super::tokens::Genuine;

/// Follows the cookies that a [`StickyCookieLayer`](crate::StickyCookieLayer) above has read, and
/// tells it which backend has served.
///
/// What it wraps, such as a stick table, is followed by clients without a cookie, and by those whose
/// cookie's backend cannot be had while the contract lets them go elsewhere. So the cookie comes
/// before the table, and the table before the policy, as with HAProxy. What it wraps is told of all
/// requests, so that a stick table also learns from cookies.
///
/// A request that no such layer has seen is in the hands of what it wraps alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByCookie<A = Free> {
    inner: A,
}

impl ByCookie {
    /// By the cookie, and otherwise as the policy chooses.
    pub fn new() -> Self {
        Self { inner: Free::default() }
    }
}

impl<A> ByCookie<A> {
    /// By the cookie, and otherwise by `inner`.
    pub fn over(inner: A) -> Self {
        Self { inner }
    }
}

impl<A: Affinity<Request<B>>, B> Affinity<Request<B>> for ByCookie<A> {
    type Tie = CookieTie<A::Tie>;

    fn tie(&self, request: &Request<B>, now: Instant) -> Self::Tie {
        let slot = request.extensions().get::<Arc<Slot>>().cloned();
        CookieTie { slot, inner: self.inner.tie(request, now) }
    }
}

/// What ties one request to a backend by its cookie. See [`ByCookie`].
#[derive(Debug)]
pub struct CookieTie<T> {
    slot: Option<Arc<Slot>>,
    inner: T,
}

impl<T: Tie> Tie for CookieTie<T> {
    fn hash(&self) -> Option<u64> {
        self.inner.hash()
    }

    fn poll_pin(&mut self, cx: &mut Context<'_>) -> Poll<Option<Pin>> {
        let pin = self.slot.as_ref().and_then(|slot| slot.pin());
        match pin {
            Some((pin, true)) => Poll::Ready(Some(pin)),
            // Without another pin, it is this one that the contract is about.
            Some((pin, false)) => self.inner.poll_pin(cx).map(|other| other.or(Some(pin))),
            None => self.inner.poll_pin(cx),
        }
    }

    fn propose(&mut self, backend: &Backend) -> BackendId {
        self.inner.propose(backend)
    }

    fn failed(&mut self, backend: &Backend) {
        self.inner.failed(backend);
    }

    fn settled(&mut self, pick: &Pick) {
        if let Some(slot) = &self.slot {
            slot.served.store(pick.backend.id().get(), Ordering::Relaxed);
        }
        self.inner.settled(pick);
    }
}

/// What accompanies a request in its extensions.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) shared: Arc<Shared>,
    pub(super) asked: Option<Genuine>,
    // The number of the backend that has served; they start at 1. What the response says comes
    // later by other means, so nothing is published with it.
    served: AtomicU64,
}

impl Slot {
    pub(super) fn new(shared: Arc<Shared>, asked: Option<Genuine>) -> Self {
        Self { shared, asked, served: AtomicU64::new(0) }
    }

    /// The backend that has served, by its number.
    pub(super) fn served(&self) -> Option<u64> {
        Some(self.served.load(Ordering::Relaxed)).filter(|id| *id > 0)
    }

    /// Who the client is pinned to, and whether it can go there as things stand, or has to insist.
    fn pin(&self) -> Option<(Pin, bool)> {
        let backend = self.asked?.backend;
        let contract = self.shared.cookie.contract;
        let table = self.shared.cluster.table();
        let standing = table.position(backend).map_or(Standing::Out, |at| table.standing(at));
        let holds = match standing {
            Standing::Serving => true,
            Standing::Draining => contract.on_drain != OnDrain::Migrate,
            _ => contract.on_down != OnPinnedDown::Repin,
        };
        Some((Pin::new(backend, "cookie", contract), holds))
    }
}
