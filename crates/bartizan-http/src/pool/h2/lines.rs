//! The HTTP/2 connections of each backend, and the dials that requests wait for.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bartizan_balance::BackendId;
use bartizan_net::BoxError;
use http_body::Body;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::shared_error::SharedError;
use super::{Conn, Slot};
use crate::SendError;
use crate::pool::conn::Home;
use crate::pool::shelf::IdHasher;
use crate::pool::upstream::Entry;
use crate::pool::{BackendProtocol, Connected, Dials, Line, connect};

/// All HTTP/2 connections of a pool.
pub(crate) struct Lines<B> {
    hosts: Mutex<Hosts<B>>,
}

type Hosts<B> = HashMap<BackendId, Host<B>, BuildHasherDefault<IdHasher>>;

/// What is known of one backend.
struct Host<B> {
    conns: Vec<Arc<Conn<B>>>,
    dials: Vec<Dial<B>>,
    // As last announced; how many requests may hope for one dial.
    limit: u32,
    // Whether it agreed on HTTP/2 when it was last asked.
    speaks_h2: bool,
}

/// A dial under way, and who waits for it, in order.
struct Dial<B> {
    run: Weak<Run>,
    waiters: Vec<oneshot::Sender<Outcome<B>>>,
}

/// Ends a dial that nobody waits for any more. Those who wait hold it.
#[derive(Debug, Default)]
struct Run(OnceLock<AbortHandle>);

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}

enum Outcome<B> {
    Line(Line<B>),
    /// There was not room for all.
    Again,
    Failed(BoxError),
}

enum Way<B> {
    Slot(Slot<B>),
    Wait(Waiting<B>),
    /// To be dialled first, by a task that is to be kept in the `Run`.
    Lead(Waiting<B>),
    /// The backend may well speak HTTP/1.1, where nothing can be shared.
    Alone,
}

struct Waiting<B> {
    outcome: oneshot::Receiver<Outcome<B>>,
    run: Arc<Run>,
}

impl<B> Default for Host<B> {
    fn default() -> Self {
        Self { conns: Vec::new(), dials: Vec::new(), limit: u32::MAX, speaks_h2: false }
    }
}

impl<B> Host<B> {
    /// Room on the connection that has the least: the others may become idle, and expire.
    fn take(&mut self) -> Option<Slot<B>> {
        self.conns.retain(|conn| {
            let usable = conn.traffic.is_usable();
            if !usable {
                conn.traffic.retire();
            }
            usable
        });
        let roomy = self.conns.iter().filter(|conn| conn.traffic.spare() > 0);
        roomy.min_by_key(|conn| conn.traffic.spare())?.take()
    }

    /// A place among those who wait for a dial, if one has so much room to hope for.
    fn join(
        &mut self,
        tell: oneshot::Sender<Outcome<B>>,
    ) -> Result<Arc<Run>, oneshot::Sender<Outcome<B>>> {
        let room = self.limit.max(1) as usize;
        for dial in &mut self.dials {
            dial.waiters.retain(|waiter| !waiter.is_closed());
            if dial.waiters.len() < room
                && let Some(run) = dial.run.upgrade()
            {
                dial.waiters.push(tell);
                return Ok(run);
            }
        }
        Err(tell)
    }

    fn keep(&mut self, conn: Arc<Conn<B>>) {
        self.limit = conn.traffic.limit().unwrap_or(u32::MAX);
        self.speaks_h2 = true;
        self.conns.push(conn);
    }

    /// Takes a dial off the list. Returns who waits for it.
    fn end_dial(&mut self, run: &Weak<Run>) -> Vec<oneshot::Sender<Outcome<B>>> {
        let place = self.dials.iter().position(|dial| dial.run.ptr_eq(run));
        place.map(|place| self.dials.swap_remove(place).waiters).unwrap_or_default()
    }
}

