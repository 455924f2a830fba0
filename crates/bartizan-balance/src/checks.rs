//! Probing the backends of a cluster in the background.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bartizan_net::TcpDial;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tower_service::Service;

use crate::clock::A_YEAR;
use crate::cluster::{Attachment, Say};
use crate::health::{CheckRules, Token};
use crate::{Backend, BackendId, CheckState, Cluster, DialProbe, InitState, Verdict};

/// How the backends of a cluster are checked. Defaults are HAProxy's, except that a backend which has
/// never been checked is out after `fall` failures too, rather than after the first.
///
/// | setting | default | HAProxy |
/// | --- | --- | --- |
/// | [`every`](Self::every) | 2 s | `inter` |
/// | [`timeout`](Self::timeout) | 1 s | `timeout check` |
/// | [`rise`](Self::rise) | 2 | `rise` |
/// | [`fall`](Self::fall) | 3 | `fall` |
/// | [`init_state`](Self::init_state) | fully up | `init-state` |
#[derive(Clone, Debug)]
pub struct Checks<Pr> {
    probe: Pr,
    every: Duration,
    timeout: Duration,
    rise: u32,
    fall: u32,
    init_state: InitState,
}

impl Checks<DialProbe<TcpDial>> {
    /// Checks that a TCP connection can be made.
    pub fn tcp() -> Self {
        Self::new(DialProbe::new(TcpDial::new()))
    }
}

impl<Pr> Checks<Pr> {
    /// Checks with `probe`, a service from backends to verdicts.
    pub fn new(probe: Pr) -> Self {
        Self {
            probe,
            every: EVERY,
            timeout: TIMEOUT,
            rise: RISE,
            fall: FALL,
            init_state: InitState::FullyUp,
        }
    }

    /// Probes each backend once per `interval` (at least a millisecond, at most a year).
    pub fn every(self, interval: Duration) -> Self {
        Self { every: interval.clamp(SHORTEST, A_YEAR), ..self }
    }

    /// A probe that takes longer has failed.
    pub fn timeout(self, limit: Duration) -> Self {
        Self { timeout: limit, ..self }
    }

    /// Passes in a row that bring a backend back. At least 1.
    pub fn rise(self, passes: u32) -> Self {
        Self { rise: passes, ..self }
    }

    /// Failures in a row that take a backend out. At least 1. One that is [unfit](Verdict::Unfit)
    /// is out at once.
    pub fn fall(self, failures: u32) -> Self {
        Self { fall: failures, ..self }
    }

    /// Where backends start, those added later as well. Default: [`InitState::FullyUp`].
    ///
    /// With a state of down, no backend is eligible from the moment that [`Cluster::check`] is
    /// called, or that it is added, until it has been checked; it is then probed at once. That is
    /// also so if earlier checks found it up: they may have looked for something else.
    pub fn init_state(self, init_state: InitState) -> Self {
        Self { init_state, ..self }
    }
}

impl Cluster {
    /// Checks all backends from now on, also those added later, until the guard is dropped.
    ///
    /// First probes are spread over one interval, unless backends [start down](Checks::init_state).
    /// A change of state is a tracing event (target `bartizan_balance`, info for up, warn for down)
    /// with cluster, backend and reason; so is the first reason why a backend stays down, and that
    /// it has turned out to be unfit. A backend that is down when its guard is dropped stays down;
    /// one that is added after that is up.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime, as everything that spawns.
    pub fn check<Pr>(&self, checks: Checks<Pr>) -> CheckGuard
    where
        Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
        Pr: Clone + Send + Sync + 'static,
        Pr::Future: Send,
    {
        // Here and not in the task: before it has run, connections might be balanced already.
        let attachment = self.attach(checks.rules());
        let membership = self.membership();
        let task = tokio::spawn(supervise(attachment.say(), membership, checks));
        CheckGuard { task: task.abort_handle(), _attachment: attachment }
    }
}

/// Ends the checks of a cluster when dropped.
#[derive(Debug)]
#[must_use = "dropped, it ends the checks"]
pub struct CheckGuard {
    task: AbortHandle,
    _attachment: Attachment,
}

