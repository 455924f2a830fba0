//! What one set of checks makes of its verdicts.

use super::Verdict;

/// Where checks start from, under the names of HAProxy's `init-state`. It counts when checks begin,
/// when a backend is added, and when it leaves maintenance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitState {
    /// Up, or where earlier checks have left off; `fall` failures take it out.
    #[default]
    FullyUp,
    /// The same, except that what is up goes down if its first check fails.
    Up,
    /// Down; if its first check passes, it comes up. If that fails, `rise` passes are needed.
    Down,
    /// Down; `rise` passes bring it up.
    FullyDown,
}

impl InitState {
    /// Whether a backend is not to be picked before it has been checked.
    pub fn is_down(self) -> bool {
        matches!(self, Self::Down | Self::FullyDown)
    }
}

/// How a backend is, as far as one set of checks tells. The later, the worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum CheckState {
    /// It works.
    Up,
    /// It works, and wants no new clients.
    Stopping,
    /// It has yet to pass its first check, and must not be used before.
    Unproven,
    /// It does not work.
    Down,
    /// It is not who it should be.
    Unfit,
}

/// How soon the next check is due, as HAProxy has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pace {
    /// `inter`: the backend is up, and nothing speaks against it.
    Normal,
    /// `fastinter`: verdicts have begun to speak against its state.
    Fast,
    /// `downinter`: it is down, and nothing speaks against that.
    Down,
}

/// What errors of requests do to checks, under the names of HAProxy's `on-error`. With each, the next
/// check is due after `fastinter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// Nothing else.
    FastInter,
    /// They count as a failed check.
    #[default]
    FailCheck,
    /// They count as failed checks, so many that one more takes it out.
    SuddenDeath,
    /// They take it out.
    MarkDown,
}

/// The settings of a set of checks that the state machine needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckRules {
    pub(crate) rise: u32,
    pub(crate) fall: u32,
    pub(crate) init: InitState,
    /// Whether an agent judges, which may never say `up`.
    pub(crate) agent: bool,
}

/// Turns verdicts into up and down, as HAProxy does.
///
/// What changes when is in the table of [`Condition`](super::Condition).
#[derive(Clone, Debug)]
pub struct Health {
    rise: u32,
    fall: u32,
    state: CheckState,
    // Verdicts in a row that speak against `state`.
    against: u32,
    // How many of `against` no verdict has said.
    granted: u32,
    // Whether it was seen down, so that coming up is a recovery.
    seen_down: bool,
}

impl Health {
    /// Up; down after `fall` failures in a row, up again after `rise` passes. At least 1 each.
    pub fn new(rise: u32, fall: u32) -> Self {
        let state = CheckState::Up;
        Self {
            rise: rise.max(1),
            fall: fall.max(1),
            state,
            against: 0,
            granted: 0,
            seen_down: false,
        }
    }

    /// Starts in this state instead: where earlier checks have left off.
    pub fn starting(self, up: bool) -> Self {
        let state = if up { CheckState::Up } else { CheckState::Down };
        Self { state, against: 0, granted: 0, seen_down: !up, ..self }
    }

    /// Starts as `init` says, after earlier checks have left the backend in the state `left`.
    pub fn init(self, init: InitState, left: CheckState) -> Self {
        let was_up = left <= CheckState::Stopping;
        let state = if init.is_down() { CheckState::Unproven } else { left };
        let seen_down = matches!(left, CheckState::Down | CheckState::Unfit);
        let started = Self { state, against: 0, granted: 0, seen_down, ..self };
        match init {
            InitState::Up if was_up => started.one_short(),
            InitState::Down => started.one_short(),
            _ => started,
        }
    }

    /// Lets the first verdict alone change the state, if it speaks against it.
    pub fn one_short(self) -> Self {
        let granted = self.needed() - 1;
        Self { against: granted, granted, ..self }
    }

    /// Takes a verdict in. Returns the new state if it changed: `true` for up.
    pub fn observe(&mut self, verdict: &Verdict) -> Option<bool> {
        let was = self.is_up();
        match verdict {
            Verdict::Pass => self.passed(),
            Verdict::Fail { .. } => self.failed(),
            Verdict::Unfit { .. } => self.is_now(CheckState::Unfit),
            Verdict::Stop { .. } if was => self.is_now(CheckState::Stopping),
            Verdict::Stop { .. } => self.failed(),
            Verdict::Agent(reply) => match reply.up {
                Some(true) => self.passed(),
                Some(false) => self.failed(),
                None => {}
            },
        }
        (self.is_up() != was).then_some(!was)
    }

    /// Takes in that requests have met too many errors. Of one that is down that is no news.
    pub fn errors_seen(&mut self, on_error: OnError) {
        if !self.is_up() {
            return;
        }
        match on_error {
            OnError::FastInter => return,
            OnError::FailCheck => {}
            OnError::SuddenDeath => {
                let more = self.fall.saturating_sub(2).saturating_sub(self.against);
                (self.against, self.granted) = (self.against + more, self.granted + more);
            }
            OnError::MarkDown => self.against = self.fall - 1,
        }
        self.failed();
    }

    /// How it is.
    pub fn state(&self) -> CheckState {
        self.state
    }

    /// Whether it is up, stopping or not.
    pub fn is_up(&self) -> bool {
        self.state <= CheckState::Stopping
    }

    /// How soon the next check is due.
    pub fn pace(&self) -> Pace {
        match (self.against, self.is_up()) {
            (0, true) => Pace::Normal,
            (0, false) => Pace::Down,
            _ => Pace::Fast,
        }
    }

    /// Verdicts in a row that speak against the state, and how many would change it.
    pub fn against(&self) -> (u32, u32) {
        (self.against, self.needed())
    }

