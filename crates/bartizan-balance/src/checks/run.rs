//! The task that probes all backends of a cluster.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use foldhash::fast::RandomState as FastHash;
use futures_util::future::{AbortHandle, Abortable, BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep_until, timeout};
use tower_service::Service;

use super::Checks;
use super::schedule::{First, Schedule};
use super::watched::Watched;
use crate::clock::now;
use crate::cluster::{Attachment, Nudge, Nudges, Say};
use crate::health::Token;
use crate::{Backend, BackendId, Cluster, State, Verdict};

/// What the task works with. It holds no cluster: what nobody uses any more is not checked.
#[derive(Debug)]
pub(super) struct Runner<Pr> {
    checks: Arc<Checks<Pr>>,
    say: Say,
    // The task may end without its guard: with its runtime.
    _attachment: Attachment,
    membership: watch::Receiver<u64>,
    nudges: Arc<Nudges>,
    schedule: Schedule,
    watched: HashMap<BackendId, Watched, FastHash>,
    // How often the members have been compared.
    compared: u64,
    running: FuturesUnordered<BoxFuture<'static, Option<Ended>>>,
}

/// A probe is over.
#[derive(Debug)]
struct Ended {
    id: BackendId,
    token: Token,
    // None if it panicked.
    verdict: Option<Verdict>,
}

