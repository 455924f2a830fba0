//! Asking, waiting, and asking again.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::task::JoinSet;
use tokio::time::error::Elapsed;
use tokio::time::{Sleep, sleep, timeout};
use tower::discover::Change;

use super::reconcile::Follow;
use super::{Family, Found, Resolve, ResolveError, ResolveFuture, SrvRecord};
use crate::Backend;
use crate::clock::{A_YEAR, now};

/// The backends of [`DnsBackends`](super::DnsBackends) as they come and go.
///
/// All changes of an answer are ready at once. It asks only while it is polled; dropped, it asks no
/// more. Has to be polled in a tokio runtime.
#[must_use = "streams do nothing unless polled"]
pub struct DnsDiscover<R> {
    resolver: Arc<R>,
    changes: VecDeque<Change<Arc<str>, Arc<Backend>>>,
    state: State,
    turns: u64,
    random: RandomState,
}

enum State {
    Ask(Option<Box<Follow>>),
    Asking(Pin<Box<dyn Future<Output = Turn> + Send>>),
    Waiting(Option<Box<Follow>>, Pin<Box<Sleep>>),
}

/// A round of questions is over: ask again after this time.
type Turn = (Box<Follow>, Duration);

impl<R> DnsDiscover<R> {
    pub(super) fn new(follow: Follow, resolver: R) -> Self {
        Self {
            resolver: Arc::new(resolver),
            changes: VecDeque::new(),
            state: State::Ask(Some(Box::new(follow))),
            turns: 0,
            random: RandomState::new(),
        }
    }

    /// Up to a tenth later: instances that were started together must not ask together for ever.
    fn jittered(&mut self, time: Duration) -> Duration {
        self.turns = self.turns.wrapping_add(1);
        // The upper 32 bits are exact in a float.
        let random = (self.random.hash_one(self.turns) >> 32) as f64 / f64::from(u32::MAX);
        time.mul_f64(1.0 + random / 10.0)
    }
}

impl<R> fmt::Debug for DnsDiscover<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asks = matches!(self.state, State::Asking(_));
        f.debug_struct("DnsDiscover").field("asks", &asks).finish_non_exhaustive()
    }
}

// Nothing in it is pinned without a box.
impl<R> Unpin for DnsDiscover<R> {}

impl<R: Resolve> Stream for DnsDiscover<R> {
    type Item = Result<Change<Arc<str>, Arc<Backend>>, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(change) = this.changes.pop_front() {
                return Poll::Ready(Some(Ok(change)));
            }
            this.state = match &mut this.state {
                State::Ask(follow) => {
                    let Some(follow) = follow.take() else { return Poll::Ready(None) };
                    State::Asking(Box::pin(turn(follow, Arc::clone(&this.resolver))))
                }
                State::Asking(turn) => {
                    let (mut follow, again) = ready!(turn.as_mut().poll(cx));
                    this.changes = follow.changes().into();
                    State::Waiting(Some(follow), Box::pin(sleep(this.jittered(again))))
                }
                State::Waiting(follow, sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    State::Ask(follow.take())
                }
            };
        }
    }
}

/// Asks for all that has to be known.
async fn turn<R: Resolve>(mut follow: Box<Follow>, resolver: Arc<R>) -> Turn {
    // Also if there is nothing to ask for, as where there may be no backends.
    let mut again = follow.longest();
    if let Some(service) = follow.service() {
        let answer = services(&resolver, service).await;
        again = again.min(follow.learn_services(answer, now()));
    }
    let hosts = follow.hosts();
    let both = |host| [Family::V4, Family::V6].map(|family| (Arc::clone(host), family));
    let mut questions = hosts.iter().flat_map(both);
    let mut asked = JoinSet::new();
    let mut ask = |asked: &mut JoinSet<_>| {
        if let Some((host, family)) = questions.next() {
            let resolver = Arc::clone(&resolver);
            asked.spawn(async move {
                let answer = bounded(resolver.addresses(&host, family)).await;
                (host, family, answer)
            });
        }
    };
    (0..AT_ONCE).for_each(|_| ask(&mut asked));
    let mut open: HashSet<_> = hosts.iter().flat_map(both).collect();
    let mut has_found = false;
    // Whom one question answers is not to wait for another that hangs.
    while let Ok(Some(answered)) = stalls(has_found, asked.join_next()).await {
        ask(&mut asked);
        // A resolver of somebody's own that panics has not answered.
        let Ok((host, family, answer)): Result<Answered, _> = answered else {
            again = again.min(AFTER_PANIC);
            continue;
        };
        has_found |= answer.is_ok();
        open.remove(&(Arc::clone(&host), family));
        again = again.min(follow.learn_addresses(&host, family, answer, now()));
    }
    for (host, family) in open {
        let late = ResolveError::Failed(format!("not within {STALL:?} after others").into());
        again = again.min(follow.learn_addresses(&host, family, Err(late), now()));
    }
    (follow, again)
}

/// Waits for the next answer; not for long, if there is something to be made known.
async fn stalls<F: Future>(has_found: bool, next: F) -> Result<F::Output, Elapsed> {
    // Else each question has a deadline of its own.
    timeout(if has_found { STALL } else { A_YEAR }, next).await
}

/// In a task of its own, as questions for addresses are: a resolver of somebody's own may panic.
async fn services<R: Resolve>(
    resolver: &Arc<R>,
    service: Arc<str>,
) -> Result<Found<SrvRecord>, ResolveError> {
    let (resolver, mut asked) = (Arc::clone(resolver), JoinSet::new());
    asked.spawn(async move { bounded(resolver.services(&service)).await });
    let panicked = || Err(ResolveError::Failed("the resolver panicked".into()));
    asked.join_next().await.and_then(Result::ok).unwrap_or_else(panicked)
}

type Answered = (Arc<str>, Family, Result<Found<IpAddr>, ResolveError>);

async fn bounded<T>(answer: ResolveFuture<T>) -> Result<Found<T>, ResolveError> {
    let late = |_| Err(ResolveError::Failed(format!("not within {DEADLINE:?}").into()));
    timeout(DEADLINE, answer).await.unwrap_or_else(late)
}

/// Questions that are open at a time: many targets take few rounds, and no resolver is flooded.
const AT_ONCE: usize = 16;

/// Longer than a resolver takes that tries several servers several times.
const DEADLINE: Duration = Duration::from_secs(30);

/// Families of one name are asked for at the same moment, and servers that know one know the other.
const STALL: Duration = Duration::from_secs(2);

const AFTER_PANIC: Duration = Duration::from_secs(30);
