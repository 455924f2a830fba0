//! Errors of requests that active checks take into account: HAProxy's `observe`.

use std::sync::Arc;
use std::time::Instant;

use crate::cluster::affect;
use crate::{Backend, Cluster, OnError, Outcome};

/// Lets active checks take into account what becomes of requests: HAProxy's `observe`.
///
/// Once a backend has had so many errors in a row, whichever clusters they were met in, its checks
/// are told, its next check is due after `fastinter`, and the count starts anew.
///
/// Without [checks](crate::Cluster::check) of the backend nothing happens: there is nothing that could
/// find it well again. (HAProxy does not observe a server without `check` either.) So it is for a
/// backend that [tracks](crate::Backend::tracking) another. [`Outlier`](crate::Outlier) needs no checks.
///
/// | setting | default | HAProxy |
/// | --- | --- | --- |
/// | [`error_limit`](Self::error_limit) | 10 | `error-limit` |
/// | [`on_error`](Self::on_error) | a failed check | `on-error` |
#[derive(Clone, Debug)]
pub struct Observe {
    layer7: bool,
    error_limit: u32,
    on_error: OnError,
}

impl Observe {
    /// Only whether a backend can be dialled counts: `observe layer4`.
    pub fn layer4() -> Self {
        Self { layer7: false, error_limit: ERROR_LIMIT, on_error: OnError::default() }
    }

    /// Answers count: `observe layer7`. A status of 100 to 499, 501 or 505 is good; any other is an
    /// error, and so is a dial that fails, no answer, or one that breaks off. For a response of
    /// gRPC that is nothing but a head, the status that stands for its `grpc-status` counts. Of
    /// connections nothing is known but that they were dialled.
    pub fn layer7() -> Self {
        Self { layer7: true, ..Self::layer4() }
    }

    /// So many errors in a row. At least 1.
    pub fn error_limit(self, errors: u32) -> Self {
        Self { error_limit: errors.max(1), ..self }
    }

    /// What they do.
    pub fn on_error(self, on_error: OnError) -> Self {
        Self { on_error, ..self }
    }

    pub(super) fn note(
        &self,
        cluster: &Cluster,
        backend: &Arc<Backend>,
        outcome: Outcome,
        now: Instant,
    ) {
        let streak = &backend.tally.observed;
        if self.is_good(outcome) {
            streak.end();
            return;
        }
        if !streak.reaches(self.error_limit) {
            return;
        }
        let reason = format!("{} requests in a row failed", self.error_limit);
        affect(backend, |health| health.errors_seen(self.on_error, &reason, now));
        cluster.hurry(backend);
    }

    fn is_good(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::DialFailed => false,
            _ if !self.layer7 => true,
            Outcome::Dialled => true,
            Outcome::NoAnswer | Outcome::BrokenOff => false,
            Outcome::Answered { status, .. } => {
                matches!(status.as_u16(), 100..=499 | 501 | 505)
            }
        }
    }
}

/// HAProxy's `error-limit`.
const ERROR_LIMIT: u32 = 10;
