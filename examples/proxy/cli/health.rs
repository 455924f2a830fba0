//! Flags of health: how it is found out which backends work, and what happens then.

use std::time::Duration;

use bartizan::balance::OnError;
use clap::{Args, ValueEnum};

use super::values;

/// How it is found out which backends work.
#[derive(Clone, Debug, Args)]
pub(crate) struct HealthArgs {
    /// Active check of backends (repeatable: a backend is up if it passes all): none; tcp; tls:
    /// certificates are verified where TLS passes on to them; http:PATH, which has to be answered
    /// with 2xx or 3xx; grpc[:SERVICE], which has to be SERVING; agent:PORT, HAProxy's agent, which
    /// sets weight and state. Over TLS where backends are
    #[arg(long = "check", value_name = "KIND", value_parser = check)]
    checks: Vec<Check>,

    /// Time between two checks of a backend
    #[arg(long = "check-interval", value_name = "D", default_value = "2s", value_parser = values::duration)]
    pub(crate) interval: Duration,

    /// Time for one check
    #[arg(long = "check-timeout", value_name = "D", default_value = "1s", value_parser = values::duration)]
    pub(crate) timeout: Duration,

    /// Passed checks in a row that bring a backend back
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rise: u32,

    /// Failed checks in a row that take a backend out
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) fall: u32,

    /// Let errors of requests count as checks: layer4 for failed connections, layer7 for answers as
    /// well; with [,error-limit=N][,on-error=fastinter|fail-check|sudden-death|mark-down]
    #[arg(long, value_name = "LAYER[,opt=v...]", num_args = 0..=1, default_missing_value = "layer7", value_parser = observe)]
    pub(crate) observe: Option<ObserveArg>,

    /// Take backends out for a time that answer worse than they should, as Envoy's outlier
    /// detection does and with its field names: consecutive-5xx=5, consecutive-gateway-failure,
    /// consecutive-local-origin-failure, interval=10s, base-ejection-time=30s,
    /// max-ejection-time=300s, success-rate=on|off, failure-percentage=on|off and others; at least
    /// keep=50% and keep-at-least=1 of the backends stay in
    #[arg(long, value_name = "k=v,...", num_args = 0..=1, default_missing_value = "", value_parser = outlier)]
    pub(crate) outlier: Option<OutlierArg>,

    /// What happens to the sessions of a backend that is marked down: shutdown-sessions ends them,
    /// and sends what may safely be repeated to another
    #[arg(long, value_name = "ACTION", value_enum)]
    pub(crate) on_marked_down: Option<OnMarkedDownArg>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    None,
    Tcp,
    Tls,
    Http { path: String },
    Grpc { service: String },
    Agent { port: u16 },
}

/// `layer4|layer7[,error-limit=N][,on-error=MODE]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ObserveArg {
    pub(crate) layer: Layer,
    pub(crate) error_limit: Option<u32>,
    pub(crate) on_error: OnError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Four,
    Seven,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnMarkedDownArg {
    ShutdownSessions,
}

/// What is set of Envoy's `outlier_detection`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutlierArg {
    pub(crate) settings: Vec<OutlierSetting>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutlierSetting {
    Consecutive5xx(u32),
    ConsecutiveGatewayFailure(u32),
    ConsecutiveLocalOriginFailure(u32),
    SplitLocalOriginErrors(bool),
    Interval(Duration),
    BaseEjectionTime(Duration),
    MaxEjectionTime(Duration),
    MaxEjectionTimeJitter(Duration),
    SuccessRate(bool),
    SuccessRateMinimumHosts(u32),
    SuccessRateRequestVolume(u32),
    SuccessRateStdevFactor(u32),
    FailurePercentage(bool),
    FailurePercentageThreshold(u32),
    FailurePercentageMinimumHosts(u32),
    FailurePercentageRequestVolume(u32),
    UnejectOnCheck(bool),
    RetryAfter(Duration),
    Keep(u8),
    KeepAtLeast(usize),
}

impl Check {
    /// Whether it begins TLS where backends have it.
    pub(crate) fn is_over_tls(&self) -> bool {
        matches!(self, Self::Tls | Self::Http { .. } | Self::Grpc { .. })
    }

    /// What it begins with on the command line.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http { .. } => "http",
            Self::Grpc { .. } => "grpc",
            Self::Agent { .. } => "agent",
        }
    }
}

impl HealthArgs {
    /// The checks that are made.
    pub(crate) fn checks(&self) -> impl Iterator<Item = &Check> + Clone {
        self.checks.iter().filter(|check| **check != Check::None)
    }

    /// Whether anything is checked.
    pub(crate) fn is_checked(&self) -> bool {
        self.checks().next().is_some()
    }

    /// Finds flags that contradict each other, or need others.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.checks.contains(&Check::None) && self.checks.len() > 1 {
            return Err("--check none and another --check contradict each other".to_owned());
        }
        let mut seen = Vec::new();
        if let Some(twice) = self.checks.iter().find(|check| {
            let twice = seen.contains(check);
            seen.push(*check);
            twice
        }) {
            return Err(format!("--check {} is asked for twice", twice.kind()));
        }
        let judges = self.checks().any(|check| !matches!(check, Check::Agent { .. }));
        if self.observe.is_some() && !judges {
            return Err(
                "--observe needs --check, and not just of agents: without, nothing brings \
                        backends back"
                    .into(),
            );
        }
        if self.on_marked_down.is_some() && !self.is_checked() {
            return Err(
                "--on-marked-down needs --check: nothing marks backends down without".into()
            );
        }
        Ok(())
    }
}

