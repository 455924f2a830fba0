//! Clients pinned by a table that several instances share.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::StickTable;
use super::claims::Part;
use super::sticky::BY;
use crate::clock::now;
use crate::{
    Affinity, Backend, BackendId, BoxError, Cluster, Free, Key, KeyOf, Pick, Pin, StickyContract,
    Tie,
};

/// A table outside of this process, which remembers the names of backends.
///
/// Keys are those that the clients have, not hashed. Futures are dropped when they take too long,
/// so they have to be cancel safe.
pub trait StickStore: Send + Sync + 'static {
    /// The name of the backend that the key is pinned to. A match refreshes the entry.
    fn find(
        &self,
        key: &Key<'static>,
    ) -> impl Future<Output = Result<Option<Arc<str>>, BoxError>> + Send;

    /// Pins the key to the backend of this name, instead of any other.
    fn put(
        &self,
        key: &Key<'static>,
        backend: &Arc<str>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Forgets the key.
    fn remove(&self, key: &Key<'static>) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// Pins clients to backends by a key and a [`StickStore`], which other instances pin by as well.
///
/// As [`Sticky`](crate::Sticky), but for where entries are:
///
/// - The store is asked for each request that has a key, before the first pick. If it does not
///   answer within [`deadline`](Self::deadline), fails, or names a backend that the cluster does not
///   have, the client is pinned to nobody.
/// - A new pin is written by a task of its own while the request goes on, within the same deadline.
///   While as many [`writes`](Self::writes) as may be are on their way, nothing is written.
/// - Simultaneous requests of one key agree within this instance; across instances the last write
///   wins. Writes of one key on their way at once may arrive in any order.
/// - Until the store has it, and for 10 seconds at most, a pin is remembered here: it counts if the
///   store has none or cannot say, and the next request of the client writes it again.
///
/// Failures are logged, once a second at most, with how many there were.
pub struct SharedSticky<S, K, A = Free> {
    pub(super) shared: Arc<Shared<S>>,
    limits: Limits,
    key: K,
    contract: StickyContract,
    inner: A,
}

/// What the handles of a [`SharedSticky`] share.
pub(super) struct Shared<S> {
    store: S,
    cluster: Cluster,
    pub(super) local: StickTable,
    trouble: Mutex<Trouble>,
}

#[derive(Clone, Debug)]
struct Limits {
    deadline: Duration,
    writes: Arc<Semaphore>,
}

impl<S: StickStore, K> SharedSticky<S, K> {
    /// Pins by `key` to backends of `cluster`, as `store` remembers.
    pub fn new(store: S, cluster: Cluster, key: K) -> Self {
        let local = StickTable::new(LOCAL, LOCAL_FOR);
        let shared = Shared { store, cluster, local, trouble: Mutex::default() };
        let limits = Limits { deadline: DEADLINE, writes: Arc::new(Semaphore::new(WRITES)) };
        let contract = StickyContract::new();
        Self { shared: Arc::new(shared), limits, key, contract, inner: Free }
    }
}

impl<S, K, A> SharedSticky<S, K, A> {
    /// What pinned clients can rely on. Default: as with HAProxy.
    pub fn contract(self, contract: StickyContract) -> Self {
        Self { contract, ..self }
    }

    /// Waits so long for the store. Default: 100 ms.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.limits.deadline = deadline;
        self
    }

    /// Has at most so many writes on their way to the store. Default: 1,024.
    pub fn writes(mut self, writes: usize) -> Self {
        self.limits.writes = Arc::new(Semaphore::new(writes.min(Semaphore::MAX_PERMITS)));
        self
    }

    /// Lets `inner` decide what the store does not know, as [`Sticky::over`](crate::Sticky::over).
    pub fn over<B>(self, inner: B) -> SharedSticky<S, K, B> {
        let Self { shared, limits, key, contract, .. } = self;
        SharedSticky { shared, limits, key, contract, inner }
    }
}

impl<S: StickStore, K, A> SharedSticky<S, K, A> {
    /// Forgets the key, here and in the store. What is on its way to the store, here or at another
    /// instance, may still get there.
    ///
    /// # Errors
    ///
    /// The store's, or that it took longer than the [deadline](Self::deadline).
    pub async fn forget(&self, key: &Key<'_>) -> Result<(), BoxError> {
        self.shared.local.remove(key);
        let key = owned(key);
        timeout(self.limits.deadline, self.shared.store.remove(&key)).await?
    }
}

impl<S, K: Clone, A: Clone> Clone for SharedSticky<S, K, A> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            limits: self.limits.clone(),
            key: self.key.clone(),
            contract: self.contract,
            inner: self.inner.clone(),
        }
    }
}

