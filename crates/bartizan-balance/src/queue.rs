//! Requests that wait for a free slot.
//!
//! There is a line for each backend, of those who have to get to that one, and a line for the whole
//! cluster, of those to whom any will do. A slot that becomes free goes to whoever has waited longest
//! of both.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use crate::cluster::ClusterLoad;
use crate::lease::Home;
use crate::sync::{AtomicUsize, Ordering, fence};
use crate::{Backend, BackendId, Lease, Table};

/// Who waits for the backends of a cluster.
#[derive(Debug)]
pub(crate) struct Queue {
    // The most that wait for any backend.
    length: usize,
    load: Arc<ClusterLoad>,
    // Those in all lines, and those in the cluster's.
    waiting: AtomicUsize,
    waiting_for_any: AtomicUsize,
    // Those of the latter who do not take every backend.
    choosy: AtomicUsize,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    next: Ticket,
    any: Line,
    own: HashMap<BackendId, Line>,
}

/// In the order of arrival.
type Line = BTreeMap<Ticket, Waiter>;

/// When somebody came, in relation to others.
pub(crate) type Ticket = u64;

#[derive(Debug)]
struct Waiter {
    home: Arc<Home>,
    // Who need not be offered.
    tried: Box<[BackendId]>,
    // The backend, for those who wait for that very one.
    backend: Option<Arc<Backend>>,
    counted: bool,
    grant: oneshot::Sender<Lease>,
}

/// What came of joining a line.
#[derive(Debug)]
pub(crate) enum Joined<T> {
    /// There was a slot in the meantime.
    Served(T),
    Waits(Waiting),
    /// There is a newer table: to be chosen anew.
    Outdated,
    /// As many wait as may.
    Full,
}

impl Queue {
    pub(crate) fn new(length: usize, load: Arc<ClusterLoad>) -> Self {
        Self {
            length,
            load,
            waiting: AtomicUsize::new(0),
            waiting_for_any: AtomicUsize::new(0),
            choosy: AtomicUsize::new(0),
            lines: Mutex::new(Lines::default()),
        }
    }

    pub(crate) fn load(&self) -> &Arc<ClusterLoad> {
        &self.load
    }

    /// Whether there are people in line to whom any backend will do: who comes later waits, too.
    pub(crate) fn is_lined_up(&self) -> bool {
        self.waiting_for_any.load(Ordering::Relaxed) > 0
    }

    /// Waits for any backend that was not `tried`, unless `pick` finds a slot after all. Who has
    /// been in line before keeps the `ticket`.
    pub(crate) fn join_any<T>(
        &self,
        home: &Arc<Home>,
        table: &Table,
        tried: &[BackendId],
        ticket: Option<Ticket>,
        pick: impl FnOnce() -> Option<T>,
    ) -> Joined<T> {
        let mut lines = self.lines();
        let _arrival = self.arrive();
        if is_outdated(home, table) {
            return Joined::Outdated;
        }
        // With others in line there was no slot for them a moment ago.
        let is_first = lines.any.is_empty();
        if is_first && let Some(served) = pick() {
            return Joined::Served(served);
        }
        if lines.any.len() >= self.length {
            return Joined::Full;
        }
        let waiting = self.stand(&mut lines, home, ticket, tried.into(), None);
        // A policy of affinity wants one backend, and there may be a slot of another.
        let unwanted = match is_first {
            true => self.serve_all(&mut lines, table),
            false => self.serve_more(&mut lines, table),
        };
        drop(lines);
        drop(unwanted);
        Joined::Waits(waiting)
    }

    /// Waits for the backend at `position`, unless it has a slot after all.
    pub(crate) fn join_own(
        &self,
        home: &Arc<Home>,
        table: &Table,
        position: usize,
        ticket: Option<Ticket>,
    ) -> Joined<Lease> {
        let mut lines = self.lines();
        let _arrival = self.arrive();
        if is_outdated(home, table) {
            return Joined::Outdated;
        }
        let backend = &table.members()[position];
        let line = lines.own.get(&backend.id()).map_or(0, BTreeMap::len);
        if line == 0
            && let Some(lease) = home.lease(table, position)
        {
            return Joined::Served(lease);
        }
        if backend.limits().queue.is_some_and(|most| line >= most.get() as usize) {
            return Joined::Full;
        }
        let waiting = self.stand(&mut lines, home, ticket, [].into(), Some(backend));
        let mut unwanted = self.serve(&mut lines, table, position);
        unwanted.extend(self.serve_more(&mut lines, table));
        drop(lines);
        drop(unwanted);
        Joined::Waits(waiting)
    }

