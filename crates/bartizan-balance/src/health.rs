//! The health of one backend.
//!
//! ```text
//! ## Up => Down      after `fall` failures in a row
//! ## Down => Up      after `rise` passes in a row
//! ```
//!
//! These are HAProxy's transitions. A backend starts up, as HAProxy's do.

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
}

impl Verdict {
    /// A failure because of `reason`.
    pub fn fail(reason: impl ToString) -> Self {
        Self::Fail { reason: reason.to_string() }
    }

    /// Whether it is a pass.
    pub fn is_pass(&self) -> bool {
        *self == Self::Pass
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

    /// Takes a verdict in. Returns the new state if it changed: `true` for up.
    pub fn observe(&mut self, pass: bool) -> Option<bool> {
        if pass == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < if self.up { self.fall } else { self.rise } {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` passes, `-` fails; each letter of the outcome is the state after it.
    fn trace(rise: u32, fall: u32, verdicts: &str) -> String {
        let mut health = Health::new(rise, fall);
        let mut state = |verdict| {
            let change = health.observe(verdict == '+');
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
            assert_eq!(trace(rise, fall, verdicts), states, "rise {rise} fall {fall}: {verdicts}");
        }
    }
}