impl<S, K: fmt::Debug, A: fmt::Debug> fmt::Debug for SharedSticky<S, K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sticky = f.debug_struct("SharedSticky");
        sticky.field("key", &self.key).field("limits", &self.limits).field("inner", &self.inner);
        sticky.finish_non_exhaustive()
    }
}

impl<S, K, A, Req> Affinity<Req> for SharedSticky<S, K, A>
where
    S: StickStore,
    K: KeyOf<Req>,
    A: Affinity<Req>,
{
    type Tie = SharedTie<S, A::Tie>;

    fn tie(&self, request: &Req, now: Instant) -> Self::Tie {
        let pinned = self.key.key(request).map(|key| Keyed {
            part: Part::new(&self.shared.local, &key),
            hash: key.hash(),
            now: self.shared.local.inner.time(now),
            key: owned(&key),
            asked: Asked::Not,
            known: None,
        });
        SharedTie {
            shared: Arc::clone(&self.shared),
            limits: self.limits.clone(),
            keyed: pinned,
            contract: self.contract,
            inner: self.inner.tie(request, now),
        }
    }
}

/// What a [`SharedSticky`] ties one request to. Dropped before it settled, it gives up its claim,
/// and does not wait for the store any more.
pub struct SharedTie<S, T = Free> {
    shared: Arc<Shared<S>>,
    limits: Limits,
    keyed: Option<Keyed>,
    contract: StickyContract,
    inner: T,
}

/// What there is of a request that has a key.
struct Keyed {
    part: Part,
    hash: u64,
    now: u64,
    key: Key<'static>,
    asked: Asked,
    // What the store said, or was given.
    known: Option<BackendId>,
}

enum Asked {
    Not,
    Asking(Answer),
    Answered,
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Option<Arc<str>>> + Send>>;

impl<S: StickStore> Shared<S> {
    fn ask(self: Arc<Self>, deadline: Duration, key: Key<'static>) -> Answer {
        Box::pin(async move {
            match timeout(deadline, self.store.find(&key)).await {
                Ok(Ok(name)) => name,
                Ok(Err(error)) => self.in_trouble("find", &*error),
                Err(late) => self.in_trouble("find", &late),
            }
        })
    }

    fn write(self: &Arc<Self>, limits: &Limits, key: &Key<'static>, backend: &Backend) {
        let permit = Arc::clone(&limits.writes).try_acquire_owned();
        let (Ok(permit), Ok(runtime)) = (permit, Handle::try_current()) else {
            return self.in_trouble("put", &"too many are on their way, or there is no runtime");
        };
        let (this, deadline) = (Arc::clone(self), limits.deadline);
        let (key, name, id) = (key.clone(), Arc::clone(backend.name()), backend.id());
        runtime.spawn(async move {
            match timeout(deadline, this.store.put(&key, &name)).await {
                // Once the store has it, the store alone says whether it still holds.
                Ok(Ok(())) => this.local.remove_if(&key, id),
                Ok(Err(error)) => this.in_trouble("put", &*error),
                Err(late) => this.in_trouble("put", &late),
            }
            drop(permit);
        });
    }

