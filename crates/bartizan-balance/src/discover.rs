//! Following what somebody else knows of the backends.

use std::fmt;
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_net::BoxError;
use tokio::task::{AbortHandle, unconstrained, yield_now};
use tokio::time::sleep;
use tower::discover::{Change, Discover};

use crate::{Backend, Cluster};

use held::Held;

mod held;

impl Cluster {
    /// Has the backends of `discover` from now on, beside those that it has already, until the guard
    /// is dropped.
    ///
    /// All changes that are there at once are made in one step. A key that is inserted again
    /// replaces its backend; the old one stays, with its live state, if name, address, server name,
    /// role and limits are the same, and gets the new one's weight. What the cluster has from
    /// elsewhere stays as it is: a backend with a name that is taken is left out, which is an event,
    /// and comes in with the first change after the name has become free.
    ///
    /// A discovery that ends or fails leaves the backends as they are. After a failure it is asked
    /// again, in 100 ms at the earliest; longer pauses are up to itself. A change is a tracing event
    /// (target `bartizan_balance`, level info), and so is a failure (warn, once in a row). What is
    /// held in memory is bounded by what the discovery holds.
    ///
    /// Dropped, the guard ends this, and the backends stay.
    ///
    /// ```
    /// use std::convert::Infallible;
    ///
    /// use bartizan_balance::{Backend, Cluster};
    /// use tower::discover::Change;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let web = Cluster::builder("web").backend("web1", "192.0.2.1:80").build()?;
    /// let web2 = Backend::new("web2", "192.0.2.2:80".parse()?);
    /// let changes = futures_util::stream::iter([Ok::<_, Infallible>(Change::Insert("key", web2))]);
    /// let _following = web.follow(changes);
    /// # tokio::task::yield_now().await;
    /// # assert_eq!(web.table().members().len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, as everything that spawns.
    pub fn follow<D>(&self, discover: D) -> FollowGuard
    where
        D: Discover + Send + 'static,
        D::Key: Hash + Send,
        D::Service: Into<Arc<Backend>>,
        D::Error: Into<BoxError>,
    {
        let task = tokio::spawn(follow(self.clone(), discover));
        FollowGuard { task: task.abort_handle() }
    }
}

/// Ends the following of a discovery when dropped.
#[derive(Debug)]
#[must_use = "dropped, it ends the following"]
pub struct FollowGuard {
    task: AbortHandle,
}

impl FollowGuard {
    /// Lets it go on for as long as the runtime does.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for FollowGuard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow<D>(cluster: Cluster, discover: D)
where
    D: Discover,
    D::Key: Hash,
    D::Service: Into<Arc<Backend>>,
    D::Error: Into<BoxError>,
{
    let mut discover = pin!(discover);
    let mut held = Held::default();
    let mut fails = false;
    loop {
        // tokio's own channels pretend to be empty after 128 items, which would make many tables of
        // one set; a batch has a bound of its own.
        let batch = unconstrained(poll_fn(|cx| poll_batch(discover.as_mut(), cx)));
        let (changes, then) = batch.await;
        fails &= changes.is_empty();
        if !changes.is_empty() {
            held.follow(&cluster, changes);
        }
        match then {
            Then::Wait => {}
            Then::Yield => yield_now().await,
            Then::Failed(error) => {
                tell_failure(&cluster, &error, fails);
                fails = true;
                sleep(PAUSE).await;
            }
            Then::Over => {
                tracing::info!(cluster = %cluster.name(), "discovery has ended: the backends stay");
                return;
            }
        }
    }
}

fn tell_failure(cluster: &Cluster, error: &dyn fmt::Display, again: bool) {
    let cluster = cluster.name();
    match again {
        false => tracing::warn!(%cluster, %error, "discovery has failed: the backends stay"),
        true => tracing::debug!(%cluster, %error, "discovery has failed again"),
    }
}

/// What is to be done after a batch.
enum Then {
    /// Nothing more is ready.
    Wait,
    /// There may be more, but others want to run, too.
    Yield,
    Failed(BoxError),
    Over,
}

type Batch<K> = (Vec<Change<K, Arc<Backend>>>, Then);

/// All changes that are ready at once.
fn poll_batch<D>(mut discover: Pin<&mut D>, cx: &mut Context<'_>) -> Poll<Batch<D::Key>>
where
    D: Discover,
    D::Service: Into<Arc<Backend>>,
    D::Error: Into<BoxError>,
{
    let mut changes = Vec::new();
    let then = loop {
        if changes.len() == BATCH {
            break Then::Yield;
        }
        match discover.as_mut().poll_discover(cx) {
            Poll::Ready(Some(Ok(Change::Insert(key, backend)))) => {
                changes.push(Change::Insert(key, backend.into()));
            }
            Poll::Ready(Some(Ok(Change::Remove(key)))) => changes.push(Change::Remove(key)),
            Poll::Ready(Some(Err(error))) => break Then::Failed(error.into()),
            Poll::Ready(None) => break Then::Over,
            Poll::Pending if changes.is_empty() => return Poll::Pending,
            Poll::Pending => break Then::Wait,
        }
    };
    Poll::Ready((changes, then))
}

/// More than a cluster has backends; a stream that is always ready must not collect for ever.
const BATCH: usize = 16_384;

/// A stream that does nothing but fail must not keep a processor busy.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
