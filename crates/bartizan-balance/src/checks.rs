//! Probing the backends of a cluster in the background.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bartizan_net::TcpDial;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tower_service::Service;

use crate::clock::A_YEAR;
use crate::cluster::{Judgement, Probation};
use crate::{Backend, BackendId, Cluster, DialProbe, Health, InitState, Verdict};

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
    /// also so if earlier checks found it up: they may have looked for something else. Have one set
    /// of checks per cluster then: with a second one beside it, either brings backends up.
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
        let probation = checks.init_state.is_down().then(|| self.on_probation());
        let task = tokio::spawn(supervise(self.clone(), checks));
        CheckGuard { task: task.abort_handle(), _probation: probation }
    }
}

/// Ends the checks of a cluster when dropped.
#[derive(Debug)]
#[must_use = "dropped, it ends the checks"]
pub struct CheckGuard {
    task: AbortHandle,
    _probation: Option<Probation>,
}

impl CheckGuard {
    /// Lets the checks go on for as long as the runtime does.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for CheckGuard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps one task per member. Dropping the set, by an abort too, ends them all.
async fn supervise<Pr>(cluster: Cluster, checks: Checks<Pr>)
where
    Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
    Pr: Clone + Send + Sync + 'static,
    Pr::Future: Send,
{
    let mut membership = cluster.membership();
    let mut tasks = JoinSet::new();
    // One task per member and trial: what is taken out and put back may be on a new trial.
    let mut running: HashMap<(BackendId, u64), AbortHandle> = HashMap::new();
    let mut known = HashSet::new();
    loop {
        membership.borrow_and_update();
        let members = Arc::clone(cluster.table().members());
        let trials: Vec<_> = members.iter().map(|member| (member.id(), member.trial())).collect();
        let ids: HashSet<_> = trials.iter().copied().collect();
        running.retain(|id, task| {
            let stays = ids.contains(id);
            if !stays {
                task.abort();
            }
            stays
        });
        for (position, (backend, id)) in members.iter().zip(trials).enumerate() {
            running.entry(id).or_insert_with(|| {
                // A probe that has panicked must not do so in a loop.
                let again = known.contains(&id);
                let intervals = match (again, checks.init_state.is_down()) {
                    (true, _) => 1.0,
                    (false, true) => 0.0,
                    (false, false) => position as f64 / members.len() as f64,
                };
                let first = checks.every.mul_f64(intervals);
                let health = checks.health(backend.is_up(), !again);
                let watch =
                    Watch { cluster: cluster.clone(), backend: Arc::clone(backend), trial: id.1 };
                tasks.spawn(watch.run(checks.clone(), health, first))
            });
        }
        known = ids;
        tokio::select! {
            // The cluster is held here, and with it the sender: this cannot fail.
            _ = membership.changed() => {}
            // Aborted above, or the probe has panicked: it is started anew.
            Some(_) = tasks.join_next() => running.retain(|_, task| !task.is_finished()),
        }
    }
}

impl<Pr> Checks<Pr> {
    /// The state that a backend is first judged from.
    fn health(&self, up: bool, first: bool) -> Health {
        let health = Health::new(self.rise, self.fall).starting(up);
        let one_short = match self.init_state {
            InitState::Up => up,
            InitState::Down => !up,
            InitState::FullyUp | InitState::FullyDown => false,
        };
        if first && one_short { health.one_short() } else { health }
    }
}

/// The checks of one backend.
struct Watch {
    cluster: Cluster,
    backend: Arc<Backend>,
    trial: u64,
}

impl Watch {
    async fn run<Pr>(self, checks: Checks<Pr>, mut health: Health, first: Duration)
    where
        Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible> + Clone,
    {
        let mut ticks = interval_at(Instant::now() + first, checks.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Told::Nothing;
        loop {
            ticks.tick().await;
            let asked = ask(checks.probe.clone(), &self.backend);
            let verdict = match timeout(checks.timeout, asked).await {
                Ok(verdict) => verdict,
                Err(_) => Verdict::fail(format_args!("no answer within {:?}", checks.timeout)),
            };
            let change = health.observe(&verdict);
            let judgement = match (&verdict, change) {
                (Verdict::Unfit { .. }, _) => Some(Judgement::Unfit),
                (_, Some(true)) => Some(Judgement::Up),
                (_, Some(false)) => Some(Judgement::Down),
                // News to a cluster in which it has not been looked at.
                (Verdict::Fail { .. }, None) if !health.is_up() => Some(Judgement::Down),
                (_, None) => None,
            };
            judgement.map(|judgement| self.cluster.judge(&self.backend, self.trial, judgement));
            if self.backend.trial() != self.trial {
                return; // The verdict was of an earlier trial; the next one has its own watch.
            }
            if change.is_some() || !health.is_up() {
                self.tell(&verdict, change.is_some(), &mut told, (checks.rise, checks.fall));
            }
        }
    }

    /// Tells of each change, and of each new kind of reason why a backend stays down.
    fn tell(&self, verdict: &Verdict, change: bool, told: &mut Told, (rise, fall): (u32, u32)) {
        let (cluster, backend) = (self.cluster.name(), self.backend.name());
        let state = if change { "is" } else { "stays" };
        match verdict {
            Verdict::Pass if change => {
                *told = Told::Nothing;
                tracing::info!(%cluster, %backend, rise, "backend is up");
            }
            Verdict::Pass => {}
            Verdict::Fail { reason } if change || *told == Told::Nothing => {
                *told = Told::Down;
                tracing::warn!(%cluster, %backend, reason, fall, "backend {state} down");
            }
            Verdict::Unfit { reason } if change || *told != Told::Unfit => {
                *told = Told::Unfit;
                tracing::warn!(%cluster, %backend, reason, "backend {state} down: it is unfit");
            }
            Verdict::Fail { .. } | Verdict::Unfit { .. } => {}
        }
    }
}

/// What was said last of why a backend is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Down,
    Unfit,
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
