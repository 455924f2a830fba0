//! Picking, dialling and calling.
//!
//! ```text
//! ## Pick => Dial         the policy chose; a lease is held from here on
//! ## Pick => Pause        all that is eligible has failed already: the same ones again, in a while
//! ## Dial => Call         dialled: the request is handed over
//! ## Dial => Pick         the dial failed: another backend, while there are retries left
//! ## Call => Pick         the request came back unsent, or a spare may be sent, once
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, mem};

use bartizan_net::BoxError;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use crate::{
    Backend, BackendId, BalanceError, Cluster, Hold, Lease, NotSent, PickContext, Policy, Resend,
    Unanswered,
};

/// Puts a [`Balance`] over a dial service.
#[derive(Debug)]
pub struct BalanceLayer<P> {
    cluster: Cluster,
    // Shared by all services made of this layer and its clones.
    policy: Arc<P>,
    retries: u32,
    pause: Duration,
}

impl<P> BalanceLayer<P> {
    /// Balances over `cluster` as `policy` chooses.
    pub fn new(cluster: Cluster, policy: P) -> Self {
        Self { cluster, policy: Arc::new(policy), retries: RETRIES, pause: PAUSE }
    }

    /// Tries this many further backends after the first. Default: 3, as HAProxy.
    pub fn retries(self, retries: u32) -> Self {
        Self { retries, ..self }
    }

    /// Waits so long before it tries a backend for a second time. Default: 1 s, as HAProxy.
    pub fn retry_pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }
}

impl<P> Clone for BalanceLayer<P> {
    fn clone(&self) -> Self {
        Self { cluster: self.cluster.clone(), policy: Arc::clone(&self.policy), ..*self }
    }
}

impl<P, M> Layer<M> for BalanceLayer<P> {
    type Service = Balance<P, M>;

    fn layer(&self, dial: M) -> Self::Service {
        Balance { shared: Arc::new(self.clone()), dial }
    }
}

/// Sends each request, or connection, to a backend of its cluster.
///
/// It picks, dials with `M`, and calls what the dialling answered with. Because dialling comes
/// before the request is handed over, a failed dial moves on to another backend with no copy of the
/// request: to one that has not been tried, while there is one.
///
/// What is safe to repeat ([`Resend`]) and was not answered with a single byte ([`Unanswered`]) is
/// sent once more, to another backend while there is one.
///
/// Always ready. Clones share the policy's state. Cancel safe: dropping the future gives back what
/// is in flight.
pub struct Balance<P, M> {
    shared: Arc<BalanceLayer<P>>,
    dial: M,
}

impl<P, M> Balance<P, M> {
    /// Balances over `cluster` as `policy` chooses, with the defaults of [`BalanceLayer`].
    pub fn new(cluster: Cluster, policy: P, dial: M) -> Self {
        BalanceLayer::new(cluster, policy).layer(dial)
    }
}

impl<P, M: Clone> Clone for Balance<P, M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), dial: self.dial.clone() }
    }
}

impl<P: fmt::Debug, M> fmt::Debug for Balance<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl<P, M, Req> Service<Req> for Balance<P, M>
where
    P: Policy,
    M: Service<Arc<Backend>> + Clone,
    M::Error: Into<BoxError>,
    M::Response: Service<Req, Error: Into<BoxError>, Response: Hold>,
    Req: Resend + 'static,
{
    type Response = <<M::Response as Service<Req>>::Response as Hold>::Held;
    type Error = BalanceError;
    type Future = BalanceFuture<P, M, Req>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BalanceError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        BalanceFuture {
            work: Work {
                shared: Arc::clone(&self.shared),
                dial: self.dial.clone(),
                request: Some(request),
                spare: Spare::Unmade,
                lease: None,
                tried: Vec::new(),
                tries: 0,
                failed: None,
            },
            state: State::Pick,
        }
    }
}

