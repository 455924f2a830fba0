//! All that is known of one backend, and what comes of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::{CheckRules, CheckState, Health, HealthCounts, InitState, OnError, Pace, Verdict};
use crate::State;
use crate::passive::Growth;

/// What a backend is, all in all. The later, the less it is used.
#[doc = include_str!("transitions.md")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// It takes part.
    Up,
    /// Its ejection is over. One request at a time finds out whether it works again.
    Trial,
    /// It works, and told a check that it wants no new clients.
    Stopping,
    /// It works, and the operator wants no new clients there.
    Draining,
    /// Requests have met too many errors there.
    Ejected,
    /// It has yet to pass its first check.
    Unproven,
    /// Checks find that it does not work.
    Down,
    /// Checks find that it is not who it should be.
    Unfit,
    /// The operator wants it left alone.
    Maintenance,
}

impl Condition {
    /// The word for it in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Stopping => "stopping",
            Self::Draining => "draining",
            Self::Trial => "on trial",
            Self::Ejected => "ejected",
            Self::Unproven => "unproven",
            Self::Down => "down",
            Self::Unfit => "unfit",
            Self::Maintenance => "in maintenance",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose verdicts count: those of the checks that are attached, since they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(u64);

/// What a verdict has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) state: CheckState,
    pub(crate) pace: Pace,
}

/// The state machine of one backend. Pure: whoever changes it publishes what comes of it.
#[derive(Clone, Debug)]
pub(crate) struct HealthState {
    sources: Vec<Source>,
    // What checks that have ended found last, or the backend that this one tracks.
    left: CheckState,
    wanted: State,
    ejection: Ejection,
    growth: Growth,
    recovered: Option<Instant>,
    condition: Condition,
    since: Instant,
    // When anything was taken in last.
    moved: Instant,
    reason: Arc<str>,
    counts: HealthCounts,
    // Whether it was up when that was counted.
    counted_up: bool,
}

/// One set of checks.
#[derive(Clone, Debug)]
struct Source {
    check: u64,
    token: Token,
    health: Health,
    agent: bool,
    // Whether what it finds is what earlier checks have left, and nothing of its own.
    inherited: bool,
    init: InitState,
}

impl Source {
    /// Nobody has looked for a while: as when the checks began.
    fn begin_anew(&mut self) {
        self.health = self.health.clone().init(self.init, self.health.state());
    }
}

/// What came of errors of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ejection {
    #[default]
    In,
    Out {
        until: Instant,
    },
    /// It wants to be left alone.
    Rest {
        until: Instant,
    },
    Trial,
}

impl Ejection {
    /// When it is over, if time alone ends it.
    pub(crate) fn ends(self) -> Option<Instant> {
        match self {
            Self::Out { until } | Self::Rest { until } => Some(until),
            Self::In | Self::Trial => None,
        }
    }
}