    /// A slot of `backend` has become free: whoever has waited longest gets it.
    pub(crate) fn freed(&self, table: &Table, backend: &Backend) {
        // The slot was given back before; pairs with that of `arrive`. `tests/loom` has the model.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(position) = table.position(backend.id()) {
            let unwanted = self.serve(&mut self.lines(), table, position);
            // Not before the lock is given back, because this comes here again.
            drop(unwanted);
        }
    }

    /// A slot was taken somewhere: where limits grow with the load, that may be what makes another.
    pub(crate) fn grown(&self, table: &Table) {
        if self.load.counts() && self.waiting.load(Ordering::SeqCst) > 0 {
            let unwanted = self.serve_all(&mut self.lines(), table);
            // Not before the lock is given back.
            drop(unwanted);
        }
    }

    /// Serves whom it can after a change of the table, and sends those to choose anew whose backend
    /// is not eligible any more, or who have tried all that are.
    pub(crate) fn reconsider(&self, table: &Table) {
        // After the table was published: who arrives sees that table, or is seen here.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut lines = self.lines();
        let stays = |id: &BackendId| table.position(*id).is_some_and(|p| table.is_eligible(p));
        let leave: Vec<_> = lines.own.keys().copied().filter(|id| !stays(id)).collect();
        for id in leave {
            lines.own.remove(&id).into_iter().flatten().for_each(|(_, waiter)| self.left(&waiter));
        }
        let wants = |waiter: &Waiter, position: usize| {
            table.members().get(position).is_some_and(|m| !waiter.tried.contains(&m.id()))
        };
        let waits_for_nobody = |waiter: &Waiter| !table.eligible_from(0).any(|p| wants(waiter, p));
        let leave: Vec<_> =
            lines.any.iter().filter(|(_, w)| waits_for_nobody(w)).map(|(t, _)| *t).collect();
        for ticket in leave {
            lines.any.remove(&ticket).iter().for_each(|waiter| self.left(waiter));
        }
        let unwanted = self.serve_all(&mut lines, table);
        drop(lines);
        drop(unwanted);
    }

    /// Hands slots out. Returns those that nobody wanted any more.
    fn serve(&self, lines: &mut Lines, table: &Table, position: usize) -> Vec<Lease> {
        let mut unwanted = Vec::new();
        let Some(backend) = table.members().get(position) else { return unwanted };
        while let Some((own, ticket)) = lines.next_for(backend.id(), table.is_eligible(position)) {
            let line = if own { lines.own.get_mut(&backend.id()) } else { Some(&mut lines.any) };
            let Some(line) = line else { break };
            let lease = line.get(&ticket).and_then(|next| next.home.lease(table, position));
            // Who cannot be served stays in line.
            let Some(lease) = lease else { break };
            let Some(waiter) = line.remove(&ticket) else { break };
            if own && line.is_empty() {
                lines.own.remove(&backend.id());
            }
            self.left(&waiter);
            unwanted.extend(waiter.grant.send(lease).err());
        }
        unwanted
    }

    fn serve_all(&self, lines: &mut Lines, table: &Table) -> Vec<Lease> {
        // Who is pinned to a backend that drains waits for it as well.
        let others = lines.own.keys().filter_map(|id| table.position(*id));
        let others: Vec<_> = others.filter(|position| !table.is_eligible(*position)).collect();
        let free = table.eligible_from(0).chain(others).filter(|p| table.has_room(*p));
        free.flat_map(|position| self.serve(lines, table, position)).collect()
    }

    /// Where limits grow with the load, one more in line may be what makes a slot. And where some in
    /// line do not take every backend, there may be a slot that only those behind them want.
    fn serve_more(&self, lines: &mut Lines, table: &Table) -> Vec<Lease> {
        let may_be_free = self.load.counts() || self.choosy.load(Ordering::Relaxed) > 0;
        if may_be_free { self.serve_all(lines, table) } else { Vec::new() }
    }

    fn stand(
        &self,
        lines: &mut Lines,
        home: &Arc<Home>,
        ticket: Option<Ticket>,
        tried: Box<[BackendId]>,
        backend: Option<&Arc<Backend>>,
    ) -> Waiting {
        let ticket = ticket.unwrap_or_else(|| {
            lines.next += 1;
            lines.next
        });
        let (grant, granted) = oneshot::channel();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let counted = self.load.more();
        let waiter =
            Waiter { home: Arc::clone(home), tried, backend: backend.cloned(), counted, grant };
        match backend {
            None => {
                self.waiting_for_any.fetch_add(1, Ordering::Relaxed);
                self.choosy.fetch_add(usize::from(!waiter.tried.is_empty()), Ordering::Relaxed);
                lines.any.insert(ticket, waiter);
            }
            Some(backend) => {
                backend.load.enqueued();
                lines.own.entry(backend.id()).or_default().insert(ticket, waiter);
                home.more(backend);
            }
        }
        Waiting { home: Arc::clone(home), ticket, backend: backend.map(|b| b.id()), granted }
    }

    /// Settles the counts of somebody who is not in line any more.
    fn left(&self, waiter: &Waiter) {
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if waiter.counted {
            self.load.less();
        }
        match &waiter.backend {
            None => {
                self.waiting_for_any.fetch_sub(1, Ordering::Relaxed);
                self.choosy.fetch_sub(usize::from(!waiter.tried.is_empty()), Ordering::Relaxed);
            }
            Some(backend) => {
                backend.load.dequeued();
                waiter.home.less(backend);
            }
        }
    }

    /// Counts somebody who looks for a slot with the lock held. A slot that becomes free from now on
    /// is offered; one that became free before is seen.
    fn arrive(&self) -> Arrival<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Arrival(&self.waiting)
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether another table was published, which those who were in line then were served by.
fn is_outdated(home: &Home, table: &Table) -> bool {
    home.cluster().table().version() != table.version()
}

