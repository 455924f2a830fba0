//! What one probe found.

use std::error::Error;

use bartizan_net::{ErrorChain, WrongIdentity};

use crate::State;

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The backend works.
    Pass,
    /// It works, and wants no new clients: what HAProxy's `disable-on-404` makes of a 404. Of a
    /// backend that is down it is a failure.
    Stop {
        /// Why, for people.
        reason: String,
    },
    /// It does not work.
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
    /// What its agent says of it. Says nothing of how it is if
    /// [`up`](AgentReply::up) is `None`.
    Agent(AgentReply),
}

/// The reply of an agent beside a backend, with HAProxy's meaning (`agent-check`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentReply {
    /// Whether the backend is up, if that is said.
    pub up: Option<bool>,
    /// What the operator of the backend wants.
    pub state: Option<State>,
    /// Its share.
    pub weight: Option<AgentWeight>,
    /// How much it takes at a time; 0: any number.
    pub max: Option<u32>,
    /// What was said about it, for people.
    pub reason: String,
}

/// A weight as an agent sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AgentWeight {
    /// A share of the weight that was configured.
    Percent(u16),
    /// A weight.
    Absolute(u16),
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

    /// Working, but stopping because of `reason`.
    pub fn stop(reason: impl ToString) -> Self {
        Self::Stop { reason: reason.to_string() }
    }

    /// What an error says of the backend: unfit if [`WrongIdentity`] is behind it, else a failure.
    pub fn of_error(error: &(dyn Error + 'static)) -> Self {
        let reason = ErrorChain(error);
        if WrongIdentity::is_behind(error) { Self::unfit(reason) } else { Self::fail(reason) }
    }

    /// Whether it is a pass.
    pub fn is_pass(&self) -> bool {
        match self {
            Self::Pass => true,
            Self::Agent(reply) => reply.up == Some(true),
            _ => false,
        }
    }

    /// Why, for people; empty for a pass.
    pub fn reason(&self) -> &str {
        match self {
            Self::Pass => "",
            Self::Stop { reason } | Self::Fail { reason } | Self::Unfit { reason } => reason,
            Self::Agent(reply) => &reply.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_marked_is_unfit_and_another_a_failure() {
        let marked = WrongIdentity::new("the name is another");
        let Verdict::Unfit { reason } = Verdict::of_error(&marked) else { panic!() };
        assert!(reason.ends_with(": the name is another"), "{reason}");
        let plain = std::io::Error::other("refused");
        assert_eq!(Verdict::of_error(&plain), Verdict::fail("refused"));
    }
}