    /// How many verdicts in a row there will have been when they change the state.
    pub(crate) fn awaited(&self) -> u32 {
        self.needed().saturating_sub(self.granted).max(1)
    }

    /// Whether coming up would be, or was, a recovery: it had been seen down.
    pub fn was_seen_down(&self) -> bool {
        self.seen_down
    }

    fn passed(&mut self) {
        if self.is_up() {
            self.is_now(CheckState::Up);
            return;
        }
        self.against += 1;
        if self.against >= self.rise {
            self.is_now(CheckState::Up);
        }
    }

    fn failed(&mut self) {
        if !self.is_up() {
            (self.against, self.granted) = (0, 0);
            self.seen_down = true;
            return;
        }
        self.against += 1;
        if self.against >= self.fall {
            self.is_now(CheckState::Down);
        }
    }

    fn is_now(&mut self, state: CheckState) {
        self.state = state;
        (self.against, self.granted) = (0, 0);
        self.seen_down |= !self.is_up();
    }

    /// Verdicts in a row that change the state.
    fn needed(&self) -> u32 {
        if self.is_up() { self.fall } else { self.rise }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` passes, `-` fails, `!` is unfit, `4` stops; each letter of the outcome is the state after
    /// it.
    fn trace(mut health: Health, verdicts: &str) -> String {
        let mut state = |verdict| {
            let change = health.observe(&match verdict {
                '+' => Verdict::Pass,
                '-' => Verdict::fail("no"),
                '4' => Verdict::stop("404"),
                _ => Verdict::unfit("another"),
            });
            assert!(change.is_none_or(|up| up == health.is_up()));
            match (change.is_some(), health.state()) {
                (true, CheckState::Up) => 'U',
                (false, CheckState::Up) => 'u',
                (_, CheckState::Stopping) => 's',
                (true, _) => 'D',
                (false, _) => 'd',
            }
        };
        verdicts.chars().map(&mut state).collect()
    }

    #[test]
    fn what_no_verdict_has_said_is_not_counted_as_one() {
        assert_eq!(Health::new(2, 3).awaited(), 3);
        let unproven = Health::new(2, 3).init(InitState::Down, CheckState::Up);
        assert_eq!(unproven.awaited(), 1);
        let mut failed = unproven;
        failed.observe(&Verdict::fail("no"));
        assert_eq!(failed.awaited(), 2);
        let mut erring = Health::new(2, 3);
        erring.errors_seen(OnError::SuddenDeath);
        assert_eq!((erring.against(), erring.awaited()), ((2, 3), 2));
    }

    #[test]
    fn follows_haproxys_rise_and_fall() {
        for (rise, fall, verdicts, states) in [
            (2, 3, "---++", "uuDdU"),
            (2, 3, "--+---", "uuuuuD"),
            (2, 3, "---+-++", "uuDdddU"),
            (1, 1, "-+-+", "DUDU"),
            (0, 0, "-+", "DU"),
            (3, 2, "+--+++", "uuDddU"),
        ] {
            let states_now = trace(Health::new(rise, fall), verdicts);
            assert_eq!(states_now, states, "rise {rise} fall {fall}: {verdicts}");
        }
    }

    #[test]
    fn a_404_stops_what_is_up_and_does_not_bring_back_what_is_down() {
        assert_eq!(trace(Health::new(2, 3), "4+4---4+"), "susssDdd");
        assert_eq!(trace(Health::new(2, 3), "---4++"), "uuDddU");
    }

    #[test]
    fn what_is_unfit_is_out_at_once_and_comes_back_by_rise() {
        let health = || Health::new(2, 3);
        assert_eq!(trace(health(), "!++"), "DdU");
        assert_eq!(trace(health(), "-!+!++"), "uDdddU");
    }

    #[test]
    fn starts_as_haproxys_init_state() {
        let init = |init, left| Health::new(2, 3).init(init, left);
        let up = CheckState::Up;
        assert_eq!(trace(init(InitState::Up, up), "-++"), "DdU");
        assert_eq!(trace(init(InitState::Up, up), "+--"), "uuu");
        assert_eq!(trace(init(InitState::Up, CheckState::Down), "++"), "dU");
        assert_eq!(trace(init(InitState::Down, up), "+--"), "Uuu");
        assert_eq!(trace(init(InitState::Down, up), "-++"), "ddU");
        assert_eq!(trace(init(InitState::FullyDown, up), "++"), "dU");
        assert_eq!(trace(init(InitState::FullyUp, up), "---"), "uuD");
    }

    #[test]
    fn the_pace_is_haproxys() {
        let mut health = Health::new(2, 3);
        let verdicts = "--+---+-++";
        let paces = verdicts.chars().map(|verdict| {
            health.observe(&if verdict == '+' { Verdict::Pass } else { Verdict::fail("no") });
            match health.pace() {
                Pace::Normal => 'n',
                Pace::Fast => 'f',
                Pace::Down => 'd',
            }
        });
        assert_eq!(paces.collect::<String>(), "ffnffdfdfn");
    }

    #[test]
    fn errors_of_requests_count_as_haproxys_on_error() {
        for (on_error, times, fails_left) in [
            (OnError::FastInter, 9, 3),
            (OnError::FailCheck, 1, 2),
            (OnError::FailCheck, 3, 0),
            (OnError::SuddenDeath, 1, 1),
            (OnError::SuddenDeath, 2, 0),
            (OnError::MarkDown, 1, 0),
        ] {
            let mut health = Health::new(2, 3);
            (0..times).for_each(|_| health.errors_seen(on_error));
            for left in (1..=fails_left).rev() {
                assert!(health.is_up(), "{on_error:?} {times}: {left} left");
                health.observe(&Verdict::fail("no"));
            }
            assert!(!health.is_up(), "{on_error:?} {times}");
        }
    }
}