struct Arrival<'a>(&'a AtomicUsize);

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Lines {
    /// Who comes next for a slot of `backend`: whether from its own line, and the ticket.
    fn next_for(&self, backend: BackendId, eligible: bool) -> Option<(bool, Ticket)> {
        let own = self.own.get(&backend).and_then(|line| line.keys().next().copied());
        let wants = |(_, waiter): &(&Ticket, &Waiter)| !waiter.tried.contains(&backend);
        let any = self.any.iter().filter(|_| eligible).find(wants).map(|(ticket, _)| *ticket);
        match (own, any) {
            (Some(own), Some(any)) => Some(if own < any { (true, own) } else { (false, any) }),
            (Some(own), None) => Some((true, own)),
            (None, any) => any.map(|any| (false, any)),
        }
    }
}

/// A place in a line. Dropped, it is given up; a slot that was given to it already goes to the next.
#[derive(Debug)]
pub(crate) struct Waiting {
    home: Arc<Home>,
    ticket: Ticket,
    backend: Option<BackendId>,
    granted: oneshot::Receiver<Lease>,
}

impl Waiting {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }
}

/// Resolves to the slot; to none if there is to be another choice, because the backend has gone.
impl Future for Waiting {
    type Output = Option<Lease>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Lease>> {
        Poll::Ready(ready!(Pin::new(&mut self.granted).poll(cx)).ok())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let queue = self.home.cluster().queue();
        let mut lines = queue.lines();
        let waiter = match self.backend {
            None => lines.any.remove(&self.ticket),
            Some(id) => {
                let waiter = lines.own.get_mut(&id).and_then(|line| line.remove(&self.ticket));
                if lines.own.get(&id).is_some_and(BTreeMap::is_empty) {
                    lines.own.remove(&id);
                }
                waiter
            }
        };
        drop(lines);
        waiter.iter().for_each(|waiter| queue.left(waiter));
    }
}

#[cfg(test)]
impl Queue {
    /// Who has a free slot that somebody in line would take.
    pub(crate) fn stalled(&self, table: &Table) -> Option<usize> {
        let lines = self.lines();
        let wanted = |p: &usize| {
            table.has_room(*p)
                && lines.next_for(table.members()[*p].id(), table.is_eligible(*p)).is_some()
        };
        (0..table.members().len()).find(wanted)
    }

    pub(crate) fn counts(&self) -> [usize; 4] {
        let lines = self.lines();
        [
            self.waiting.load(Ordering::SeqCst),
            self.waiting_for_any.load(Ordering::SeqCst),
            self.choosy.load(Ordering::SeqCst),
            lines.any.len() + lines.own.len(),
        ]
    }
}
