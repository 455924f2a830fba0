//! The health of backends: what checks and requests have shown, what the operator wants, and what
//! comes of that.

mod change;
mod check;
mod report;
mod state;
mod verdict;

pub(crate) use change::KEPT;
pub use change::{HealthChange, HealthChanges, MissedChanges};
pub(crate) use check::CheckRules;
pub use check::{CheckState, Health, InitState, OnError, Pace};
pub use report::{HealthCounts, HealthReport};
pub use state::Condition;
pub(crate) use state::{Ejection, HealthState, Observed, Token};
pub use verdict::{AgentReply, AgentWeight, Verdict};

#[cfg(test)]
mod tests;