impl<Pr> Runner<Pr>
where
    Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
    Pr: Clone + Send + Sync + 'static,
    Pr::Future: Send,
{
    pub(super) fn new(cluster: &Cluster, attachment: Attachment, checks: Checks<Pr>) -> Self {
        let seed = RandomState::new().hash_one(0_u8);
        let schedule = Schedule::new(checks.timing(), now(), seed);
        Self {
            checks: Arc::new(checks),
            say: attachment.say(),
            _attachment: attachment,
            membership: cluster.membership(),
            nudges: cluster.nudges(),
            schedule,
            watched: HashMap::default(),
            compared: 0,
            running: FuturesUnordered::new(),
        }
    }

    /// Probes until the cluster is gone, or this future is dropped, and with it all that run.
    pub(super) async fn run(mut self) {
        let mut alarm = pin!(sleep_until(tokio::time::Instant::now()));
        let nudges = Arc::clone(&self.nudges);
        if self.compare().is_none() {
            return;
        }
        loop {
            let next = self.start_due();
            tokio::select! {
                biased;
                changed = self.membership.changed() => {
                    if changed.is_err() || self.compare().is_none() {
                        return;
                    }
                }
                told = nudges.take() => self.look_at(told),
                Some(ended) = self.running.next() => {
                    if self.take_in_all(ended).is_none() {
                        return;
                    }
                }
                () = until(alarm.as_mut(), next) => {}
            }
        }
    }

    /// Starts what is due, and tells when more will be.
    fn start_due(&mut self) -> Option<Instant> {
        let now = now();
        while let Some(id) = self.schedule.start(now) {
            match self.watched.get_mut(&id) {
                None => self.schedule.remove(id),
                Some(watched) if rests(&self.checks, watched) => {
                    self.schedule.rest(id);
                }
                Some(watched) => {
                    let (abort, registration) = AbortHandle::new_pair();
                    let probe = ask(Arc::clone(&self.checks), Arc::clone(&watched.probed));
                    let token = watched.token;
                    let ended = AssertUnwindSafe(probe).catch_unwind().map(move |verdict| Ended {
                        id,
                        token,
                        verdict: verdict.ok(),
                    });
                    watched.runs(abort);
                    self.running.push(Abortable::new(ended, registration).map(Result::ok).boxed());
                }
            }
        }
        if self.schedule.falls_behind(now)
            && let Some(cluster) = self.say.cluster()
        {
            let (cluster, running) = (cluster.name(), self.schedule.running());
            tracing::warn!(%cluster, running, "probes are late: no more may run at once");
        }
        self.schedule.wake()
    }

    /// Takes in all verdicts that are there: of thousands, many are at a time. `None` if the cluster
    /// is gone.
    fn take_in_all(&mut self, first: Option<Ended>) -> Option<()> {
        let cluster = self.say.cluster()?;
        let mut next = Some(first);
        while let Some(ended) = next {
            if let Some(ended) = ended {
                self.take_in(ended, &cluster);
            }
            next = self.running.next().now_or_never().flatten();
        }
        Some(())
    }

    fn take_in(&mut self, ended: Ended, cluster: &Cluster) {
        let Ended { id, token, verdict } = ended;
        // It may have been put back in the meantime, and be probed by another by now.
        let Some(watched) = self.watched.get_mut(&id).filter(|watched| watched.token == token)
        else {
            return;
        };
        if rests(&self.checks, watched) {
            self.schedule.rest(id);
            return;
        }
        match watched.found(verdict, cluster) {
            Some(pace) => self.schedule.ended(id, pace, now()),
            // It has left: the next comparison finds that.
            None => self.schedule.remove(id),
        }
    }

    /// Compares with the members as they are now. `None` if the cluster is gone.
    fn compare(&mut self) -> Option<()> {
        self.membership.borrow_and_update();
        let members = Arc::clone(self.say.cluster()?.table().members());
        let now = now();
        self.compared += 1;
        for (position, member) in members.iter().enumerate() {
            let Some(token) = self.say.token(member) else { continue };
            let id = member.id();
            if self.watched.get(&id).is_none_or(|watched| watched.token != token) {
                let share = position as f64 / members.len() as f64;
                self.schedule.insert(id, self.first(member, share), now);
                let watched = Watched::new(Arc::clone(member), token, &self.checks.target);
                self.watched.insert(id, watched);
            }
            if let Some(watched) = self.watched.get_mut(&id) {
                watched.seen = self.compared;
            }
        }
        let (schedule, compared) = (&mut self.schedule, self.compared);
        self.watched.retain(|id, watched| {
            let stays = watched.seen == compared;
            if !stays {
                schedule.remove(*id);
            }
            stays
        });
        Some(())
    }

    fn first(&self, member: &Backend, share: f64) -> First {
        if !self.checks.in_maintenance && member.state() == State::Maintenance {
            First::Resumed
        } else if self.checks.init_state.is_down() {
            First::AtOnce(share)
        } else if self.compared == 1 {
            First::Share(share)
        } else {
            First::Placed
        }
    }

    /// Does what cannot wait until it is due.
    fn look_at(&mut self, told: HashMap<BackendId, Nudge>) {
        let now = now();
        for (id, nudge) in told {
            let Some(watched) = self.watched.get_mut(&id) else { continue };
            if rests(&self.checks, watched) {
                watched.abandon();
                self.schedule.rest(id);
                continue;
            }
            self.schedule.resume(id, now);
            if nudge != Nudge::Maintenance {
                self.schedule.hurry(id, now);
            }
        }
    }
}

/// Whether it is to be left alone for the time being. An agent is asked on: only it can say `ready`.
fn rests<Pr>(checks: &Checks<Pr>, watched: &Watched) -> bool {
    let goes_on = checks.in_maintenance || watched.has_agent;
    !goes_on && watched.backend.state() == State::Maintenance
}

async fn ask<Pr>(checks: Arc<Checks<Pr>>, backend: Arc<Backend>) -> Verdict
where
    Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible> + Clone,
{
    let mut probe = checks.probe.clone();
    let asked = async {
        let Ok(()) = poll_fn(|cx| probe.poll_ready(cx)).await;
        let Ok(verdict) = probe.call(backend).await;
        verdict
    };
    match timeout(checks.timeout, asked).await {
        Ok(verdict) => verdict,
        Err(_) => Verdict::fail(format_args!("no answer within {:?}", checks.timeout)),
    }
}

/// Waits until then; without a time, for good. One alarm for all times: to set it anew for each
/// verdict would cost more than the verdict.
async fn until(mut alarm: std::pin::Pin<&mut Sleep>, next: Option<Instant>) {
    let Some(next) = next.map(tokio::time::Instant::from_std) else { return pending().await };
    if alarm.deadline() != next {
        alarm.as_mut().reset(next);
    }
    alarm.await;
}
