//! The settings of ejections, under Envoy's names.

use std::sync::Arc;
use std::time::Duration;

use bartizan_net::clock::{Clock, SystemClock};

use crate::MinHealthy;
use crate::clock::A_YEAR;

/// Takes backends out that answer badly, until one request at a time has shown that they work again:
/// Envoy's outlier detection.
///
/// | setting | default | Envoy |
/// | --- | --- | --- |
/// | [`consecutive_5xx`](Self::consecutive_5xx) | 5 | 5 |
/// | [`consecutive_gateway_failure`](Self::consecutive_gateway_failure) | off | 5, enforced at 0 % |
/// | [`consecutive_local_origin_failure`](Self::consecutive_local_origin_failure) | 5 | 5 |
/// | [`split_external_local_origin_errors`](Self::split_external_local_origin_errors) | no | no |
/// | [`interval`](Self::interval) | 10 s | 10 s |
/// | [`base_ejection_time`](Self::base_ejection_time) | 30 s | 30 s |
/// | [`max_ejection_time`](Self::max_ejection_time) | 300 s | 300 s |
/// | [`max_ejection_time_jitter`](Self::max_ejection_time_jitter) | 0 | 0 |
/// | [`success_rate`](Self::success_rate) | 5 hosts, 100 requests, factor 1900 | the same |
/// | [`failure_percentage`](Self::failure_percentage) | off | 85 %, 5 hosts, 50 requests, enforced at 0 % |
/// | [`successful_active_health_check_uneject_host`](Self::successful_active_health_check_uneject_host) | yes | yes |
/// | [`keep`](Self::keep) | at least 1, and 50 % | `max_ejection_percent` 10 % |
/// | [`trial_successes`](Self::trial_successes) | 3 | – |
/// | [`retry_after`](Self::retry_after) | 60 s at most | – |
///
/// **How many may be out.** In place of `max_ejection_percent` it is said how many have to stay: of
/// the backends that are active, ready and of a weight above 0, so many remain eligible, whatever
/// requests show; those that checks find down count as missing. The number is exact and holds at any
/// time: where another one goes down later, ejections are overruled. Among backups it holds as well,
/// apart from active backends. Who asks for `max_ejection_percent: N` gets it with
/// `MinHealthy::percent(100 - N)`; add `at_least(1)` where N is 100. Of 1 to 10 backends, so many may
/// be out:
///
/// | backends | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |
/// | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
/// | at least 1, 50 %: the default | 0 | 1 | 1 | 2 | 2 | 3 | 3 | 4 | 4 | 5 |
/// | 90 %: `max_ejection_percent: 10` | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 1 |
/// | 67 %: `max_ejection_percent: 33` | 0 | 0 | 0 | 1 | 1 | 1 | 2 | 2 | 2 | 3 |
/// | at least 1: `max_ejection_percent: 100` | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |
///
/// **What counts.** A status from 500 on is an error. A dial that fails, a request without an
/// answer, and an answer that breaks off count as a 503, unless local failures are told apart. An
/// answer that breaks off had counted as good when its head came: in the rates it is then bad
/// instead; in a row with others it cannot be, as each head ends the row. One whose head was an error
/// counts once. What clients get wrong ([`BadRequest`](crate::BadRequest)) does not count. Of connections nothing is
/// known but whether they were dialled. A response of gRPC that is nothing but a head counts with the
/// HTTP status that stands for its `grpc-status`.
///
/// **For how long.** Ejections of late, this one included, times `base_ejection_time`, capped, plus
/// jitter. For each `interval` that a backend stays in, one ejection is forgotten.
///
/// **And then.** One request at a time goes there ([`Reason::Trial`](crate::Reason::Trial)), and not of
/// a client who is pinned to somewhere. As many successes in a row as
/// [`trial_successes`](Self::trial_successes) bring it back, with a
/// [slow start](crate::ClusterBuilder::slow_start) where there is one; a failure takes it out for
/// longer. For one `interval` only requests take part that can be [sent again](crate::Resend), so that
/// no client notices; after that any do, as there may be no others, and connections are such.
///
/// A backend in several clusters is out in all of them, and its counts are of all: have one that is
/// judged like this in one cluster.
#[derive(Clone, Debug)]
pub struct Outlier {
    pub(super) consecutive_5xx: u32,
    pub(super) consecutive_gateway_failure: u32,
    pub(super) consecutive_local_origin_failure: u32,
    pub(super) split: bool,
    pub(super) interval: Duration,
    pub(super) base_ejection_time: Duration,
    pub(super) max_ejection_time: Duration,
    pub(super) max_ejection_time_jitter: Duration,
    pub(super) success_rate: Option<SuccessRate>,
    pub(super) failure_percentage: Option<FailurePercentage>,
    pub(super) keep: MinHealthy,
    pub(super) unejects: bool,
    pub(super) trial_successes: u32,
    pub(super) retry_after: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl Outlier {
    /// With the defaults of the table.
    pub fn new() -> Self {
        Self {
            consecutive_5xx: CONSECUTIVE,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: CONSECUTIVE,
            split: false,
            interval: INTERVAL,
            base_ejection_time: BASE_EJECTION_TIME,
            max_ejection_time: MAX_EJECTION_TIME,
            max_ejection_time_jitter: Duration::ZERO,
            success_rate: Some(SuccessRate::new()),
            failure_percentage: None,
            keep: MinHealthy::percent(KEEP_PERCENT).at_least(1),
            unejects: true,
            trial_successes: TRIAL_SUCCESSES,
            retry_after: RETRY_AFTER_CAP,
            clock: Arc::new(SystemClock),
        }
    }

    /// Ejects after so many errors in a row. 0: never.
    pub fn consecutive_5xx(self, errors: u32) -> Self {
        Self { consecutive_5xx: errors, ..self }
    }

    /// Ejects after so many of 502, 503 and 504 in a row. 0: never.
    pub fn consecutive_gateway_failure(self, errors: u32) -> Self {
        Self { consecutive_gateway_failure: errors, ..self }
    }

    /// Ejects after so many local failures in a row, if those are
    /// [told apart](Self::split_external_local_origin_errors). 0: never.
    pub fn consecutive_local_origin_failure(self, failures: u32) -> Self {
        Self { consecutive_local_origin_failure: failures, ..self }
    }

    /// Tells dials that fail and answers that do not come from answers that are bad: each kind has
    /// its own row and its own rates.
    pub fn split_external_local_origin_errors(self, split: bool) -> Self {
        Self { split, ..self }
    }

    /// Compares rates so often, and forgets ejections so fast. The first time is one interval after
    /// the first request; a cluster that nobody uses does nothing. From 1 ms to a year.
    pub fn interval(self, interval: Duration) -> Self {
        Self { interval: interval.clamp(SHORTEST, A_YEAR), ..self }
    }

    /// For how long the first ejection is. At most a year.
    pub fn base_ejection_time(self, time: Duration) -> Self {
        Self { base_ejection_time: time.min(A_YEAR), ..self }
    }

    /// For how long an ejection is at most, without the jitter. If the base is longer, that. At most
    /// a year.
    pub fn max_ejection_time(self, time: Duration) -> Self {
        Self { max_ejection_time: time.min(A_YEAR), ..self }
    }

    /// Adds up to so much, by chance, so that not all come back at once. At most a year.
    pub fn max_ejection_time_jitter(self, jitter: Duration) -> Self {
        Self { max_ejection_time_jitter: jitter.min(A_YEAR), ..self }
    }

    /// Ejects whose rate of success is far below that of the others. `None`: nobody.
    pub fn success_rate(self, rule: impl Into<Option<SuccessRate>>) -> Self {
        Self { success_rate: rule.into(), ..self }
    }

    /// Ejects who fails too often. `None`: nobody.
    pub fn failure_percentage(self, rule: impl Into<Option<FailurePercentage>>) -> Self {
        Self { failure_percentage: rule.into(), ..self }
    }

    /// Keeps so many eligible, in place of Envoy's `max_ejection_percent`.
    pub fn keep(self, keep: MinHealthy) -> Self {
        Self { keep, ..self }
    }

    /// Whether a check that passes ends an ejection.
    pub fn successful_active_health_check_uneject_host(self, unejects: bool) -> Self {
        Self { unejects, ..self }
    }

    /// So many requests in a row have to go well before a backend is in again. At least 1.
    ///
    /// More than one, as a backend that fails half of its requests would pass one every other time;
    /// with three it is one time in eight.
    pub fn trial_successes(self, successes: u32) -> Self {
        Self { trial_successes: successes.max(1), ..self }
    }

    /// Leaves a backend alone that answers 429 or 503 with `Retry-After`, for as long as that says,
    /// but no longer than `cap`. Zero: does not look at it. At most a year.
    ///
    /// That does not make later ejections longer, and no check that passes ends it. The default is a
    /// minute: what servers under load ask for as a rule, and no more than the second ejection would
    /// be if the header is wrong. Turn it off where a 429 means one client and not the server, or that
    /// client can have servers taken out (as many as may be).
    pub fn retry_after(self, cap: Duration) -> Self {
        Self { retry_after: cap.min(A_YEAR), ..self }
    }

    /// The wall time that a date in `Retry-After` is compared with. Default: the system's.
    pub fn clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self }
    }
}

