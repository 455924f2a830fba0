//! One request on its way: what was chosen, what has failed, what comes next.

use std::future::Future;
use std::mem;
use std::pin::Pin as Pinned;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bartizan_net::BoxError;
use tokio::time::{Sleep, Timeout, sleep};

use super::Shared;
use crate::queue::{Ticket, Waiting};
use crate::{
    Affinity, Backend, BackendId, BadRequest, BalanceError, Hold, Lease, NotSent, OnPinnedDown,
    Outcome, Pick, Pin, Policy, Reason, Resend, SessionEnded, Tie, Unanswered,
};

/// What stays the same from one try to the next.
pub(super) struct Work<P, A: Affinity<Req>, Req: Resend> {
    pub(super) shared: Arc<Shared<P, A>>,
    request: Option<Req>,
    spare: Spare<Req::Spare>,
    pub(super) tie: A::Tie,
    pub(super) pin: Option<Pin>,
    // What has been chosen, when, and the proof that it is in flight.
    pub(super) pick: Option<Pick>,
    pub(super) picked: Instant,
    // Whether that is the present still: to read the clock takes a while.
    pub(super) is_fresh: bool,
    pub(super) lease: Option<Lease>,
    // Empty, and so without an allocation, until something has failed.
    pub(super) tried: Vec<BackendId>,
    // Whether some of those have only too many in line.
    pub(super) overflowed: bool,
    pub(super) tries: u32,
    // Those of them that were made while waiting for the client's backend.
    pub(super) waited: u32,
    // Whether it may find out if a backend works again.
    pub(super) may_try_out: bool,
    // Whether that it was dialled is all there is to tell of the backend, and has been told.
    is_told: bool,
    // And those that this side has ended.
    interrupted: u32,
    failed: Option<Failed>,
    // Whether a copy was sent.
    resent: bool,
    // Once it has had to wait for a slot.
    pub(super) queue: Option<InLine>,
    // Until when it waits for the client's backend, once it has had to.
    pub(super) patience: Option<tokio::time::Instant>,
}

/// A place in line. What is not spent of the time to wait is left for the next time.
#[derive(Clone, Copy)]
pub(super) struct InLine {
    pub(super) since: tokio::time::Instant,
    pub(super) left: Duration,
    pub(super) ticket: Ticket,
}

/// The failure to report if nothing helps: the last one, or the one after which a backend had the
/// request.
struct Failed {
    backend: Arc<str>,
    sent: bool,
    error: BoxError,
}

enum Spare<S> {
    Unmade,
    Made(S),
    /// There can be none, or it is on its way.
    None,
}

/// Where a choice leads.
pub(super) enum Next {
    /// To another choice.
    Pick,
    /// To the backend, a slot of which is held.
    Dial,
    Queue(Queued),
    Pause(Pause),
    Watch(Watch),
}

/// Waits in line.
pub(super) type Queued = Pinned<Box<Timeout<Waiting>>>;

/// Until the same backends are tried again.
pub(super) type Pause = Pinned<Box<Sleep>>;

/// Until the table has changed, or patience ends.
pub(super) type Watch = Pinned<Box<dyn Future<Output = ()> + Send>>;