pin_project! {
    /// Resolves to the response of the backend that answered.
    #[must_use = "futures do nothing unless polled"]
    pub struct BalanceFuture<P, M, Req>
    where
        M: Service<Arc<Backend>>,
        M::Response: Service<Req>,
        Req: Resend,
    {
        work: Work<P, M, Req>,
        #[pin]
        state: State<M::Future, M::Response, <M::Response as Service<Req>>::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<D, C, F> {
        Pick,
        Pause { sleep: Pin<Box<Sleep>> },
        Ready,
        Dial { #[pin] dial: D },
        Dialled { conn: Option<C> },
        // The connection is kept until the answer is there: some end what they do when dropped.
        Call { conn: C, #[pin] call: F },
    }
}

/// What stays the same from one try to the next.
struct Work<P, M, Req: Resend> {
    shared: Arc<BalanceLayer<P>>,
    dial: M,
    request: Option<Req>,
    spare: Spare<Req::Spare>,
    lease: Option<Lease>,
    // Empty, and so without an allocation, until something has failed.
    tried: Vec<BackendId>,
    tries: u32,
    failed: Option<Failed>,
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

impl<P, M, Req> fmt::Debug for BalanceFuture<P, M, Req>
where
    M: Service<Arc<Backend>>,
    M::Response: Service<Req>,
    Req: Resend,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceFuture").finish_non_exhaustive()
    }
}

impl<P, M, Req> Future for BalanceFuture<P, M, Req>
where
    P: Policy,
    M: Service<Arc<Backend>>,
    M::Error: Into<BoxError>,
    M::Response: Service<Req, Error: Into<BoxError>, Response: Hold>,
    Req: Resend + 'static,
{
    type Output = Result<<<M::Response as Service<Req>>::Response as Hold>::Held, BalanceError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let work = this.work;
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Pick => work.pick()?,
                StateProj::Pause { sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    State::Pick
                }
                StateProj::Ready => match ready!(work.dial.poll_ready(cx)) {
                    Ok(()) => State::Dial { dial: work.dial.call(work.backend()) },
                    Err(error) => work.dial_failed(error.into())?,
                },
                StateProj::Dial { dial } => match ready!(dial.poll(cx)) {
                    Ok(conn) => State::Dialled { conn: Some(conn) },
                    Err(error) => work.dial_failed(error.into())?,
                },
                StateProj::Dialled { conn } => {
                    let waiting = conn.as_mut().expect("taken in the step that leaves this state");
                    match ready!(waiting.poll_ready(cx)) {
                        Ok(()) => {
                            let mut conn = conn.take().expect("just seen");
                            let call = conn.call(work.hand_over());
                            State::Call { conn, call }
                        }
                        Err(error) => work.dial_failed(error.into())?,
                    }
                }
                StateProj::Call { call, .. } => match ready!(call.poll(cx)) {
                    Ok(response) => {
                        let lease = work.lease.take().expect("picked before it was called");
                        return Poll::Ready(Ok(response.hold(lease)));
                    }
                    Err(error) => work.call_failed(error.into())?,
                },
            };
            this.state.set(next);
        }
    }
}

impl<P, M, Req> Work<P, M, Req>
where
    P: Policy,
    Req: Resend + 'static,
{
    fn pick<D, C, F>(&mut self) -> Result<State<D, C, F>, BalanceError> {
        let now = tokio::time::Instant::now().into_std();
        let context = PickContext::new(now).tried(&self.tried);
        let pick = self.shared.policy.pick(&self.shared.cluster.table(), &context);
        let Some(pick) = pick else {
            let again = !mem::take(&mut self.tried).is_empty();
            // A wait helps against backends that failed once, not against there being none.
            if again && self.shared.cluster.table().eligible_count() > 0 {
                return Ok(State::Pause { sleep: Box::pin(sleep(self.shared.pause)) });
            }
            return Err(self.give_up());
        };
        tracing::trace!(cluster = %self.shared.cluster.name(), backend = %pick.backend.name(), reason = %pick, "picked");
        self.tries += 1;
        self.lease = Some(Lease::new(pick.backend));
        Ok(State::Ready)
    }

    fn backend(&self) -> Arc<Backend> {
        let lease = self.lease.as_ref().expect("picked before it is dialled");
        Arc::clone(lease.backend())
    }

    fn hand_over(&mut self) -> Req {
        let request = self.request.take().expect("given back before each further try");
        if let Spare::Unmade = self.spare {
            self.spare = request.spare().map_or(Spare::None, Spare::Made);
        }
        request
    }

    fn dial_failed<D, C, F>(&mut self, error: BoxError) -> Result<State<D, C, F>, BalanceError> {
        self.note_failure(error, false);
        if self.tries > self.shared.retries { Err(self.give_up()) } else { Ok(State::Pick) }
    }

    fn call_failed<D, C, F>(&mut self, error: BoxError) -> Result<State<D, C, F>, BalanceError> {
        let error = match error.downcast::<NotSent<Req>>() {
            Ok(unsent) => {
                let (request, source) = unsent.into_parts();
                self.request = Some(request);
                return self.dial_failed(source);
            }
            Err(error) => error,
        };
        let unanswered = error.is::<Unanswered>();
        self.note_failure(error, true);
        match mem::replace(&mut self.spare, Spare::None) {
            Spare::Made(spare) if unanswered => self.request = Req::restore(spare),
            _ => {}
        }
        if self.request.is_some() { Ok(State::Pick) } else { Err(self.give_up()) }
    }

    fn note_failure(&mut self, error: BoxError, sent: bool) {
        let backend = self.backend();
        self.lease = None;
        self.tried.push(backend.id());
        tracing::debug!(
            cluster = %self.shared.cluster.name(), backend = %backend.name(), tries = self.tries,
            error = error.to_string(), "try failed"
        );
        // That it was sent is not to be forgotten for a later dial that fails.
        if sent || !self.failed.as_ref().is_some_and(|failed| failed.sent) {
            self.failed = Some(Failed { backend: Arc::clone(backend.name()), sent, error });
        }
    }

    fn give_up(&mut self) -> BalanceError {
        let cluster = Arc::clone(self.shared.cluster.name());
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
}

/// HAProxy's `retries`.
const RETRIES: u32 = 3;

/// HAProxy waits as long before it dials the same server again: one that restarts needs a moment.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