impl Default for Outlier {
    fn default() -> Self {
        Self::new()
    }
}

/// When a rate of success is far below that of the others: below the mean of all minus a multiple of
/// their standard deviation.
///
/// | setting | default | Envoy |
/// | --- | --- | --- |
/// | [`minimum_hosts`](Self::minimum_hosts) | 5 | `success_rate_minimum_hosts` |
/// | [`request_volume`](Self::request_volume) | 100 | `success_rate_request_volume` |
/// | [`stdev_factor`](Self::stdev_factor) | 1900 | `success_rate_stdev_factor` |
///
/// With few backends nobody can be far below: of n of which one differs, it is √(n − 1) deviations
/// below the mean. With 1.9 that takes five.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    pub(super) minimum_hosts: usize,
    pub(super) request_volume: u32,
    pub(super) stdev_factor: u32,
}

impl SuccessRate {
    /// With the defaults of the table.
    pub const fn new() -> Self {
        Self { minimum_hosts: HOSTS, request_volume: 100, stdev_factor: 1900 }
    }

    /// Compares only if so many backends have had enough requests.
    pub const fn minimum_hosts(self, hosts: usize) -> Self {
        Self { minimum_hosts: hosts, ..self }
    }

    /// So many requests in an interval are enough. At least 1.
    pub const fn request_volume(self, requests: u32) -> Self {
        Self { request_volume: requests, ..self }
    }

