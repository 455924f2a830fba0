//! The checks of backends that the command line asks for.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bartizan::balance::{
    AgentProbe, CertificateProbe, CheckGuard, DialProbe, InitState, ProbeTarget, Verdict,
};
use bartizan::http::{GrpcProbe, HttpProbe};
use bartizan::net::{BoxError, DialledStream, HostPattern, SendProxyHeader, SendProxyLayer};
use bartizan::prelude::*;
use bartizan::tls::{CertificateCheckLayer, SameCertificate, ServerTrust, TlsOriginateLayer};
use bytes::Bytes;
use tower::{Layer, Service};

use crate::cli::{Check, Cli, Mode};
use crate::routes::Routed;
use crate::upstream::{self, Upstream};

/// Checks that can be started.
pub(crate) struct Checking {
    checks: Vec<Start>,
    /// Trust in backends that TLS passes to, if they are asked over TLS.
    pub(crate) upstream: Option<Upstream>,
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
        let own = cluster_of(cli, cluster);
        // One for all: each watches its files, which takes threads and descriptors.
        let clients = upstream::for_checks(cli)?;
        let passing = clients.as_ref();
        let routed = routed.iter().map(|routed| Checked {
            cluster: &routed.cluster,
            host: Some(&routed.host),
            way: if routed.reencrypts { Way::Reencrypted } else { Way::Passing },
        });
        let mut checks = Vec::new();
        for checked in routed.chain([own]) {
            for check in cli.health.checks() {
                checks.push(Checker { cli, checked, upstream, passing }.start(check)?);
            }
        }
        Ok(Self { checks, upstream: clients })
    }

    /// Starts them, in the runtime that is entered.
    pub(crate) fn start(self) -> Vec<CheckGuard> {
        self.checks.into_iter().map(|start| start()).collect()
    }
}

/// Backends that are checked together.
#[derive(Clone, Copy)]
struct Checked<'a> {
    cluster: &'a Cluster,
    host: Option<&'a HostPattern>,
    way: Way,
}

/// How connections get to backends.
#[derive(Clone, Copy, PartialEq, Eq)]
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

/// Makes checks of one set of backends.
struct Checker<'a> {
    cli: &'a Cli,
    checked: Checked<'a>,
    upstream: Option<&'a TlsOriginateLayer>,
    passing: Option<&'a Upstream>,
}

impl Checker<'_> {
    fn start(&self, check: &Check) -> Result<Start, Box<dyn Error>> {
        let tcp = self.tcp();
        Ok(match (check, self.checked.way) {
            (Check::Agent { port }, _) => {
                // The probe keeps the time itself: an agent that hangs is no failure of its server.
                let agent = AgentProbe::new(TcpDial::new()).timeout(self.cli.health.timeout);
                let checks = Checks::agent(agent).target(ProbeTarget::new().port(*port));
                self.begin(checks)
            }
            (Check::Tls, Way::Passing) => {
                let check = self.certificates(self.passing().trust());
                self.begin(self.checks(DialProbe::new(check.layer(tcp))))
            }
            (Check::Tcp, Way::Clear | Way::Passing) | (Check::Tls, Way::Clear) => {
                self.begin(self.checks(DialProbe::new(tcp)))
            }
            (Check::Tcp | Check::Tls, Way::Reencrypted) => {
                self.begin(self.checks(CertificateProbe::new(self.tls(None).layer(tcp))))
            }
            (Check::Http { .. } | Check::Grpc { .. }, Way::Clear) => self.requests(check, tcp)?,
            (Check::Http { .. }, _) => self.requests(check, self.tls(None).layer(tcp))?,
            (Check::Grpc { .. }, _) => self.requests(check, self.tls(Some("h2")).layer(tcp))?,
            (Check::None, _) => unreachable!("left out by `HealthArgs::checks`"),
        })
    }

    fn tcp(&self) -> SendProxyHeader<TcpDial> {
        announced(self.cli).layer(TcpDial::new())
    }

    /// TLS as on the way to these backends. Where a session is resumed, no certificate is shown.
    fn tls(&self, protocol: Option<&str>) -> TlsOriginateLayer {
        let way = match self.checked.way {
            Way::Reencrypted => self.upstream,
            Way::Clear | Way::Passing => Some(&self.passing().layer),
        };
        let Some(tls) = way else { unreachable!("loaded for whatever needs it") };
        let tls = tls.clone().resume(false);
        match protocol {
            Some(protocol) => tls.alpn([protocol]),
            None => tls,
        }
    }

    fn passing(&self) -> &Upstream {
        let Some(passing) = self.passing else { unreachable!("loaded for whatever needs it") };
        passing
    }

    /// Checks that send requests over `dial`.
    fn requests<D>(&self, check: &Check, dial: D) -> Result<Start, Box<dyn Error>>
    where
        D: Service<Arc<Backend>, Response: DialledStream, Error: Into<BoxError>, Future: Send>,
        D: Clone + Send + Sync + 'static,
    {
        Ok(match check {
            Check::Http { path } => {
                let probe = HttpProbe::new(dial).protocol(self.cli.upstream.proto.into());
                self.begin(self.checks(probe.path(path)?))
            }
            Check::Grpc { service } => {
                self.begin(self.checks(GrpcProbe::new(dial).service(service.as_str())))
            }
            _ => unreachable!("called for checks of requests alone"),
        })
    }

    /// The settings of the command line. A backend that has to prove who it is gets no connection
    /// before it has; who asks for its certificate asks for the name that clients will.
    fn checks<Pr>(&self, probe: Pr) -> Checks<Pr> {
        let proves =
            self.checked.way == Way::Passing && self.cli.health.checks().any(Check::is_over_tls);
        let checks = Checks::new(probe)
            .timeout(self.cli.health.timeout)
            .rise(self.cli.health.rise)
            .fall(self.cli.health.fall)
            .init_state(if proves { InitState::Down } else { InitState::FullyUp });
        match self.name().filter(|_| proves) {
            Some(name) => checks.target(ProbeTarget::new().server_name(name)),
            None => checks,
        }
    }

    fn begin<Pr>(&self, checks: Checks<Pr>) -> Start
    where
        Pr: Service<Arc<Backend>, Response = Verdict, Error = Infallible>,
        Pr: Clone + Send + Sync + 'static,
        Pr::Future: Send,
    {
        let checks = checks.every(self.cli.health.interval);
        let cluster = self.checked.cluster.clone();
        Box::new(move || cluster.check(checks))
    }

    /// What the certificates of a route's backends have to be for.
    fn certificates(&self, trust: ServerTrust) -> CertificateCheckLayer {
        let window = (self.cli.health.interval * 5).max(Duration::from_secs(60));
        let check = CertificateCheckLayer::new(trust)
            .same_certificate(SameCertificate::report().window(window));
        self.name().into_iter().fold(check, CertificateCheckLayer::name)
    }

    /// The name that backends have to prove, if it is not their own.
    fn name(&self) -> Option<String> {
        let own = self.cli.upstream.name.clone();
        let host = self.checked.host.map(sample_name);
        // Where TLS starts as well, `--backend-name` is needed, and is about those backends.
        if self.cli.reencrypts() { host.or(own) } else { own.or(host) }
    }
}

/// A name that the pattern stands for. Who serves all names under a domain serves this one.
pub(crate) fn sample_name(host: &HostPattern) -> String {
    let label = if host.is_wildcard() { "bartizan-check" } else { "" };
    format!("{label}{}", host.key())
}
