//! The checks of backends that the command line asks for.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bartizan::balance::{CheckGuard, DialProbe, InitState, Verdict};
use bartizan::net::{HostPattern, SendProxyLayer};
use bartizan::prelude::*;
use bartizan::tls::{CertificateCheckLayer, SameCertificate, ServerRoots, TlsOriginateLayer};
use bytes::Bytes;
use tower::{Layer, Service};

use crate::cli::{BackendCa, Check, Cli, Mode};
use crate::routes::Routed;

/// Checks that can be started.
pub(crate) struct Checking {
    checks: Vec<Start>,
}

type Start = Box<dyn FnOnce() -> CheckGuard>;

impl Checking {
    /// Finds out what is wrong with what they need.
    pub(crate) fn new(
        cli: &Cli,
        cluster: &Cluster,
        routed: &[Routed],
        upstream: Option<&TlsOriginateLayer>,
    ) -> Result<Self, Box<dyn Error>> {
        let dial = announced(cli).layer(TcpDial::new());
        let own = cluster_of(cli, cluster);
        let routed = routed.iter().map(|routed| Checked {
            cluster: &routed.cluster,
            host: Some(&routed.host),
            way: if routed.reencrypts { Way::Reencrypted } else { Way::Passing },
        });
        let roots = match cli.check {
            Check::Tls if cli.passes() => Some(roots(cli.upstream.ca.as_ref())?),
            _ => None,
        };
        let check = |checked: Checked<'_>| match (checked.way, upstream, &roots) {
            // Where a session is resumed, no certificate is shown.
            (Way::Reencrypted, Some(upstream), _) => {
                let dial = upstream.clone().resume(false).layer(dial.clone());
                start(cli, checked.cluster, DialProbe::new(dial), false)
            }
            (Way::Passing, _, Some(roots)) => {
                let check = certificates(cli, roots.clone(), checked.host);
                start(cli, checked.cluster, DialProbe::new(check.layer(dial.clone())), true)
            }
            _ => start(cli, checked.cluster, DialProbe::new(dial.clone()), false),
        };
        let checks = match cli.check {
            Check::None => Vec::new(),
            Check::Tcp | Check::Tls => routed.chain([own]).map(check).collect(),
        };
        Ok(Self { checks })
    }

    /// Starts them, in the runtime that is entered.
    pub(crate) fn start(self) -> Vec<CheckGuard> {
        self.checks.into_iter().map(|start| start()).collect()
    }
}

/// Backends that are checked together.
struct Checked<'a> {
    cluster: &'a Cluster,
    host: Option<&'a HostPattern>,
    way: Way,
}

/// How connections get to backends.
#[derive(Clone, Copy)]
enum Way {
    Clear,
    Reencrypted,
    Passing,
}

fn cluster_of<'a>(cli: &Cli, cluster: &'a Cluster) -> Checked<'a> {
    let way = match cli.mode {
        Mode::Terminate => Way::Clear,
        Mode::Reencrypt => Way::Reencrypted,
        Mode::Passthrough => Way::Passing,
    };
    Checked { cluster, host: None, way }
}

/// Backends that want a PROXY header want it of checks, too.
pub(crate) fn announced(cli: &Cli) -> SendProxyLayer {
    let send = cli.passthrough.send_proxy.as_ref();
    send.map_or_else(|| SendProxyLayer::new(Bytes::new()), SendProxyLayer::local)
}

/// A backend that has to prove who it is gets no connection before it has.
fn start<Pr>(cli: &Cli, cluster: &Cluster, probe: Pr, proves: bool) -> Start
where
    Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
    Pr: Clone + Send + Sync + 'static,
    Pr::Future: Send,
{
    let checks = Checks::new(probe)
        .every(cli.check_interval)
        .timeout(cli.check_timeout)
        .rise(cli.rise)
        .fall(cli.fall)
        .init_state(if proves { InitState::Down } else { InitState::FullyUp });
    let cluster = cluster.clone();
    Box::new(move || cluster.check(checks))
}

/// What the certificates of a route's backends have to be for.
fn certificates(
    cli: &Cli,
    roots: ServerRoots,
    host: Option<&HostPattern>,
) -> CertificateCheckLayer {
    let window = (cli.check_interval * 5).max(Duration::from_secs(60));
    let check = CertificateCheckLayer::new(roots)
        .same_certificate(SameCertificate::report().window(window));
    match (&cli.upstream.name, host) {
        (Some(name), _) => check.name(name.as_str()),
        (None, Some(host)) => check.name(sample_name(host)),
        (None, None) => check,
    }
}

/// A name that the pattern stands for. Who serves all names under a domain serves this one.
pub(crate) fn sample_name(host: &HostPattern) -> String {
    let label = if host.is_wildcard() { "bartizan-check" } else { "" };
    format!("{label}{}", host.key())
}

fn roots(ca: Option<&BackendCa>) -> Result<ServerRoots, Box<dyn Error>> {
    Ok(match ca {
        Some(BackendCa::File(path)) => ServerRoots::from_pem_file(path)?,
        Some(BackendCa::System) | None => ServerRoots::system()?,
    })
}