fn check(text: &str) -> Result<Check, String> {
    let (kind, rest) = match text.split_once(':') {
        Some((kind, rest)) => (kind, Some(rest)),
        None => (text, None),
    };
    match (kind, rest) {
        ("none", None) => Ok(Check::None),
        ("tcp", None) => Ok(Check::Tcp),
        ("tls", None) => Ok(Check::Tls),
        ("http", Some(path)) if path.starts_with('/') => Ok(Check::Http { path: path.to_owned() }),
        ("http", _) => Err("a check over HTTP is http:PATH, such as http:/health".to_owned()),
        ("grpc", service) => Ok(Check::Grpc { service: service.unwrap_or_default().to_owned() }),
        ("agent", Some(port)) => match port.parse() {
            Ok(port) if port > 0 => Ok(Check::Agent { port }),
            _ => Err("an agent's port is a number from 1 to 65535".to_owned()),
        },
        ("agent", None) => Err("an agent is agent:PORT".to_owned()),
        _ => Err(format!(
            "`{text}` is not known; there are none, tcp, tls, http:PATH, grpc[:SERVICE] and \
             agent:PORT"
        )),
    }
}

fn observe(text: &str) -> Result<ObserveArg, String> {
    let mut parts = text.split(',');
    let layer = match parts.next().unwrap_or_default() {
        "layer4" => Layer::Four,
        "layer7" => Layer::Seven,
        other => return Err(format!("`{other}` is neither layer4 nor layer7")),
    };
    let mut arg = ObserveArg { layer, error_limit: None, on_error: OnError::default() };
    for option in parts {
        match option.split_once('=').unwrap_or((option, "")) {
            ("error-limit", limit) => {
                let limit = limit.parse().ok().filter(|limit| *limit > 0);
                arg.error_limit = Some(limit.ok_or("error-limit is a number from 1 up")?);
            }
            ("on-error", "fastinter") => arg.on_error = OnError::FastInter,
            ("on-error", "fail-check") => arg.on_error = OnError::FailCheck,
            ("on-error", "sudden-death") => arg.on_error = OnError::SuddenDeath,
            ("on-error", "mark-down") => arg.on_error = OnError::MarkDown,
            ("on-error", other) => {
                return Err(format!(
                    "`{other}` is no on-error; there are fastinter, fail-check, sudden-death and \
                     mark-down"
                ));
            }
            _ => return Err(format!("`{option}` is no option of --observe")),
        }
    }
    Ok(arg)
}

fn outlier(text: &str) -> Result<OutlierArg, String> {
    if matches!(text, "" | "default" | "on") {
        return Ok(OutlierArg::default());
    }
    let settings = text.split(',').map(outlier_setting).collect::<Result<_, _>>()?;
    Ok(OutlierArg { settings })
}

/// `KEY=VALUE`, with Envoy's keys; `-` and `_` are the same.
fn outlier_setting(text: &str) -> Result<OutlierSetting, String> {
    use OutlierSetting as Set;
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not key=value"))?;
    let key = key.replace('_', "-");
    let about = |error: String| format!("{key}: {error}");
    let count = || values::count(value).map_err(about);
    let time = || values::duration(value).map_err(about);
    let switch = || switch(value).map_err(about);
    Ok(match &*key {
        "consecutive-5xx" => Set::Consecutive5xx(count()?),
        "consecutive-gateway-failure" => Set::ConsecutiveGatewayFailure(count()?),
        "consecutive-local-origin-failure" => Set::ConsecutiveLocalOriginFailure(count()?),
        "split-external-local-origin-errors" => Set::SplitLocalOriginErrors(switch()?),
        "interval" => Set::Interval(time()?),
        "base-ejection-time" => Set::BaseEjectionTime(time()?),
        "max-ejection-time" => Set::MaxEjectionTime(time()?),
        "max-ejection-time-jitter" => Set::MaxEjectionTimeJitter(time()?),
        "success-rate" => Set::SuccessRate(switch()?),
        "success-rate-minimum-hosts" => Set::SuccessRateMinimumHosts(count()?),
        "success-rate-request-volume" => Set::SuccessRateRequestVolume(count()?),
        "success-rate-stdev-factor" => Set::SuccessRateStdevFactor(count()?),
        "failure-percentage" => Set::FailurePercentage(switch()?),
        "failure-percentage-threshold" => Set::FailurePercentageThreshold(count()?),
        "failure-percentage-minimum-hosts" => Set::FailurePercentageMinimumHosts(count()?),
        "failure-percentage-request-volume" => Set::FailurePercentageRequestVolume(count()?),
        "successful-active-health-check-uneject-host" => Set::UnejectOnCheck(switch()?),
        "retry-after" => Set::RetryAfter(time()?),
        "keep" => Set::Keep(percent(value).map_err(about)?),
        "keep-at-least" => Set::KeepAtLeast(count()? as usize),
        "max-ejection-percent" => Set::Keep(100 - percent(value).map_err(about)?),
        _ => return Err(format!("`{key}` is no setting of --outlier")),
    })
}

fn switch(value: &str) -> Result<bool, String> {
    match value {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        other => Err(format!("`{other}` is neither on nor off")),
    }
}

/// From 0 to 100, with or without `%`.
fn percent(value: &str) -> Result<u8, String> {
    let number = value.strip_suffix('%').unwrap_or(value).parse().ok();
    number.filter(|n| *n <= 100).ok_or_else(|| format!("`{value}` is not from 0% to 100%"))
}
