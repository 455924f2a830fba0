//! Changes of health, for whoever wants to know.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::Stream;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use super::Condition;
use crate::Backend;

/// A backend of a cluster has changed its [`Condition`].
///
/// Changes that several threads make at the same moment may be told in another order:
/// [`Cluster::health`](crate::Cluster::health) says what holds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct HealthChange {
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// The backend.
    pub backend: Arc<Backend>,
    /// What it was.
    pub from: Condition,
    /// What it is now.
    pub to: Condition,
    /// Why.
    pub reason: Arc<str>,
    /// When.
    pub at: Instant,
}

impl fmt::Display for HealthChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, backend, from, to, reason, .. } = self;
        write!(f, "{cluster}/{} is {to}, and was {from}: {reason}", backend.name())
    }
}

impl HealthChange {
    /// Tells the log, on the target `bartizan_balance`.
    pub(crate) fn trace(&self) {
        let (cluster, backend, reason) = (&self.cluster, self.backend.name(), &*self.reason);
        let from = self.from.as_str();
        match self.to {
            Condition::Up => tracing::info!(%cluster, %backend, from, reason, "backend is up"),
            Condition::Down => tracing::warn!(%cluster, %backend, from, reason, "backend is down"),
            Condition::Unfit => {
                tracing::warn!(%cluster, %backend, from, reason, "backend is down: it is unfit");
            }
            Condition::Ejected => {
                tracing::warn!(%cluster, %backend, from, reason, "backend is ejected");
            }
            to => tracing::info!(%cluster, %backend, from, reason, "backend is {to}"),
        }
    }
}

/// The changes of a cluster's backends, from the moment it was made.
///
/// A stream that ends with the cluster. Who is so slow that 256 changes are waiting misses the oldest
/// ones, and is told so.
#[derive(Debug)]
pub struct HealthChanges {
    changes: BroadcastStream<HealthChange>,
}

/// So many changes were not looked at in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} changes of health were missed: they were not taken in time")]
#[non_exhaustive]
pub struct MissedChanges {
    /// How many.
    pub count: u64,
}

impl HealthChanges {
    pub(crate) fn new(changes: broadcast::Receiver<HealthChange>) -> Self {
        Self { changes: BroadcastStream::new(changes) }
    }

    /// The next change; `None` once the cluster is gone. Cancel safe.
    ///
    /// # Errors
    ///
    /// [`MissedChanges`]; the next call goes on with the oldest one that is left.
    pub async fn recv(&mut self) -> Option<Result<HealthChange, MissedChanges>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for HealthChanges {
    type Item = Result<HealthChange, MissedChanges>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.changes).poll_next(cx).map(|next| {
            next.map(|change| {
                change.map_err(|BroadcastStreamRecvError::Lagged(count)| MissedChanges { count })
            })
        })
    }
}

/// How many changes wait for a slow subscriber.
pub(crate) const KEPT: usize = 256;
