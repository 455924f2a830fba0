//! The health of backends: what checks and requests have shown, what the operator wants, and what
//! comes of that.

mod change;
mod check;
mod state;
mod verdict;

pub(crate) use change::KEPT;
pub use change::{HealthChange, HealthChanges, MissedChanges};
pub use check::{CheckState, Health, InitState, OnError, Pace};
pub(crate) use state::{CheckRules, Ejection, HealthState, Observed, Token};
pub use state::{Condition, HealthCounts, HealthReport};
pub use verdict::{AgentReply, AgentWeight, Verdict};

#[cfg(test)]
mod tests;