    /// The member of the cluster that has this name.
    fn backend(&self, name: &str) -> Option<BackendId> {
        let table = self.cluster.table();
        Some(table.members()[table.position_of_name(name)?].id())
    }
}

impl<S> Shared<S> {
    fn in_trouble<R: Default>(&self, doing: &'static str, error: &dyn fmt::Display) -> R {
        let now = now();
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = trouble.report(now) {
            let cluster = self.cluster.name();
            tracing::warn!(%cluster, doing, %error, times, "the shared stick table failed; clients are pinned anew");
        }
        R::default()
    }
}

impl<S: StickStore, T: Tie> Tie for SharedTie<S, T> {
    fn hash(&self) -> Option<u64> {
        self.inner.hash().or_else(|| Some(self.keyed.as_ref()?.hash))
    }

    fn poll_pin(&mut self, cx: &mut Context<'_>) -> Poll<Option<Pin>> {
        let Some(keyed) = &mut self.keyed else { return self.inner.poll_pin(cx) };
        if let Asked::Not = keyed.asked {
            let shared = Arc::clone(&self.shared);
            // Before the store is asked, or a write that it has not seen and that ends in the
            // meantime would be missed.
            keyed.part.look_up(keyed.now);
            keyed.asked = Asked::Asking(shared.ask(self.limits.deadline, keyed.key.clone()));
        }
        if let Asked::Asking(answer) = &mut keyed.asked {
            let name = ready!(answer.as_mut().poll(cx));
            keyed.asked = Asked::Answered;
            keyed.known = name.and_then(|name| self.shared.backend(&name));
            let found = keyed.part.pinned_first_by(keyed.known);
            if let Some(backend) = found {
                return Poll::Ready(Some(Pin::new(backend, BY, self.contract)));
            }
        }
        self.inner.poll_pin(cx)
    }

    fn propose(&mut self, backend: &Backend) -> BackendId {
        let wanted = self.inner.propose(backend);
        match &mut self.keyed {
            Some(keyed) => keyed.part.propose(wanted, keyed.now),
            None => wanted,
        }
    }

    fn failed(&mut self, backend: &Backend) {
        if let Some(keyed) = &mut self.keyed {
            keyed.part.failed(backend.id());
        }
        self.inner.failed(backend);
    }

    fn settled(&mut self, pick: &Pick) {
        if let Some(keyed) = &mut self.keyed {
            let backend = &pick.backend;
            keyed.part.settled(backend.id());
            if keyed.known != Some(backend.id()) {
                keyed.known = Some(backend.id());
                self.shared.write(&self.limits, &keyed.key, backend);
            }
        }
        self.inner.settled(pick);
    }
}

impl<S, T: fmt::Debug> fmt::Debug for SharedTie<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = self.keyed.as_ref().map(|keyed| &keyed.part);
        let mut tie = f.debug_struct("SharedTie");
        tie.field("part", &part).field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// Failures since the last report of them.
#[derive(Debug, Default)]
struct Trouble {
    reported: Option<Instant>,
    since: u64,
}

impl Trouble {
    /// Counts a failure. Returns how many there are to be reported, if it is time for that.
    fn report(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        let pause = |at: Instant| now.saturating_duration_since(at) < REPORT;
        if self.reported.is_some_and(pause) {
            return None;
        }
        self.reported = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

fn owned(key: &Key<'_>) -> Key<'static> {
    match key {
        Key::Ip(ip) => Key::Ip(*ip),
        Key::Bytes(bytes) => Key::Bytes(bytes.to_vec().into()),
    }
}

/// A client notices longer waits, and a store in the same data centre answers in a few milliseconds.
const DEADLINE: Duration = Duration::from_millis(100);

/// Some thousand writes a second with a store that answers within the deadline, in a megabyte.
const WRITES: usize = 1_024;

/// Pins on their way to the store, or that it could not be given a moment ago.
const LOCAL: usize = 65_536;

/// A hundred times as long as a write may take, and short enough for other instances' pins to count.
const LOCAL_FOR: Duration = Duration::from_secs(10);

/// Often enough to see whether it goes on.
const REPORT: Duration = Duration::from_secs(1);