impl<B> Lines<B> {
    pub(crate) fn new() -> Self {
        Self { hosts: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Hosts<B>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room on a connection that is there.
    pub(crate) fn take(&self, id: BackendId) -> Option<Slot<B>> {
        self.lock().get_mut(&id)?.take()
    }

    /// Closes what has been idle for so long, and what may not be used.
    pub(crate) fn sweep(&self, now: Instant, limit: Duration) {
        self.lock().retain(|_, host| {
            host.conns.retain(|conn| {
                let expired = conn.traffic.idle_for(now).is_some_and(|idle| idle >= limit);
                let keep = !expired && conn.traffic.is_usable();
                if !keep {
                    conn.traffic.retire();
                }
                keep
            });
            !host.conns.is_empty() || !host.dials.is_empty()
        });
    }

    /// Room on a connection, or else what to do for it.
    fn find(&self, id: BackendId, protocol: BackendProtocol) -> Way<B> {
        let mut hosts = self.lock();
        let host = hosts.entry(id).or_default();
        if let Some(slot) = host.take() {
            return Way::Slot(slot);
        }
        if protocol != BackendProtocol::Http2 && !host.speaks_h2 {
            return Way::Alone;
        }
        let (tell, outcome) = oneshot::channel();
        match host.join(tell) {
            Ok(run) => Way::Wait(Waiting { outcome, run }),
            Err(tell) => {
                let run = Arc::new(Run::default());
                host.dials.push(Dial { run: Arc::downgrade(&run), waiters: vec![tell] });
                Way::Lead(Waiting { outcome, run })
            }
        }
    }

    /// What one request has dialled for itself; kept, too, if others can share it.
    pub(crate) fn admit(
        &self,
        id: BackendId,
        connected: Connected<B>,
    ) -> Result<Line<B>, SendError> {
        let conn = match connected {
            Connected::H1(entry) => return Ok(Line::Own(entry)),
            Connected::H2(conn) => Arc::new(conn),
        };
        let slot = conn.take().ok_or(SendError::NoStreams)?;
        self.lock().entry(id).or_default().keep(conn);
        Ok(Line::Shared(slot))
    }

    /// Adds a connection that has been dialled for several, and gives them room in order.
    fn share_out(&self, id: BackendId, run: &Weak<Run>, conn: Conn<B>) {
        if conn.traffic.limit() == Some(0) {
            return self.fail(id, run, SendError::NoStreams.into());
        }
        let mut hosts = self.lock();
        let host = hosts.entry(id).or_default();
        let conn = Arc::new(conn);
        for waiter in host.end_dial(run) {
            let outcome =
                conn.take().map_or(Outcome::Again, |slot| Outcome::Line(Line::Shared(slot)));
            // Who has gone leaves its room to the next.
            drop(waiter.send(outcome));
        }
        host.keep(conn);
    }

    fn fail(&self, id: BackendId, run: &Weak<Run>, error: BoxError) {
        let mut waiters = self.end_dial(id, run);
        waiters.retain(|waiter| !waiter.is_closed());
        if let Some(last) = waiters.pop() {
            if waiters.is_empty() {
                drop(last.send(Outcome::Failed(error)));
                return;
            }
            waiters.push(last);
        }
        let error = SharedError::new(error);
        for waiter in waiters {
            drop(waiter.send(Outcome::Failed(error.clone().into())));
        }
    }

    fn end_dial(&self, id: BackendId, run: &Weak<Run>) -> Vec<oneshot::Sender<Outcome<B>>> {
        self.lock().get_mut(&id).map(|host| host.end_dial(run)).unwrap_or_default()
    }
}

/// A connection to a backend that may speak HTTP/2: room on one that is there, or a new one.
///
/// Those who ask at the same time share a dial, as many as the backend may take streams. A dial
/// goes on while anybody waits for it.
pub(crate) async fn share<D, B>(dial: D, home: Home<B>) -> Result<Line<B>, BoxError>
where
    D: Dials,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let (id, settings) = (home.backend.id(), home.pool.settings);
    for _ in 0..ROUNDS {
        let waiting = match home.pool.lines.find(id, settings.protocol) {
            Way::Slot(slot) => return Ok(Line::Shared(slot)),
            Way::Alone => {
                let connected = connect(dial, Arc::clone(&home.backend), settings).await?;
                return Ok(home.pool.lines.admit(id, connected)?);
            }
            Way::Wait(waiting) => waiting,
            Way::Lead(waiting) => {
                let lead = Lead { home: home.clone(), run: Arc::downgrade(&waiting.run) };
                let task = tokio::spawn(lead.dial(dial.clone()));
                let _ = waiting.run.0.set(task.abort_handle());
                waiting
            }
        };
        match waiting.outcome.await {
            Ok(Outcome::Line(line)) => return Ok(line),
            Ok(Outcome::Again) => {}
            Ok(Outcome::Failed(error)) => return Err(error),
            // The task is gone: a dial service has panicked, or the runtime ends.
            Err(gone) => return Err(SendError::Connection(gone.into()).into()),
        }
        drop(waiting.run);
    }
    Err(SendError::NoStreams.into())
}

/// A dial for all who wait for it, in a task of its own.
struct Lead<B> {
    home: Home<B>,
    run: Weak<Run>,
}

/// However it ends, nobody waits for it after that.
impl<B> Drop for Lead<B> {
    fn drop(&mut self) {
        drop(self.home.pool.lines.end_dial(self.home.backend.id(), &self.run));
    }
}

impl<B> Lead<B>
where
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    async fn dial<D>(self, dial: D)
    where
        D: Dials,
    {
        let Home { backend, pool } = &self.home;
        let id = backend.id();
        match connect(dial, Arc::clone(backend), pool.settings).await {
            Ok(Connected::H2(conn)) => pool.lines.share_out(id, &self.run, conn),
            Ok(Connected::H1(entry)) => self.hand_over(entry),
            Err(error) => pool.lines.fail(id, &self.run, error),
        }
    }

    /// The backend speaks HTTP/1.1 after all: the connection is for one, and each dials for itself.
    fn hand_over(&self, entry: Box<Entry<B>>) {
        let waiters = {
            let mut hosts = self.home.pool.lines.lock();
            let host = hosts.entry(self.home.backend.id()).or_default();
            host.speaks_h2 = false;
            host.end_dial(&self.run)
        };
        let mut line = Some(Line::Own(entry));
        for waiter in waiters {
            let outcome = line.take().map_or(Outcome::Again, Outcome::Line);
            if let Err(Outcome::Line(unwanted)) = waiter.send(outcome) {
                line = Some(unwanted);
            }
        }
        if let Some(Line::Own(entry)) = line {
            drop(self.home.take_back(entry));
        }
    }
}

/// Each round serves somebody, in order; so many in vain, and the backend's limit keeps falling.
const ROUNDS: usize = 16;