impl HealthState {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            sources: Vec::new(),
            left: CheckState::Up,
            wanted: State::Ready,
            ejection: Ejection::In,
            growth: Growth::default(),
            recovered: None,
            condition: Condition::Up,
            since: now,
            moved: now,
            reason: Arc::from("nothing is known against it"),
            counts: HealthCounts::default(),
            counted_up: true,
        }
    }

    /// Lets a set of checks judge from now on, where earlier ones have left off.
    pub(crate) fn attach(&mut self, check: u64, rules: CheckRules, now: Instant) -> Token {
        let token = Token(NEXT_TOKEN.fetch_add(1, Ordering::Relaxed));
        let left = std::mem::replace(&mut self.left, CheckState::Up);
        let health = Health::new(rules.rise, rules.fall).init(rules.init, left);
        let inherited = !rules.init.is_down() && left > CheckState::Stopping;
        self.sources.push(Source {
            check,
            token,
            health,
            agent: rules.agent,
            inherited,
            init: rules.init,
        });
        // Nothing has been found yet: to start down is not to go down.
        self.counted_up = self.checked() <= CheckState::Stopping;
        self.settle(now, || "it has yet to pass its first check".into());
        token
    }

    /// Ends the say of a set of checks. What it found last holds until others look.
    pub(crate) fn detach(&mut self, check: u64) {
        self.sources.retain(|source| {
            let stays = source.check != check;
            if !stays {
                self.left = self.left.max(source.health.state());
            }
            stays
        });
    }

    /// What the verdicts of a set of checks have to carry.
    pub(crate) fn token(&self, check: u64) -> Option<Token> {
        self.sources.iter().find(|source| source.check == check).map(|source| source.token)
    }

    /// Where a set of checks has got to.
    pub(crate) fn observed(&self, token: Token) -> Option<Observed> {
        let source = self.sources.iter().find(|source| source.token == token)?;
        Some(Observed { state: source.health.state(), pace: source.health.pace() })
    }

    /// Takes a verdict in. `None` if nobody wants it any more.
    pub(crate) fn observe(
        &mut self,
        token: Token,
        verdict: &Verdict,
        now: Instant,
    ) -> Option<Observed> {
        let source = self.sources.iter_mut().find(|source| source.token == token)?;
        // An agent may never say so much: what was left is for others to take back.
        let says_nothing = matches!(verdict, Verdict::Agent(reply) if reply.up.is_none());
        if std::mem::take(&mut source.inherited) && says_nothing {
            self.left = self.left.max(source.health.state());
            source.health = source.health.clone().starting(true);
        }
        let needed = source.health.awaited();
        self.counts.count(verdict, source.health.is_up());
        let was_seen_down = source.health.was_seen_down();
        let change = source.health.observe(verdict);
        if change == Some(true) && was_seen_down {
            self.recovered = Some(now);
        }
        // Others have looked: what checks had found that have ended holds no more.
        if verdict.is_pass()
            && source.health.is_up()
            && std::mem::replace(&mut self.left, CheckState::Up) > CheckState::Unproven
        {
            self.recovered = Some(now);
        }
        let reason = verdict.reason();
        self.settle(now, || match verdict {
            Verdict::Fail { .. } => format!("{} failed: {reason}", checks(needed)),
            _ if verdict.is_pass() => format!("{} passed", checks(needed)),
            _ => reason.to_owned(),
        });
        self.observed(token)
    }

    /// Takes in what has been found of the backend that this one tracks.
    pub(crate) fn follow(&mut self, state: CheckState, reason: &str, now: Instant) {
        let was = std::mem::replace(&mut self.left, state);
        if was > CheckState::Unproven && state <= CheckState::Stopping {
            self.recovered = Some(now);
        }
        self.settle(now, || reason.to_owned());
    }

    /// Takes in that requests have met too many errors in a row.
    pub(crate) fn errors_seen(&mut self, on_error: OnError, reason: &str, now: Instant) {
        // As with HAProxy, not what agents have said: only they take that back, and few ever say `up`.
        let judges = self.sources.iter_mut().filter(|source| !source.agent);
        judges.for_each(|source| source.health.errors_seen(on_error));
        self.settle(now, || reason.to_owned());
    }

    /// Takes in what the operator wants, or an agent for him.
    pub(crate) fn want(&mut self, wanted: State, reason: &str, now: Instant) {
        let was = std::mem::replace(&mut self.wanted, wanted);
        if was == State::Maintenance && wanted != State::Maintenance {
            self.recovered = Some(now);
            self.sources.iter_mut().filter(|source| !source.agent).for_each(Source::begin_anew);
        }
        self.settle(now, || reason.to_owned());
    }

    /// Moves on from, or to, an ejection.
    pub(crate) fn eject(&mut self, ejection: Ejection, reason: &str, now: Instant) {
        let was = std::mem::replace(&mut self.ejection, ejection);
        if matches!(ejection, Ejection::Out { .. }) {
            self.counts.ejections += 1;
        }
        if was != Ejection::In && ejection == Ejection::In {
            self.recovered = Some(now);
            self.growth.back_in(now);
        }
        self.settle(now, || reason.to_owned());
    }

    /// How its ejections have grown.
    pub(crate) fn growth(&self) -> Growth {
        self.growth
    }

    /// Records how its ejections have grown.
    pub(crate) fn grow(&mut self, growth: Growth) {
        self.growth = growth;
    }

    /// What all checks together find: the worst of it.
    pub(crate) fn checked(&self) -> CheckState {
        let states = self.sources.iter().map(|source| source.health.state());
        states.fold(self.left, CheckState::max)
    }

    pub(crate) fn wanted(&self) -> State {
        self.wanted
    }

    pub(crate) fn ejection(&self) -> Ejection {
        self.ejection
    }

    pub(crate) fn condition(&self) -> Condition {
        self.condition
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    /// When it was changed last, whether or not its condition was.
    pub(crate) fn moved(&self) -> Instant {
        self.moved
    }

    pub(crate) fn reason(&self) -> &Arc<str> {
        &self.reason
    }

    /// What has happened to it so far.
    pub(crate) fn counts(&self) -> HealthCounts {
        self.counts
    }

    /// Since when it is back, if it has ever been away. How long that matters, each cluster knows.
    pub(crate) fn recovered(&self) -> Option<Instant> {
        self.recovered
    }

    fn settle(&mut self, now: Instant, reason: impl FnOnce() -> String) {
        self.moved = now;
        let checked = self.checked();
        let is_up = checked <= CheckState::Stopping;
        match (std::mem::replace(&mut self.counted_up, is_up), is_up) {
            (false, true) => self.counts.went_up += 1,
            (true, false) => self.counts.went_down += 1,
            _ => {}
        }
        let condition = combined(self.wanted, checked, self.ejection);
        if condition != self.condition {
            self.condition = condition;
            self.since = now;
            self.reason = reason().into();
        }
    }
}

fn checks(many: u32) -> String {
    if many == 1 { "a check".to_owned() } else { format!("{many} checks in a row") }
}

/// What the parts make together: the last table of [`Condition`].
fn combined(wanted: State, checked: CheckState, ejection: Ejection) -> Condition {
    match (wanted, checked, ejection) {
        (State::Maintenance, ..) => Condition::Maintenance,
        (_, CheckState::Unfit, _) => Condition::Unfit,
        (_, CheckState::Down, _) => Condition::Down,
        (_, CheckState::Unproven, _) => Condition::Unproven,
        (.., Ejection::Out { .. } | Ejection::Rest { .. }) => Condition::Ejected,
        (State::Drain, ..) => Condition::Draining,
        (_, CheckState::Stopping, _) => Condition::Stopping,
        (.., Ejection::Trial) => Condition::Trial,
        (State::Ready, CheckState::Up, Ejection::In) => Condition::Up,
    }
}

static NEXT_TOKEN: AtomicU64 = AtomicU64::new(1);