impl CheckGuard {
    /// Lets the checks go on for as long as the runtime does.
    pub fn forget(self) {
        std::mem::forget(self);
    }

    /// Whether they have not ended, as they do with their runtime.
    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for CheckGuard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps one task per member. Dropping the set, by an abort too, ends them all.
async fn supervise<Pr>(say: Say, mut membership: watch::Receiver<u64>, checks: Checks<Pr>)
where
    Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
    Pr: Clone + Send + Sync + 'static,
    Pr::Future: Send,
{
    let mut tasks = JoinSet::new();
    // One task per member and time of membership.
    let mut running: HashMap<(BackendId, Token), AbortHandle> = HashMap::new();
    let mut known = HashSet::new();
    loop {
        membership.borrow_and_update();
        let Some(members) = say.cluster().map(|cluster| Arc::clone(cluster.table().members()))
        else {
            return;
        };
        let said: Vec<_> = members
            .iter()
            .filter_map(|member| Some((Arc::clone(member), say.token(member)?)))
            .collect();
        let ids: HashSet<_> = said.iter().map(|(member, token)| (member.id(), *token)).collect();
        running.retain(|id, task| {
            let stays = ids.contains(id);
            if !stays {
                task.abort();
            }
            stays
        });
        for (position, (backend, token)) in said.into_iter().enumerate() {
            let id = (backend.id(), token);
            running.entry(id).or_insert_with(|| {
                // A probe that has panicked must not do so in a loop.
                let again = known.contains(&id);
                let intervals = match (again, checks.init_state.is_down()) {
                    (true, _) => 1.0,
                    (false, true) => 0.0,
                    (false, false) => position as f64 / members.len() as f64,
                };
                let first = checks.every.mul_f64(intervals);
                let watch = Watch { say: say.clone(), backend, token };
                tasks.spawn(watch.run(checks.clone(), first))
            });
        }
        known = ids;
        tokio::select! {
            changed = membership.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            // Aborted above, or the probe has panicked: it is started anew.
            Some(_) = tasks.join_next() => running.retain(|_, task| !task.is_finished()),
        }
    }
}

impl<Pr> Checks<Pr> {
    fn rules(&self) -> CheckRules {
        CheckRules { rise: self.rise, fall: self.fall, init: self.init_state }
    }
}

/// The checks of one backend.
struct Watch {
    say: Say,
    backend: Arc<Backend>,
    token: Token,
}

impl Watch {
    async fn run<Pr>(self, checks: Checks<Pr>, first: Duration)
    where
        Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible> + Clone,
    {
        let mut ticks = interval_at(Instant::now() + first, checks.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            ticks.tick().await;
            let asked = ask(checks.probe.clone(), &self.backend);
            let verdict = match timeout(checks.timeout, asked).await {
                Ok(verdict) => verdict,
                Err(_) => Verdict::fail(format_args!("no answer within {:?}", checks.timeout)),
            };
            let was = self.backend.is_up();
            let Some(cluster) = self.say.cluster() else { return };
            let Some(observed) = cluster.observe(&self.backend, self.token, &verdict) else {
                return;
            };
            let up = observed.state <= CheckState::Stopping;
            if up || was {
                told = None;
            }
            // What it was when it went down, the cluster has told.
            if !up && !was && told != Some(observed.state) && !verdict.is_pass() {
                let (cluster, backend) = (cluster.name(), self.backend.name());
                let reason = verdict.reason();
                tracing::warn!(%cluster, %backend, reason, "backend stays {:?}", observed.state);
            }
            if !up {
                told = Some(observed.state);
            }
        }
    }
}

async fn ask<Pr>(mut probe: Pr, backend: &Arc<Backend>) -> Verdict
where
    Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
{
    let Ok(()) = poll_fn(|cx| probe.poll_ready(cx)).await;
    let Ok(verdict) = probe.call(Arc::clone(backend)).await;
    verdict
}

/// Less would be a load rather than a check.
const SHORTEST: Duration = Duration::from_millis(1);

const EVERY: Duration = Duration::from_secs(2);

/// A probe must be over before the next one of the same backend starts.
const TIMEOUT: Duration = Duration::from_secs(1);

const RISE: u32 = 2;

const FALL: u32 = 3;

#[cfg(test)]
mod tests;
