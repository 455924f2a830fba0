//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bartizan::balance::{ClusterBuilder, Limits, Role};
use bartizan::net::{SendProxy, SourceLimitLayer};
use bartizan::prelude::*;
use clap::{Args, Parser};
use ipnet::IpNet;

use crate::routes::{Action, RouteArg};
use values::UNBUILT;

mod balancing;
mod client_auth;
mod effects;
mod health;
mod upstream;
mod values;

pub(crate) use balancing::{
    BalanceArg, BalancingArgs, CookieArg, CookieMode, HashKeyArg, OnDown, PolicyName, SameSiteArg,
    StickyArg, StickyBy,
};
pub(crate) use client_auth::{AuthMode, ClientAuthArgs};
pub(crate) use health::{
    Check, HealthArgs, Layer, ObserveArg, OnMarkedDownArg, OutlierArg, OutlierSetting,
};
pub(crate) use upstream::{BackendCa, BackendProto, UpstreamArgs};

/// A TLS-terminating load balancer, made of bartizan's public parts.
#[derive(Clone, Debug, Parser)]
#[command(name = "proxy", about, disable_version_flag = true)]
pub(crate) struct Cli {
    /// Where clients connect (repeatable)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub(crate) listen: Vec<SocketAddr>,

    /// What happens to TLS where no route says otherwise: it ends here (terminate), ends here and
    /// starts again (reencrypt), or passes (passthrough)
    #[arg(long, default_value = "terminate", value_parser = values::mode)]
    pub(crate) mode: Mode,

    /// PEM bundle (its key may lie beside it as X.key or X.pem.key) or directory of such
    /// (repeatable); the first certificate is the default
    #[arg(long, value_name = "PATH")]
    pub(crate) certs: Vec<PathBuf>,

    #[command(flatten)]
    pub(crate) passthrough: PassthroughArgs,

    /// Refuse unknown or missing server names with the alert unrecognized_name
    #[arg(long)]
    pub(crate) strict_sni: bool,

    #[command(flatten)]
    pub(crate) client_auth: ClientAuthArgs,

    /// Derive ticket keys from the secret in this file, at least 32 bytes, instead of at random
    #[arg(long, value_name = "FILE")]
    pub(crate) ticket_secret: Option<PathBuf>,

    /// OCSP responses to staple: off, or file for X.pem.ocsp beside X.pem
    #[arg(long, value_name = "KIND", default_value = "file", value_parser = values::ocsp)]
    pub(crate) ocsp: String,

    /// Application protocols to agree on, the preferred one first
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "h2,http/1.1", value_parser = values::protocol)]
    pub(crate) alpn: Vec<String>,

    /// A server to balance over (repeatable), or all that a name stands for now and later:
    /// dns:NAME:PORT. Options: weight=N (0 to 256), backup, maxconn=N, minconn=N, maxqueue=N, and
    /// sni=NAME, which it has to prove over TLS
    #[arg(long, value_name = "[NAME=]HOST:PORT[,OPTION...]", value_parser = values::backend)]
    pub(crate) backend: Vec<BackendArg>,

    #[command(flatten)]
    pub(crate) upstream: UpstreamArgs,

    #[command(flatten)]
    pub(crate) balancing: BalancingArgs,

    #[command(flatten)]
    pub(crate) health: HealthArgs,

    /// Further attempts after the first, each on another backend while there is one
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) retries: u32,

    /// Time for a whole TLS handshake
    #[arg(long, value_name = "D", default_value = "10s", value_parser = values::duration)]
    pub(crate) timeout_handshake: Duration,

    /// Time for a whole request head
    #[arg(long, value_name = "D", default_value = "10s", value_parser = values::duration)]
    pub(crate) timeout_header: Duration,

    /// Time to connect to a backend
    #[arg(long, value_name = "D", default_value = "5s", value_parser = values::duration)]
    pub(crate) timeout_connect: Duration,

    /// Longest silence of a client that is awaited
    #[arg(long, value_name = "D", default_value = "60s", value_parser = values::duration)]
    pub(crate) timeout_client: Duration,

    /// Longest silence of a backend that is awaited
    #[arg(long, value_name = "D", default_value = "60s", value_parser = values::duration)]
    pub(crate) timeout_server: Duration,

    /// Time without a request
    #[arg(long, value_name = "D", default_value = "60s", value_parser = values::duration)]
    pub(crate) timeout_keepalive: Duration,

    /// Open client connections; further ones wait in the kernel's queue [default: half of the
    /// descriptors that the process may have]
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    pub(crate) max_conns: Option<usize>,

    /// Current-thread runtimes, each with its own listener; 0: one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) workers: usize,

    /// Grace after SIGTERM or SIGINT; a second signal ends at once
    #[arg(long, value_name = "D", default_value = "10s", value_parser = values::duration)]
    pub(crate) drain: Duration,

    /// Access log on standard output; only `off` is built yet
    #[arg(long, value_name = "FORMAT", default_value = "off", value_parser = values::log)]
    pub(crate) log: String,
}

