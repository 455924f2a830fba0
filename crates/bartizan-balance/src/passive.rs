//! What requests show of backends: errors that active checks take into account, and ejections.

use std::sync::Arc;
use std::time::Instant;

use crate::health::Ejection;
use crate::{Backend, CheckState, Cluster, Outcome, State};

mod growth;
mod judge;
mod mark;
mod observe;
mod outlier;
mod rates;
mod retry_after;
mod tally;
mod trial;

pub(crate) use growth::Growth;
pub use judge::OutlierCounts;
pub(crate) use judge::{Judge, Sentence};
pub(crate) use mark::of_response;
pub use observe::Observe;
pub use outlier::{FailurePercentage, Outlier, SuccessRate};
pub use retry_after::RetryAfter;
pub(crate) use tally::Tally;

/// Judges backends by what becomes of picks.
#[derive(Debug)]
pub(crate) struct Passive {
    observe: Option<Observe>,
    judge: Option<Judge>,
}

impl Passive {
    /// `None` if there is nothing to judge by: requests then cost nothing.
    pub(crate) fn new(observe: Option<Observe>, outlier: Option<Outlier>) -> Option<Self> {
        let judge = outlier.map(Judge::new);
        (observe.is_some() || judge.is_some()).then_some(Self { observe, judge })
    }

    /// Who ejects, if anybody does.
    pub(crate) fn judge(&self) -> Option<&Judge> {
        self.judge.as_ref()
    }

    /// Takes an outcome in, on the thread of the request. `on_trial`: of a request that was sent to
    /// find out whether the backend works again. No cluster's lock may be held.
    pub(crate) fn note(
        &self,
        cluster: &Cluster,
        backend: &Arc<Backend>,
        outcome: Outcome,
        on_trial: bool,
        now: Instant,
    ) {
        if let Some(observe) = &self.observe {
            observe.note(cluster, backend, outcome, now);
        }
        let Some(judge) = &self.judge else { return };
        match backend.live.ejection() {
            Ejection::In => judge.note(cluster, backend, outcome, now),
            Ejection::Trial if on_trial || stops(backend) => {
                judge.tried(backend, outcome, now);
            }
            // What was sent there before says nothing of how it is after.
            Ejection::Trial | Ejection::Out { .. } => {}
            Ejection::Rest { .. } => judge.note_rest(backend, outcome, now),
        }
    }
}

/// Whether only those who are pinned to it go there, so that they are the trial.
fn stops(backend: &Backend) -> bool {
    let wants_none = backend.state() == State::Drain || backend.weight() == 0;
    wants_none || backend.live.checked() == CheckState::Stopping
}

#[cfg(test)]
mod tests;
