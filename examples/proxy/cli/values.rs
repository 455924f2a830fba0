//! What flags take.

use std::net::IpAddr;
use std::time::Duration;

use bartizan::balance::Limits;
use bartizan::net::{HostPattern, SendProxy, SourceLimitLayer};
use bartizan::tls::Pin;
use ipnet::IpNet;

use super::{BackendArg, BackendCa, BackendProto, Mode, Place};

pub(super) fn backend(text: &str) -> Result<BackendArg, String> {
    let mut parts = text.split(',');
    let server = parts.next().unwrap_or_default();
    let (name, address) = server.split_once('=').unwrap_or((server, server));
    if name.is_empty() {
        return Err("the name before `=` is empty".to_owned());
    }
    let place = match address.strip_prefix("dns:") {
        Some(_) if name != server => {
            return Err(format!(
                "`{name}=` has no effect: what DNS says is called by the name that was asked for"
            ));
        }
        Some(followed) => followed_name(followed)?,
        None => Place::Fixed(address.to_owned()),
    };
    let (name, mut limits) = (name.to_owned(), Limits::none());
    let mut arg = BackendArg { name, place, server_name: None, weight: 1, backup: false, limits };
    for option in parts {
        match option.split_once('=').unwrap_or((option, "")) {
            ("sni", "") => return Err("the name after `sni=` is empty".to_owned()),
            ("sni", name) => arg.server_name = Some(server_name(name)?),
            ("weight", weight) => {
                let weight = weight.parse().ok().filter(|weight| *weight <= 256);
                arg.weight = weight.ok_or("a weight is a number from 0 to 256")?;
            }
            ("backup", "") => arg.backup = true,
            ("maxconn", max) => limits = limits.max(count(max)?),
            ("minconn", min) => limits = limits.min(count(min)?),
            ("maxqueue", queue) => limits = limits.queue(count(queue)?),
            _ => return Err(format!("`{option}` is no option of a backend")),
        }
    }
    Ok(BackendArg { limits, ..arg })
}

fn followed_name(text: &str) -> Result<Place, String> {
    let (name, port) =
        text.rsplit_once(':').ok_or("a backend that follows DNS is dns:NAME:PORT")?;
    let port = port.parse().ok().filter(|port| *port > 0);
    let port = port.ok_or("the port after the name is a number from 1 to 65535")?;
    if name.is_empty() {
        return Err("the name after `dns:` is empty".to_owned());
    }
    Ok(Place::Followed { name: name.to_owned(), port })
}

pub(super) fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number from 0 up"))
}

/// A number, or one with `k`, `m` or `g`: times 2^10, 2^20 or 2^30.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: usize = number.parse().map_err(|_| "a size is a number, or one with k, m or g")?;
    let unit = match unit {
        "" => 1_usize,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return Err("a size ends with a digit, k, m or g".to_owned()),
    };
    number.checked_mul(unit).filter(|size| *size > 0).ok_or_else(|| "too large, or 0".to_owned())
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "a duration is a number with ms, s, m or h")?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a duration ends with ms, s, m or h".to_owned()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "not a number from 1 up".to_owned())
}

pub(super) fn protocol(text: &str) -> Result<String, String> {
    match text {
        "h2" | "http/1.1" => Ok(text.to_owned()),
        _ => Err("known protocols are h2 and http/1.1".to_owned()),
    }
}

pub(super) fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "terminate" => Ok(Mode::Terminate),
        "reencrypt" => Ok(Mode::Reencrypt),
        "passthrough" => Ok(Mode::Passthrough),
        other => one_of(&[], other),
    }
}

/// `RATE,BURST`.
pub(super) fn limit(text: &str) -> Result<SourceLimitLayer, String> {
    let (rate, burst) = text.split_once(',').ok_or("a limit is RATE,BURST, such as 10,50")?;
    let rate = rate.parse().map_err(|_| format!("`{rate}` is not a number per second"))?;
    let burst = burst.parse().map_err(|_| format!("`{burst}` is not a number of connections"))?;
    SourceLimitLayer::new(rate, burst).map_err(|error| error.to_string())
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map_err(|_| "not a network such as 10.0.0.0/8, nor an address".to_owned())
}

pub(super) fn proxy_version(text: &str) -> Result<SendProxy, String> {
    match text {
        "v1" => Ok(SendProxy::v1()),
        "v2" => Ok(SendProxy::v2()),
        other => Err(format!("`{other}` is neither v1 nor v2")),
    }
}

pub(super) fn backend_ca(text: &str) -> Result<BackendCa, String> {
    Ok(match text {
        "" => return Err("it is empty: name a file, or `system`".to_owned()),
        "system" => BackendCa::System,
        path => BackendCa::File(path.into()),
    })
}

/// A name that a certificate can be for, or an address.
pub(super) fn server_name(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let name: HostPattern = text.parse().map_err(|error| format!("{error}"))?;
    if name.is_wildcard() {
        return Err(
            "it is a wildcard; name one host, which a wildcard certificate may be for".into()
        );
    }
    Ok(name.key().to_owned())
}

pub(super) fn pin(text: &str) -> Result<Pin, String> {
    text.parse::<Pin>().map_err(|error| error.to_string())
}

pub(super) fn backend_proto(text: &str) -> Result<BackendProto, String> {
    match text {
        "h1" => Ok(BackendProto::H1),
        "h2" => Ok(BackendProto::H2),
        "auto" => Ok(BackendProto::Auto),
        other => one_of(&[], other),
    }
}

pub(super) fn ocsp(text: &str) -> Result<String, String> {
    if matches!(text, "off" | "file") { Ok(text.into()) } else { one_of(&["auto"], text) }
}

pub(super) fn log(text: &str) -> Result<String, String> {
    if text == "off" { Ok(text.into()) } else { one_of(&["text", "json"], text) }
}

pub(super) fn one_of<T>(planned: &[&str], text: &str) -> Result<T, String> {
    if planned.contains(&text) { Err(unbuilt(text)) } else { Err(format!("`{text}` is not known")) }
}

pub(super) fn unbuilt(what: &str) -> String {
    format!("{what} is not built yet in this version")
}

/// Flags of the contract whose parts do not exist yet.
pub(super) const UNBUILT: [&str; 12] = [
    "--retry-on",
    "--max-age",
    "--min-rate",
    "--admin",
    "--admin-socket",
    "--acme-directory",
    "--acme-ca",
    "--acme-domain",
    "--acme-contact",
    "--acme-storage",
    "--acme-challenge",
    "--acme-http",
];
