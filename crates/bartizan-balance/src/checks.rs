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

use crate::{Backend, BackendId, Cluster, DialProbe, Health, Verdict};

/// How the backends of a cluster are checked. Defaults are HAProxy's.
///
/// | setting | default | HAProxy |
/// | --- | --- | --- |
/// | [`every`](Self::every) | 2 s | `inter` |
/// | [`timeout`](Self::timeout) | 1 s | `timeout check` |
/// | [`rise`](Self::rise) | 2 | `rise` |
/// | [`fall`](Self::fall) | 3 | `fall` |
#[derive(Clone, Debug)]
pub struct Checks<Pr> {
    probe: Pr,
    every: Duration,
    timeout: Duration,
    rise: u32,
    fall: u32,
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
        Self { probe, every: EVERY, timeout: TIMEOUT, rise: RISE, fall: FALL }
    }

    /// Probes each backend once per `interval` (at least a millisecond, at most a year).
    pub fn every(self, interval: Duration) -> Self {
        Self { every: interval.clamp(SHORTEST, LONGEST), ..self }
    }

    /// A probe that takes longer has failed.
    pub fn timeout(self, limit: Duration) -> Self {
        Self { timeout: limit, ..self }
    }

    /// Passes in a row that bring a backend back. At least 1.
    pub fn rise(self, passes: u32) -> Self {
        Self { rise: passes, ..self }
    }

    /// Failures in a row that take a backend out. At least 1.
    pub fn fall(self, failures: u32) -> Self {
        Self { fall: failures, ..self }
    }
}

impl Cluster {
    /// Checks all backends from now on, also those added later, until the guard is dropped.
    ///
    /// First probes are spread over one interval. A change of state is a tracing event (target
    /// `bartizan_balance`, info for up, warn for down) with cluster, backend and reason. A backend
    /// that is down when its guard is dropped stays down.
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
        let task = tokio::spawn(supervise(self.clone(), checks));
        CheckGuard { task: task.abort_handle() }
    }
}

/// Ends the checks of a cluster when dropped.
#[derive(Debug)]
#[must_use = "dropped, it ends the checks"]
pub struct CheckGuard {
    task: AbortHandle,
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
    let mut running: HashMap<BackendId, AbortHandle> = HashMap::new();
    let mut known = HashSet::new();
    loop {
        membership.borrow_and_update();
        let members = Arc::clone(cluster.table().members());
        let ids: HashSet<_> = members.iter().map(|member| member.id()).collect();
        running.retain(|id, task| {
            let stays = ids.contains(id);
            if !stays {
                task.abort();
            }
            stays
        });
        for (position, backend) in members.iter().enumerate() {
            running.entry(backend.id()).or_insert_with(|| {
                let spread = position as f64 / members.len() as f64;
                // A probe that has panicked must not do so in a loop.
                let again = known.contains(&backend.id());
                let first = checks.every.mul_f64(if again { 1.0 } else { spread });
                tasks.spawn(watch(cluster.clone(), Arc::clone(backend), checks.clone(), first))
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

async fn watch<Pr>(cluster: Cluster, backend: Arc<Backend>, checks: Checks<Pr>, first: Duration)
where
    Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible> + Clone,
{
    let mut health = Health::new(checks.rise, checks.fall).starting(backend.is_up());
    let mut ticks = interval_at(Instant::now() + first, checks.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let verdict = match timeout(checks.timeout, ask(checks.probe.clone(), &backend)).await {
            Ok(verdict) => verdict,
            Err(_) => Verdict::fail(format_args!("no answer within {:?}", checks.timeout)),
        };
        let Some(up) = health.observe(verdict.is_pass()) else { continue };
        cluster.set_up(&backend, up);
        let (cluster, backend) = (cluster.name(), backend.name());
        match verdict {
            Verdict::Fail { reason } => {
                tracing::warn!(%cluster, %backend, reason, fall = checks.fall, "backend is down");
            }
            Verdict::Pass => {
                tracing::info!(%cluster, %backend, rise = checks.rise, "backend is up")
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

/// What a clock can be moved by without a panic.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

const EVERY: Duration = Duration::from_secs(2);

/// A probe must be over before the next one of the same backend starts.
const TIMEOUT: Duration = Duration::from_secs(1);

const RISE: u32 = 2;

const FALL: u32 = 3;

#[cfg(test)]
mod tests;
