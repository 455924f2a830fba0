//! The states that a request goes through.
//!
//! ```text
//! ## Ask   => Pick        it is known who the client is pinned to, if anybody
//! ## Pick  => Ready       chosen; a lease is held from here on
//! ## Pick  => Queue       all slots are taken
//! ## Queue => Ready       a slot became free
//! ## Queue => Pick        the backend has gone
//! ## Pick  => Pause       all that is eligible has failed already: the same ones again, in a while
//! ## Pick  => Watch       the client's backend is down: until it is back
//! ## Ready => Dial => Dialled => Call
//! ## Dial  => Pick        the dial failed: another backend, while there are retries left
//! ## Call  => Pick        the request came back unsent, or a spare may be sent
//! ## Ready, Dial, Dialled, Call => Pick   the backend was marked down, which ends its sessions
//! ```

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bartizan_net::BoxError;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::work::{Next, Pause, Queued, Watch, Work};
use crate::{Affinity, Backend, BalanceError, Free, Hold, Policy, Resend, Tie};

pin_project! {
    /// Resolves to the response of the backend that answered.
    #[must_use = "futures do nothing unless polled"]
    pub struct BalanceFuture<P, M, Req, A = Free>
    where
        A: Affinity<Req>,
        M: Service<Arc<Backend>>,
        M::Response: Service<Req>,
        Req: Resend,
    {
        work: Work<P, A, Req>,
        dial: M,
        #[pin]
        state: State<M::Future, M::Response, <M::Response as Service<Req>>::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<D, C, F> {
        Ask,
        Pick,
        Queue { queued: Queued },
        Pause { pause: Pause },
        Watch { watch: Watch },
        Ready,
        Dial { #[pin] dial: D },
        Dialled { conn: Option<C> },
        // The connection is kept until the answer is there: some end what they do when dropped.
        Call { conn: C, #[pin] call: F },
    }
}

impl<D, C, F> From<Next> for State<D, C, F> {
    fn from(next: Next) -> Self {
        match next {
            Next::Pick => Self::Pick,
            Next::Dial => Self::Ready,
            Next::Queue(queued) => Self::Queue { queued },
            Next::Pause(pause) => Self::Pause { pause },
            Next::Watch(watch) => Self::Watch { watch },
        }
    }
}

impl<P, M, Req, A> BalanceFuture<P, M, Req, A>
where
    A: Affinity<Req>,
    M: Service<Arc<Backend>>,
    M::Response: Service<Req>,
    Req: Resend,
{
    pub(super) fn new(work: Work<P, A, Req>, dial: M) -> Self {
        Self { work, dial, state: State::Ask }
    }
}

impl<P, M, Req, A> fmt::Debug for BalanceFuture<P, M, Req, A>
where
    A: Affinity<Req>,
    M: Service<Arc<Backend>>,
    M::Response: Service<Req>,
    Req: Resend,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceFuture").finish_non_exhaustive()
    }
}

impl<P, M, Req, A> Future for BalanceFuture<P, M, Req, A>
where
    P: Policy,
    A: Affinity<Req>,
    M: Service<Arc<Backend>, Error: Into<BoxError>>,
    M::Response: Service<Req, Error: Into<BoxError>, Response: Hold>,
    Req: Resend + 'static,
{
    type Output = Result<<<M::Response as Service<Req>>::Response as Hold>::Held, BalanceError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let work = this.work;
        loop {
            let next = match this.state.as_mut().project() {
                StateProj::Ask => match work.tie.poll_pin(cx) {
                    Poll::Ready(pin) => {
                        work.pin = pin;
                        State::Pick
                    }
                    Poll::Pending => {
                        work.is_fresh = false;
                        return Poll::Pending;
                    }
                },
                StateProj::Pick => work.pick()?.into(),
                StateProj::Queue { queued } => {
                    let granted = ready!(queued.as_mut().poll(cx));
                    work.granted(granted)?.into()
                }
                StateProj::Pause { pause } => {
                    ready!(pause.as_mut().poll(cx));
                    State::Pick
                }
                StateProj::Watch { watch } => {
                    ready!(watch.as_mut().poll(cx));
                    State::Pick
                }
                StateProj::Ready => match ready!(work.attend(cx, |cx| this.dial.poll_ready(cx))) {
                    Ok(()) => State::Dial { dial: this.dial.call(work.backend()) },
                    Err(error) => work.dial_failed(error)?.into(),
                },
                StateProj::Dial { dial } => match ready!(work.attend(cx, |cx| dial.poll(cx))) {
                    Ok(conn) => State::Dialled { conn: Some(conn) },
                    Err(error) => work.dial_failed(error)?.into(),
                },
                StateProj::Dialled { conn } => {
                    let waiting = conn.as_mut().expect("taken in the step that leaves this state");
                    match ready!(work.attend(cx, |cx| waiting.poll_ready(cx))) {
                        Ok(()) => {
                            let mut conn = conn.take().expect("just seen");
                            let at_end = <M::Response as Service<Req>>::Response::IS_THE_END;
                            let call = conn.call(work.hand_over(at_end));
                            State::Call { conn, call }
                        }
                        Err(error) => work.dial_failed(error)?.into(),
                    }
                }
                StateProj::Call { call, .. } => match ready!(work.attend(cx, |cx| call.poll(cx))) {
                    Ok(response) => {
                        let lease = work.answered(&response);
                        return Poll::Ready(Ok(response.hold(lease)));
                    }
                    Err(error) => work.call_failed(error)?.into(),
                },
            };
            this.state.set(next);
        }
    }
}