    /// How many deviations below the mean is too far, in thousandths.
    pub const fn stdev_factor(self, thousandths: u32) -> Self {
        Self { stdev_factor: thousandths, ..self }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self::new()
    }
}

/// When a backend fails too often, whatever the others do.
///
/// | setting | default | Envoy |
/// | --- | --- | --- |
/// | [`threshold`](Self::threshold) | 85 | `failure_percentage_threshold` |
/// | [`minimum_hosts`](Self::minimum_hosts) | 5 | `failure_percentage_minimum_hosts` |
/// | [`request_volume`](Self::request_volume) | 50 | `failure_percentage_request_volume` |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    pub(super) threshold: u32,
    pub(super) minimum_hosts: usize,
    pub(super) request_volume: u32,
}

impl FailurePercentage {
    /// With the defaults of the table.
    pub const fn new() -> Self {
        Self { threshold: 85, minimum_hosts: HOSTS, request_volume: 50 }
    }

    /// So many per cent that fail are too many.
    pub const fn threshold(self, percent: u32) -> Self {
        Self { threshold: percent, ..self }
    }

    /// Looks only if so many backends have had enough requests.
    pub const fn minimum_hosts(self, hosts: usize) -> Self {
        Self { minimum_hosts: hosts, ..self }
    }

    /// So many requests in an interval are enough. At least 1.
    pub const fn request_volume(self, requests: u32) -> Self {
        Self { request_volume: requests, ..self }
    }
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self::new()
    }
}

/// Envoy's, for all that is counted in a row.
const CONSECUTIVE: u32 = 5;

/// Envoy's.
const INTERVAL: Duration = Duration::from_secs(10);

/// A sweep publishes a table: more often than that would be a load rather than a protection.
const SHORTEST: Duration = Duration::from_millis(1);

/// Envoy's.
const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);

/// Envoy's.
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);

/// Envoy's 10 % ejects nobody of fewer than ten; half can take the load of the others in most places.
const KEEP_PERCENT: u8 = 50;

const TRIAL_SUCCESSES: u32 = 3;

const RETRY_AFTER_CAP: Duration = Duration::from_secs(60);

/// Envoy's, for both rules.
const HOSTS: usize = 5;
