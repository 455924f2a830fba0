//! Picking, dialling and calling.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_net::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::clock::now;
use crate::lease::Home;
use crate::{Affinity, Backend, BalanceError, Cluster, Free, Hold, Policy, Resend};
use work::Work;

mod choice;
mod future;
mod trial;
mod work;

pub use future::BalanceFuture;

/// Puts a [`Balance`] over a dial service.
///
/// | setting | default | HAProxy |
/// | --- | --- | --- |
/// | [`affinity`](Self::affinity) | none | `hash`, `stick`, `cookie` |
/// | [`retries`](Self::retries) | 3 | `retries` |
/// | [`retry_pause`](Self::retry_pause) | 1 s | 1 s |
/// | [`queue_timeout`](Self::queue_timeout) | 5 s | `timeout queue` |
#[derive(Debug)]
pub struct BalanceLayer<P, A = Free> {
    cluster: Cluster,
    // Shared by all services made of this layer and its clones.
    policy: Arc<P>,
    affinity: Arc<A>,
    retries: u32,
    pause: Duration,
    queue_timeout: Duration,
}

impl<P> BalanceLayer<P> {
    /// Balances over `cluster` as `policy` chooses.
    pub fn new(cluster: Cluster, policy: P) -> Self {
        Self {
            cluster,
            policy: Arc::new(policy),
            affinity: Arc::new(Free),
            retries: RETRIES,
            pause: PAUSE,
            queue_timeout: QUEUE_TIMEOUT,
        }
    }
}

impl<P, A> BalanceLayer<P, A> {
    /// Ties requests to backends: by a key for policies of hashes, a stick table, a cookie.
    pub fn affinity<B>(self, affinity: B) -> BalanceLayer<P, B> {
        BalanceLayer {
            cluster: self.cluster,
            policy: self.policy,
            affinity: Arc::new(affinity),
            retries: self.retries,
            pause: self.pause,
            queue_timeout: self.queue_timeout,
        }
    }

    /// Tries this many further backends after the first.
    pub fn retries(self, retries: u32) -> Self {
        Self { retries, ..self }
    }

    /// Waits so long before it tries a backend for a second time.
    pub fn retry_pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Waits so long, in all, for backends that have reached their [limit](crate::Limits).
    pub fn queue_timeout(self, limit: Duration) -> Self {
        Self { queue_timeout: limit, ..self }
    }
}

impl<P, A> Clone for BalanceLayer<P, A> {
    fn clone(&self) -> Self {
        Self {
            cluster: self.cluster.clone(),
            policy: Arc::clone(&self.policy),
            affinity: Arc::clone(&self.affinity),
            ..*self
        }
    }
}

impl<P: Policy, A, M> Layer<M> for BalanceLayer<P, A> {
    type Service = Balance<P, M, A>;

    fn layer(&self, dial: M) -> Self::Service {
        let home = Arc::new(Home::new(self.cluster.clone(), &*self.policy));
        Balance { shared: Arc::new(Shared { layer: self.clone(), home }), dial }
    }
}

/// Sends each request, or connection, to a backend of its cluster.
///
/// It picks, dials with `M`, and calls what the dialling answered with. Because dialling comes
/// before the request is handed over, a failed dial moves on to another backend with no copy of the
/// request: to one that has not been tried, while there is one.
///
/// Who a client is pinned to comes first, then a backend that is [on trial](crate::Outlier), then the
/// policy; see [`Affinity`]. Where all slots are
/// taken ([`Limits`](crate::Limits)), the request waits: for the backend that it has to get to, or
/// for any, in the order of arrival.
///
/// What is safe to repeat ([`Resend`]) and was not answered with a single byte
/// ([`Unanswered`](crate::Unanswered)) is sent again, to another backend while there is one: once
/// in any case, and to each further one within the retries.
///
/// Always ready. Clones share the policy's state. Cancel safe: dropping the future gives back what
/// is in flight, and the place in a queue.
pub struct Balance<P, M, A = Free> {
    shared: Arc<Shared<P, A>>,
    dial: M,
}

#[derive(Debug)]
struct Shared<P, A> {
    layer: BalanceLayer<P, A>,
    home: Arc<Home>,
}

impl<P: Policy, M> Balance<P, M> {
    /// Balances over `cluster` as `policy` chooses, with the defaults of [`BalanceLayer`].
    pub fn new(cluster: Cluster, policy: P, dial: M) -> Self {
        BalanceLayer::new(cluster, policy).layer(dial)
    }
}

impl<P, M: Clone, A> Clone for Balance<P, M, A> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), dial: self.dial.clone() }
    }
}

impl<P: fmt::Debug, M, A: fmt::Debug> fmt::Debug for Balance<P, M, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl<P, M, A, Req> Service<Req> for Balance<P, M, A>
where
    P: Policy,
    A: Affinity<Req>,
    M: Service<Arc<Backend>, Error: Into<BoxError>> + Clone,
    M::Response: Service<Req, Error: Into<BoxError>, Response: Hold>,
    Req: Resend + 'static,
{
    type Response = <<M::Response as Service<Req>>::Response as Hold>::Held;
    type Error = BalanceError;
    type Future = BalanceFuture<P, M, Req, A>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BalanceError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        BalanceFuture::new(Work::new(Arc::clone(&self.shared), request, now()), self.dial.clone())
    }
}

/// HAProxy's `retries`.
const RETRIES: u32 = 3;

/// HAProxy waits as long before it dials the same server again: one that restarts needs a moment.
const PAUSE: Duration = Duration::from_secs(1);

/// HAProxy's `timeout queue` is its `timeout connect` by default, and that has no default; five
/// seconds is what its manual and most configurations give.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