impl<P, A, Req> Work<P, A, Req>
where
    P: Policy,
    A: Affinity<Req>,
    Req: Resend + 'static,
{
    pub(super) fn new(shared: Arc<Shared<P, A>>, request: Req, now: Instant) -> Self {
        Self {
            tie: shared.layer.affinity.tie(&request, now),
            shared,
            request: Some(request),
            spare: Spare::Unmade,
            pin: None,
            pick: None,
            picked: now,
            is_fresh: true,
            lease: None,
            tried: Vec::new(),
            overflowed: false,
            tries: 0,
            waited: 0,
            may_try_out: true,
            is_told: false,
            interrupted: 0,
            failed: None,
            resent: false,
            queue: None,
            patience: None,
        }
    }

    pub(super) fn backend(&self) -> Arc<Backend> {
        let lease = self.lease.as_ref().expect("picked before it is dialled");
        Arc::clone(lease.backend())
    }

    /// Whether a copy can be sent should the first one not be answered.
    pub(super) fn can_be_resent(&mut self) -> bool {
        self.keep_spare();
        matches!(self.spare, Spare::Made(_))
    }

    fn keep_spare(&mut self) {
        if let (Spare::Unmade, Some(request)) = (&self.spare, &self.request) {
            self.spare = request.spare().map_or(Spare::None, Spare::Made);
        }
    }

    /// What comes of a step at the backend, unless the session there is ended meanwhile.
    pub(super) fn attend<T, E: Into<BoxError>>(
        &mut self,
        cx: &mut Context<'_>,
        step: impl FnOnce(&mut Context<'_>) -> Poll<Result<T, E>>,
    ) -> Poll<Result<T, BoxError>> {
        // Before the step: a request would be handed over in vain.
        if let Some(why) = self.lease.as_ref().and_then(Lease::ended) {
            return Poll::Ready(Err(why.into()));
        }
        if let Poll::Ready(result) = step(cx) {
            return Poll::Ready(result.map_err(Into::into));
        }
        let lease = self.lease.as_mut().expect("picked before it is dialled");
        lease.poll_ended(cx).map(|why| Err(why.into()))
    }

    /// The request, for the backend that was dialled. `at_end` says that the answer will come only
    /// when all is over.
    pub(super) fn hand_over(&mut self, at_end: bool) -> Req {
        self.keep_spare();
        let request = self.request.take().expect("given back before each further try");
        self.is_told = at_end;
        if let Some(pick) = &self.pick {
            // A client is not to be pinned to what may fail: the next request of his would find it out.
            if !matches!(pick.reason, Reason::Trial) {
                self.tie.settled(pick);
            }
            if at_end {
                self.shared.home.answered(&pick.backend, self.picked);
                self.lease.iter().for_each(|lease| lease.report(|| Outcome::Dialled));
            }
        }
        request
    }

    /// The lease, for the answer to hold.
    pub(super) fn answered<R: Hold>(&mut self, response: &R) -> Lease {
        let lease = self.lease.take().expect("picked before it was called");
        if !R::IS_THE_END {
            lease.report(|| response.outcome());
            self.shared.home.answered(lease.backend(), self.picked);
        }
        lease
    }

    pub(super) fn dial_failed(&mut self, error: BoxError) -> Result<Next, BalanceError> {
        let interrupted = error.is::<SessionEnded>();
        self.note_failure(error, false);
        if interrupted {
            self.interrupted += 1;
            return Ok(Next::Pick);
        }
        if self.is_patient() {
            self.waited += 1;
            return Ok(Next::Pick);
        }
        if self.has_tries_left() { Ok(Next::Pick) } else { Err(self.give_up()) }
    }

    fn has_tries_left(&self) -> bool {
        self.tries - self.waited - self.interrupted <= self.shared.layer.retries
    }

    /// Whether the client has waited for its backend, in vain, as long as it may.
    pub(super) fn has_waited(&self, now: tokio::time::Instant) -> bool {
        self.waited > 0 && self.patience.is_some_and(|until| until <= now)
    }

    /// Whether the client waits for its backend still: for a time, and not for a number of tries.
    fn is_patient(&self) -> bool {
        let waits = self.pin.and_then(|pin| match pin.contract.on_down {
            OnPinnedDown::Wait(longest) => Some(longest),
            _ => None,
        });
        let may_wait = |longest: Duration| match self.patience {
            Some(until) => until > tokio::time::Instant::now(),
            None => !longest.is_zero(),
        };
        waits.is_some_and(may_wait)
    }

    pub(super) fn call_failed(&mut self, error: BoxError) -> Result<Next, BalanceError> {
        let error = match error.downcast::<NotSent<Req>>() {
            Ok(unsent) => {
                let (request, source) = unsent.into_parts();
                self.request = Some(request);
                return self.dial_failed(source);
            }
            Err(error) => error,
        };
        // Of an answer that had begun, nothing was passed on.
        let unanswered = error.is::<Unanswered>() || error.is::<SessionEnded>();
        self.note_failure(error, true);
        // What may be its fault is not done to the same backend over and over.
        let may = !self.resent || self.has_tries_left() && self.has_others();
        match mem::replace(&mut self.spare, Spare::None) {
            Spare::Made(spare) if unanswered && may => {
                self.request = Req::restore(spare);
                self.resent = true;
                // For the next time.
                self.spare = Spare::Unmade;
            }
            _ => {}
        }
        if self.request.is_some() { Ok(Next::Pick) } else { Err(self.give_up()) }
    }

    /// Whether there are backends that it was not tried with.
    fn has_others(&self) -> bool {
        let table = self.shared.layer.cluster.table();
        let untried = |place: usize| !self.tried.contains(&table.members()[place].id());
        table.eligible_from(0).any(untried)
    }

    fn note_failure(&mut self, error: BoxError, sent: bool) {
        let backend = self.backend();
        // What this side has ended, or the client got wrong, says nothing of the backend. Nor does it
        // unpin the client.
        let at_fault = !error.is::<BadRequest>();
        if at_fault && !error.is::<SessionEnded>() {
            self.shared.home.failed(&backend, self.picked);
            let outcome = if sent { Outcome::NoAnswer } else { Outcome::DialFailed };
            // Of a connection it was told when that was handed over, and there is no more to tell.
            if !(sent && self.is_told) {
                self.lease.iter().for_each(|lease| lease.report(|| outcome));
            }
        }
        if at_fault {
            self.tie.failed(&backend);
        }
        self.lease = None;
        self.tried.push(backend.id());
        tracing::debug!(
            cluster = %self.shared.layer.cluster.name(), backend = %backend.name(),
            tries = self.tries, error = error.to_string(), "try failed"
        );
        // That it was sent is not to be forgotten for a later dial that fails.
        if sent || !self.failed.as_ref().is_some_and(|failed| failed.sent) {
            self.failed = Some(Failed { backend: Arc::clone(backend.name()), sent, error });
        }
    }

    /// Tries the same backends again, in a while, or at `latest`.
    pub(super) fn pause(&self, latest: Option<tokio::time::Instant>) -> Next {
        let pause = self.shared.layer.pause;
        let left = |latest: tokio::time::Instant| {
            latest.saturating_duration_since(tokio::time::Instant::now())
        };
        Next::Pause(Box::pin(sleep(latest.map_or(pause, |latest| pause.min(left(latest))))))
    }

    pub(super) fn give_up(&mut self) -> BalanceError {
        let cluster = Arc::clone(self.shared.layer.cluster.name());
        match self.failed.take() {
            None => BalanceError::NoBackend { cluster },
            Some(Failed { backend, sent: true, error }) => {
                BalanceError::Call { cluster, backend, source: error }
            }
            Some(Failed { backend, sent: false, error }) => {
                BalanceError::Dial { cluster, backend, tries: self.tries, source: error }
            }
        }
    }

    /// The failure of a request that found no slot or not its backend: what has happened to it
    /// before, if it was sent, else this.
    pub(super) fn refused(&mut self, error: BalanceError) -> BalanceError {
        if self.failed.as_ref().is_some_and(|failed| failed.sent) { self.give_up() } else { error }
    }
}
