//! Probing the backends of a cluster in the background.

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bartizan_net::TcpDial;
use tokio::task::AbortHandle;
use tower_service::Service;

use crate::clock::A_YEAR;
use crate::cluster::Attachment;
use crate::health::CheckRules;
use crate::{Backend, Cluster, DialProbe, InitState, Verdict};

mod run;
mod schedule;
mod target;
mod watched;

use run::Runner;
use schedule::Timing;
pub use target::ProbeTarget;

/// How the backends of a cluster are checked. Defaults are HAProxy's, except that a backend which has
/// never been checked is out after `fall` failures too, rather than after the first.
///
/// | setting | default | HAProxy |
/// | --- | --- | --- |
/// | [`every`](Self::every) | 2 s | `inter` |
/// | [`fast`](Self::fast) | as `every` | `fastinter` |
/// | [`down`](Self::down) | as `every` | `downinter` |
/// | [`timeout`](Self::timeout) | 1 s | `timeout check` |
/// | [`rise`](Self::rise) | 2 | `rise` |
/// | [`fall`](Self::fall) | 3 | `fall` |
/// | [`init_state`](Self::init_state) | fully up | `init-state` |
/// | [`jitter`](Self::jitter) | 0 % | `spread-checks` |
/// | [`max_concurrent`](Self::max_concurrent) | 500 | `tune.max-checks-per-thread` |
/// | [`target`](Self::target) | the backend itself | `addr`, `port`, `check-sni` |
/// | [`in_maintenance`](Self::in_maintenance) | no | agent checks only |
#[derive(Clone, Debug)]
pub struct Checks<Pr> {
    probe: Pr,
    every: Duration,
    fast: Option<Duration>,
    down: Option<Duration>,
    timeout: Duration,
    rise: u32,
    fall: u32,
    init_state: InitState,
    jitter: u8,
    max_concurrent: NonZeroUsize,
    target: ProbeTarget,
    in_maintenance: bool,
    is_agent: bool,
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
            fast: None,
            down: None,
            timeout: TIMEOUT,
            rise: RISE,
            fall: FALL,
            init_state: InitState::FullyUp,
            jitter: 0,
            max_concurrent: MAX_CONCURRENT,
            target: ProbeTarget::new(),
            in_maintenance: false,
            is_agent: false,
        }
    }

    /// Probes each backend once per `interval` (at least a millisecond, at most a year), from the
    /// start of one probe to the start of the next. A probe that takes longer puts the next one off
    /// until it is over.
    pub fn every(self, interval: Duration) -> Self {
        Self { every: clamped(interval), ..self }
    }

    /// Probes at this interval instead while verdicts have begun to speak against the state that a
    /// backend is in, so that it is soon known. Default: as [`every`](Self::every).
    pub fn fast(self, interval: Duration) -> Self {
        Self { fast: Some(clamped(interval)), ..self }
    }

    /// Probes at this interval instead while a backend is down and nothing speaks against that.
    /// Default: as [`every`](Self::every).
    pub fn down(self, interval: Duration) -> Self {
        Self { down: Some(clamped(interval)), ..self }
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

    /// Makes each interval longer or shorter by up to this share of it, from 0 to 50 percent; above
    /// counts as 50. Several balancers that check the same backends then do not keep in step, nor do
    /// backends that have been probed at the same moment once.
    pub fn jitter(self, percent: u8) -> Self {
        Self { jitter: percent.min(MAX_JITTER), ..self }
    }

    /// Lets at most this many probes run at once (at least 1), and with them the descriptors that
    /// they have open. What is due beyond that waits, in the order in which it became due; that
    /// this has begun is a tracing event (warn).
    pub fn max_concurrent(self, probes: usize) -> Self {
        Self { max_concurrent: NonZeroUsize::new(probes).unwrap_or(NonZeroUsize::MIN), ..self }
    }

    /// Probes at another address or under another name than requests go to.
    pub fn target(self, target: ProbeTarget) -> Self {
        Self { target, ..self }
    }

    /// What agents say stands until they take it back: errors of requests do not speak against it.
    pub(crate) fn of_agent(self) -> Self {
        Self { is_agent: true, ..self }
    }

    /// Goes on in [maintenance](crate::State::Maintenance): for a probe that asks an agent, because
    /// nobody else may be there to say that it is over. Otherwise a backend is left alone until it
    /// leaves maintenance, and is then probed at once.
    pub fn in_maintenance(self, probes: bool) -> Self {
        Self { in_maintenance: probes, ..self }
    }
}

impl Cluster {
    /// Checks all backends from now on, also those added later, until the guard is dropped.
    ///
    /// One task does that, and starts the probes of all. First probes are spread over one interval,
    /// those of backends that are added later too, unless backends [start down](Checks::init_state).
    /// A probe that takes too long, or panics, has failed.
    ///
    /// A change of state is a tracing event (target `bartizan_balance`, info for up, warn for down)
    /// with cluster, backend and reason; so is the first reason why a backend stays down, and that
    /// it has turned out to be unfit. A backend that is down when its guard is dropped stays down
    /// until other checks find it well; one that is added after that is up.
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
        // And not before it is known that the task can be started.
        let runtime = tokio::runtime::Handle::current();
        let attachment = self.attach(checks.rules());
        let runner = Runner::new(self, attachment.again(), checks);
        let task = runtime.spawn(runner.run());
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

impl<Pr> Checks<Pr> {
    fn rules(&self) -> CheckRules {
        CheckRules { rise: self.rise, fall: self.fall, init: self.init_state, agent: self.is_agent }
    }

    fn timing(&self) -> Timing {
        Timing {
            every: self.every,
            fast: self.fast.unwrap_or(self.every),
            down: self.down.unwrap_or(self.every),
            jitter: f64::from(self.jitter) / 100.0,
            max_concurrent: self.max_concurrent.get(),
        }
    }
}

fn clamped(interval: Duration) -> Duration {
    interval.clamp(SHORTEST, A_YEAR)
}

/// Less would be a load rather than a check.
const SHORTEST: Duration = Duration::from_millis(1);

const EVERY: Duration = Duration::from_secs(2);

/// A probe must be over before the next one of the same backend starts.
const TIMEOUT: Duration = Duration::from_secs(1);

const RISE: u32 = 2;

const FALL: u32 = 3;

/// HAProxy's: with more, an interval could come to next to nothing.
const MAX_JITTER: u8 = 50;

/// Half of the 1,024 descriptors that many systems give a process: requests need theirs.
const MAX_CONCURRENT: NonZeroUsize = NonZeroUsize::new(500).unwrap();

#[cfg(test)]
mod tests;
