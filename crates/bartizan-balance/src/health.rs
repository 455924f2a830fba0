//! The health of one backend.
//!
//! ```text
//! ## Up => Down      after `fall` failures in a row
//! ## Up => Down      at once, when it is found unfit
//! ## Down => Up      after `rise` passes in a row
//! ```
//!
//! These are HAProxy's transitions, and one more. Where a backend starts is its [`InitState`].

use std::error::Error;

use bartizan_net::{ErrorChain, WrongIdentity};

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The backend works.
    Pass,
    /// It does not.
    Fail {
        /// Why, for people.
        reason: String,
    },
    /// It is not who it has to be, which no further try can change: it is taken out at once,
    /// whatever `fall` is.
    Unfit {
        /// Why, for people.
        reason: String,
    },
}

impl Verdict {
    /// A failure because of `reason`.
    pub fn fail(reason: impl ToString) -> Self {
        Self::Fail { reason: reason.to_string() }
    }

    /// Unfit because of `reason`.
    pub fn unfit(reason: impl ToString) -> Self {
        Self::Unfit { reason: reason.to_string() }
    }

    /// What an error says of the backend: unfit if [`WrongIdentity`] is behind it, else a failure.
    pub fn of_error(error: &(dyn Error + 'static)) -> Self {
        let reason = ErrorChain(error);
        if WrongIdentity::is_behind(error) { Self::unfit(reason) } else { Self::fail(reason) }
    }

    /// Whether it is a pass.
    pub fn is_pass(&self) -> bool {
        *self == Self::Pass
    }
}

/// Where checks start from, under the names of HAProxy's `init-state`.
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

/// Turns verdicts into up and down.
#[derive(Clone, Debug)]
pub struct Health {
    rise: u32,
    fall: u32,
    up: bool,
    // Verdicts in a row that speak against `up`.
    against: u32,
}

impl Health {
    /// Up; down after `fall` failures in a row, up again after `rise` passes. At least 1 each.
    pub fn new(rise: u32, fall: u32) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), up: true, against: 0 }
    }

    /// Starts in this state instead: where earlier checks have left off.
    pub fn starting(self, up: bool) -> Self {
        Self { up, against: 0, ..self }
    }

    /// Lets the first verdict alone change the state, if it speaks against it.
    pub fn one_short(self) -> Self {
        Self { against: self.needed() - 1, ..self }
    }

    /// Takes a verdict in. Returns the new state if it changed: `true` for up.
    pub fn observe(&mut self, verdict: &Verdict) -> Option<bool> {
        let pass = verdict.is_pass();
        if pass == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let at_once = matches!(verdict, Verdict::Unfit { .. });
        if self.against < self.needed() && !at_once {
            return None;
        }
        self.against = 0;
        self.up = pass;
        Some(self.up)
    }

    /// Whether it is up.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Verdicts in a row that change the state.
    fn needed(&self) -> u32 {
        if self.up { self.fall } else { self.rise }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` passes, `-` fails, `!` is unfit; each letter of the outcome is the state after it.
    fn trace(mut health: Health, verdicts: &str) -> String {
        let mut state = |verdict| {
            let change = health.observe(&match verdict {
                '+' => Verdict::Pass,
                '-' => Verdict::fail("no"),
                _ => Verdict::unfit("another"),
            });
            assert!(change.is_none_or(|up| up == health.is_up()));
            match (change.is_some(), health.is_up()) {
                (true, true) => 'U',
                (true, false) => 'D',
                (false, true) => 'u',
                (false, false) => 'd',
            }
        };
        verdicts.chars().map(&mut state).collect()
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
    fn what_is_unfit_is_out_at_once_and_comes_back_by_rise() {
        let health = || Health::new(2, 3);
        assert_eq!(trace(health(), "!++"), "DdU");
        assert_eq!(trace(health(), "-!+!++"), "uDdddU");
    }

    #[test]
    fn starts_as_haproxys_init_state() {
        let (up, down) = (Health::new(2, 3), Health::new(2, 3).starting(false));
        assert_eq!(trace(up.clone().one_short(), "-++"), "DdU");
        assert_eq!(trace(up.one_short(), "+--"), "uuu");
        assert_eq!(trace(down.clone().one_short(), "+--"), "Uuu");
        assert_eq!(trace(down.clone().one_short(), "-++"), "ddU");
        assert_eq!(trace(down, "++"), "dU");
    }

    #[test]
    fn an_error_that_is_marked_is_unfit_and_another_a_failure() {
        let marked = WrongIdentity::new("the name is another");
        let Verdict::Unfit { reason } = Verdict::of_error(&marked) else { panic!() };
        assert!(reason.ends_with(": the name is another"), "{reason}");
        let plain = std::io::Error::other("refused");
        assert_eq!(Verdict::of_error(&plain), Verdict::fail("refused"));
    }
}
