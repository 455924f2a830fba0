//! What ties a request to a backend.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::{Backend, BackendId, Pick};

/// Finds out what ties a request, or a connection, to a backend: a key for policies of hashes, an
/// entry of a stick table, a cookie.
///
/// [`Balance`](crate::Balance) asks once per request, before it picks.
pub trait Affinity<Req> {
    /// What accompanies the request until it is answered.
    type Tie: Tie;

    /// Looks at the request. `now` is the time of the pick.
    fn tie(&self, request: &Req, now: Instant) -> Self::Tie;
}

/// What ties one request to a backend. Dropped when the request is answered or given up.
pub trait Tie {
    /// A well mixed hash of the request's key, for policies of hashes.
    fn hash(&self) -> Option<u64> {
        None
    }

    /// Who the client is pinned to, if anybody. Asked before the first pick, until it is ready.
    ///
    /// A table that is shared with other instances may have to be asked over the network; it answers
    /// nobody if that fails.
    fn poll_pin(&mut self, cx: &mut Context<'_>) -> Poll<Option<Pin>> {
        let _ = cx;
        Poll::Ready(None)
    }

    /// A policy has chosen this backend. Returns the one to be tried: another, if a simultaneous
    /// request of the same client has chosen first.
    fn propose(&mut self, backend: &Backend) -> BackendId {
        backend.id()
    }

    /// The picked backend could not be had.
    fn failed(&mut self, backend: &Backend) {
        let _ = backend;
    }

    /// The connection to the picked backend is established, and the request goes there.
    ///
    /// May be called again: for a request that came back, and went elsewhere.
    fn settled(&mut self, pick: &Pick) {
        let _ = pick;
    }
}

/// The backend that a client is pinned to, and what holds if it cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pin {
    /// The backend.
    pub backend: BackendId,
    /// What says so, for traces: `"cookie"`, `"stick table"`.
    pub by: &'static str,
    /// What holds if it cannot be had.
    pub contract: StickyContract,
}

impl Pin {
    /// Pinned to `backend` as `by` says.
    pub fn new(backend: BackendId, by: &'static str, contract: StickyContract) -> Self {
        Self { backend, by, contract }
    }
}

/// What a pinned client can rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StickyContract {
    /// What happens when the backend is down.
    pub on_down: OnPinnedDown,
    /// What happens when the backend drains.
    pub on_drain: OnDrain,
}

impl StickyContract {
    /// HAProxy's: who cannot be served is pinned anew; who is pinned is served while draining.
    pub fn new() -> Self {
        Self::default()
    }

    /// What happens when the backend is down.
    pub fn on_down(self, on_down: OnPinnedDown) -> Self {
        Self { on_down, ..self }
    }

    /// What happens when the backend drains.
    pub fn on_drain(self, on_drain: OnDrain) -> Self {
        Self { on_drain, ..self }
    }
}

/// What happens to a client whose backend is down, in maintenance, or cannot be dialled.
///
/// Whose backend has left the cluster is pinned anew in any case: it does not come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnPinnedDown {
    /// The policy chooses another, and the client is pinned to that. HAProxy does so with `option
    /// redispatch`.
    #[default]
    Repin,
    /// The request fails ([`BalanceError::PinnedDown`](crate::BalanceError::PinnedDown)), and the
    /// client stays pinned. So it does if too many are in line there already
    /// ([`BalanceError::QueueFull`](crate::BalanceError::QueueFull)). Envoy does so with `strict`.
    Fail,
    /// The request waits so long for the backend to come back; then as with `Repin`. While it is not
    /// known to be down, it is dialled after each [pause](crate::BalanceLayer::retry_pause), and that
    /// does not count as [retries](crate::BalanceLayer::retries).
    Wait(Duration),
}

/// What happens to a client whose backend drains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDrain {
    /// It goes there all the same, as with HAProxy.
    #[default]
    Honour,
    /// The policy chooses another, and the client is pinned to that.
    Migrate,
}

/// Ties nothing to anything.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Free;

impl<Req> Affinity<Req> for Free {
    type Tie = Self;

    fn tie(&self, _: &Req, _: Instant) -> Self {
        Self
    }
}

impl Tie for Free {}
