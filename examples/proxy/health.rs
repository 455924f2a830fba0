//! What clusters do about the health of their backends, as the command line asks for it.

use bartizan::balance::{
    ClusterBuilder, FailurePercentage, MinHealthy, Observe, OnMarkedDown, Outlier, SlowStart,
    SuccessRate,
};
use bartizan::prelude::*;

use crate::cli::{Cli, Layer, ObserveArg, OnMarkedDownArg, OutlierArg, OutlierSetting};

/// A cluster of this name, still without backends.
pub(crate) fn cluster(cli: &Cli, name: &str) -> ClusterBuilder {
    let mut cluster = Cluster::builder(name).slow_start(SlowStart::new(cli.balancing.slowstart));
    if let Some(arg) = cli.health.observe {
        cluster = cluster.observe(observe(arg));
    }
    if let Some(arg) = &cli.health.outlier {
        cluster = cluster.outlier(outlier(arg));
    }
    match cli.health.on_marked_down {
        Some(OnMarkedDownArg::ShutdownSessions) => {
            cluster.on_marked_down(OnMarkedDown::ShutdownSessions)
        }
        None => cluster,
    }
}

fn observe(arg: ObserveArg) -> Observe {
    let observe = match arg.layer {
        Layer::Four => Observe::layer4(),
        Layer::Seven => Observe::layer7(),
    };
    let observe = observe.on_error(arg.on_error);
    arg.error_limit.into_iter().fold(observe, Observe::error_limit)
}

fn outlier(arg: &OutlierArg) -> Outlier {
    use OutlierSetting as Set;
    let (mut success, mut failure) = (SuccessRate::new(), FailurePercentage::new());
    let (mut by_success, mut by_failure) = (true, false);
    let (mut percent, mut at_least) = (50, 1);
    let mut outlier = Outlier::new();
    for setting in &arg.settings {
        outlier = match *setting {
            Set::Consecutive5xx(n) => outlier.consecutive_5xx(n),
            Set::ConsecutiveGatewayFailure(n) => outlier.consecutive_gateway_failure(n),
            Set::ConsecutiveLocalOriginFailure(n) => outlier.consecutive_local_origin_failure(n),
            Set::SplitLocalOriginErrors(split) => outlier.split_external_local_origin_errors(split),
            Set::Interval(time) => outlier.interval(time),
            Set::BaseEjectionTime(time) => outlier.base_ejection_time(time),
            Set::MaxEjectionTime(time) => outlier.max_ejection_time(time),
            Set::MaxEjectionTimeJitter(time) => outlier.max_ejection_time_jitter(time),
            Set::UnejectOnCheck(on) => outlier.successful_active_health_check_uneject_host(on),
            Set::RetryAfter(cap) => outlier.retry_after(cap),
            _ => outlier,
        };
        match *setting {
            Set::SuccessRate(on) => by_success = on,
            Set::SuccessRateMinimumHosts(n) => success = success.minimum_hosts(n as usize),
            Set::SuccessRateRequestVolume(n) => success = success.request_volume(n),
            Set::SuccessRateStdevFactor(n) => success = success.stdev_factor(n),
            Set::FailurePercentage(on) => by_failure = on,
            Set::FailurePercentageThreshold(n) => failure = failure.threshold(n),
            Set::FailurePercentageMinimumHosts(n) => failure = failure.minimum_hosts(n as usize),
            Set::FailurePercentageRequestVolume(n) => failure = failure.request_volume(n),
            Set::Keep(share) => percent = share,
            Set::KeepAtLeast(number) => at_least = number,
            _ => {}
        }
    }
    outlier
        .success_rate(by_success.then_some(success))
        .failure_percentage(by_failure.then_some(failure))
        .keep(MinHealthy::percent(percent).at_least(at_least))
}