/// Connections that are not opened here.
#[derive(Clone, Debug, Args)]
pub(crate) struct PassthroughArgs {
    /// Where connections for a name go, exact or `*.name`: pass:ADDR[,ADDR...],
    /// reencrypt:ADDR[,ADDR...], terminate or reject (repeatable); what matches no route goes to --backend, or is refused if there is none
    #[arg(long = "route", value_name = "HOST=ACTION", value_parser = crate::routes::parse)]
    pub(crate) routes: Vec<RouteArg>,

    /// Report routes whose certificates make browsers use a connection for another route's name,
    /// and exit
    #[arg(long)]
    pub(crate) lint_routes: bool,

    /// New connections per second and source (IPv4 address or IPv6 /64), and how many at once
    #[arg(long, value_name = "RATE,BURST", value_parser = values::limit)]
    pub(crate) limit_source: Option<SourceLimitLayer>,

    /// Require a PROXY header, v1 or v2, from these sources (repeatable)
    #[arg(long, value_name = "CIDR", value_parser = values::network)]
    pub(crate) accept_proxy: Vec<IpNet>,

    /// Send a PROXY header to backends: v1 or v2
    #[arg(long, value_name = "VERSION", value_parser = values::proxy_version)]
    pub(crate) send_proxy: Option<SendProxy>,

    /// Longest time without a byte in either direction of a connection that is passed on
    #[arg(long, value_name = "D", default_value = "1h", value_parser = values::duration)]
    pub(crate) timeout_tunnel: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Terminate,
    Reencrypt,
    Passthrough,
}

#[derive(Clone, Debug)]
pub(crate) struct BackendArg {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) server_name: Option<String>,
    pub(crate) weight: u16,
    pub(crate) backup: bool,
    pub(crate) limits: Limits,
}

/// Where a backend is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Fixed(String),
    /// Wherever DNS says at the time.
    Followed {
        name: String,
        port: u16,
    },
}

impl BackendArg {
    /// Adds it, unless DNS will; `name` is what it has to prove if it has no name of its own for
    /// that.
    pub(crate) fn add_to(&self, cluster: ClusterBuilder, name: Option<&str>) -> ClusterBuilder {
        let Place::Fixed(place) = &self.place else { return cluster };
        let Ok(address) = place.parse() else { return cluster.backend(&self.name, place) };
        let backend = Backend::new(self.name.as_str(), address)
            .with_weight(self.weight)
            .with_role(self.role())
            .with_limits(self.limits);
        cluster.add(match self.server_name.as_deref().or(name) {
            Some(server_name) => backend.with_server_name(server_name),
            None => backend,
        })
    }

    /// The name and the port that DNS is asked for, if it is.
    pub(crate) fn followed(&self) -> Option<(&str, u16)> {
        match &self.place {
            Place::Followed { name, port } => Some((name, *port)),
            Place::Fixed(_) => None,
        }
    }

    pub(crate) fn role(&self) -> Role {
        if self.backup { Role::Backup } else { Role::Active }
    }
}

impl Cli {
    /// Reads the command line. What is wrong with it is said on one line, with status 2.
    pub(crate) fn read() -> Result<Self, String> {
        // Paths need not be text.
        let given: Vec<String> =
            std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let flags = given.iter().filter_map(|arg| Some(arg.split('=').next()?.to_owned()));
        if let Some(flag) = flags.into_iter().find(|flag| UNBUILT.contains(&flag.as_str())) {
            return Err(format!("{flag} is not built yet in this version"));
        }
        let cli = Self::try_parse().map_err(|error| {
            if !error.use_stderr() {
                error.exit(); // --help
            }
            let text = error.to_string();
            let what = text.split("\n\nUsage").next().unwrap_or(&text);
            let what = what.split("\n\nFor more information").next().unwrap_or(what);
            let line = what.split_whitespace().collect::<Vec<_>>().join(" ");
            line.trim_start_matches("error: ").to_owned()
        })?;
        effects::check(&cli)?;
        Ok(cli)
    }

    /// Whether TLS ends here for anything.
    pub(crate) fn terminates(&self) -> bool {
        self.ends_in_the_clear() || self.reencrypts()
    }

    /// Whether anything goes from here to backends in the clear.
    pub(crate) fn ends_in_the_clear(&self) -> bool {
        self.does(Mode::Terminate, |action| *action == Action::Terminate)
    }

    /// Whether TLS starts again here for anything.
    pub(crate) fn reencrypts(&self) -> bool {
        self.does(Mode::Reencrypt, |action| matches!(action, Action::Reencrypt(_)))
    }

    /// Whether anything passes on to backends as it comes.
    pub(crate) fn passes(&self) -> bool {
        self.does(Mode::Passthrough, |action| matches!(action, Action::Pass(_)))
    }

    fn does(&self, mode: Mode, is: impl Fn(&Action) -> bool) -> bool {
        let by_default = self.mode == mode && !self.backend.is_empty();
        by_default || self.passthrough.routes.iter().any(|route| is(&route.action))
    }
}
