//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bartizan::net::{SendProxy, SourceLimitLayer};
use clap::{Args, Parser, ValueEnum};
use http::HeaderName;
use ipnet::IpNet;

use crate::routes::{Action, RouteArg};
use values::UNBUILT;

mod values;

/// A TLS-terminating load balancer, made of bartizan's public parts.
#[derive(Clone, Debug, Parser)]
#[command(name = "proxy", about, disable_version_flag = true)]
pub(crate) struct Cli {
    /// Where clients connect (repeatable)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub(crate) listen: Vec<SocketAddr>,

    /// What happens to TLS where no route says otherwise: terminate or passthrough (`reencrypt` is
    /// not built yet)
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

    /// A server to balance over (repeatable)
    #[arg(long, value_name = "[NAME=]HOST:PORT", value_parser = values::backend)]
    pub(crate) backend: Vec<BackendArg>,

    /// Protocol towards backends; only `h1` is built yet
    #[arg(long, value_name = "PROTO", default_value = "h1", value_parser = values::backend_proto)]
    pub(crate) backend_proto: String,

    /// How to choose a backend; only `roundrobin` is built yet
    #[arg(long, value_name = "NAME", default_value = "roundrobin", value_parser = values::balance)]
    pub(crate) balance: String,

    /// Active check of backends: none, tcp, or for those that TLS passes on to, tls: their
    /// certificates are verified
    #[arg(long, value_name = "KIND", default_value = "none", value_parser = values::check)]
    pub(crate) check: Check,

    /// Time between two checks of a backend
    #[arg(long, value_name = "D", default_value = "2s", value_parser = values::duration)]
    pub(crate) check_interval: Duration,

    /// Time for one check
    #[arg(long, value_name = "D", default_value = "1s", value_parser = values::duration)]
    pub(crate) check_timeout: Duration,

    /// Passed checks in a row that bring a backend back
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rise: u32,

    /// Failed checks in a row that take a backend out
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) fall: u32,

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
    /// Where connections for a name go, exact or `*.name`: pass:ADDR[,ADDR...], terminate or reject
    /// (repeatable); what matches no route goes to --backend, or is refused if there is none
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

    /// Authorities of the backends' certificates for --check tls: a PEM file, or `system`
    #[arg(long, value_name = "FILE|system", value_parser = values::backend_ca)]
    pub(crate) backend_ca: Option<BackendCa>,

    /// The name that the backends' certificates are checked for, instead of the route's
    #[arg(long, value_name = "NAME")]
    pub(crate) backend_name: Option<String>,

    /// Longest time without a byte in either direction of a connection that is passed on
    #[arg(long, value_name = "D", default_value = "1h", value_parser = values::duration)]
    pub(crate) timeout_tunnel: Duration,
}

#[derive(Clone, Debug)]
pub(crate) enum BackendCa {
    System,
    File(PathBuf),
}

/// What clients have to show.
#[derive(Clone, Debug, Args)]
pub(crate) struct ClientAuthArgs {
    /// Authorities of client certificates, PEM
    #[arg(id = "client_ca", long = "client-ca", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Whether clients are asked for certificates: off, optional, required
    #[arg(id = "client_auth", long = "client-auth", value_name = "MODE", default_value = "off")]
    pub(crate) mode: AuthMode,

    /// Require certificates for these server names only
    #[arg(
        id = "client_auth_names",
        long = "client-auth-names",
        value_name = "A,B",
        value_delimiter = ','
    )]
    pub(crate) names: Vec<String>,

    /// Revocation list for client certificates, PEM or DER (repeatable)
    #[arg(id = "client_crl", long = "client-crl", value_name = "FILE")]
    pub(crate) crl: Vec<PathBuf>,

    /// Pass the verified client's common name in this header, and remove what a client sends there
    #[arg(id = "client_cn_header", long = "client-cn-header", value_name = "NAME")]
    pub(crate) cn_header: Option<HeaderName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuthMode {
    Off,
    Optional,
    Required,
}

impl ClientAuthArgs {
    /// Finds flags that would have no effect without others.
    fn check(&self) -> Result<(), String> {
        let off = self.mode == AuthMode::Off;
        if off && (self.ca.is_some() || !self.crl.is_empty() || !self.names.is_empty()) {
            return Err(
                "--client-ca, --client-crl and --client-auth-names have no effect without \
                        --client-auth optional or required"
                    .to_owned(),
            );
        }
        if !off && self.ca.is_none() {
            return Err(
                "--client-auth needs --client-ca, to say whose certificates are good".to_owned()
            );
        }
        if !self.names.is_empty() && self.mode != AuthMode::Required {
            return Err(
                "--client-auth-names limits --client-auth required, and needs it".to_owned()
            );
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Terminate,
    Passthrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    None,
    Tcp,
    Tls,
}

#[derive(Clone, Debug)]
pub(crate) struct BackendArg {
    pub(crate) name: String,
    pub(crate) address: String,
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
        cli.client_auth.check()?;
        cli.check_parts()?;
        Ok(cli)
    }

    /// Whether anything ends TLS here.
    pub(crate) fn terminates(&self) -> bool {
        let by_default = self.mode == Mode::Terminate && !self.backend.is_empty();
        by_default || self.passthrough.routes.iter().any(|route| route.action == Action::Terminate)
    }

    /// Whether anything passes on to backends as it comes.
    pub(crate) fn passes(&self) -> bool {
        let by_default = self.mode == Mode::Passthrough && !self.backend.is_empty();
        let passes = |route: &RouteArg| matches!(route.action, Action::Pass(_));
        by_default || self.passthrough.routes.iter().any(passes)
    }

    /// Finds flags that would have no effect. One that asks clients for certificates must not be
    /// believed to protect what it does not.
    fn check_effects(&self) -> Result<(), String> {
        let Self { passthrough, client_auth, .. } = self;
        if !self.terminates() && (client_auth.mode != AuthMode::Off || self.strict_sni) {
            let flag = if self.strict_sni { "--strict-sni" } else { "--client-auth" };
            return Err(format!("{flag} has no effect: TLS ends nowhere here"));
        }
        if passthrough.send_proxy.is_some() && !self.terminates() && !self.passes() {
            return Err("--send-proxy has no effect: nothing goes to a backend here".to_owned());
        }
        if passthrough.lint_routes && passthrough.routes.is_empty() {
            return Err("--lint-routes needs --route, to say what to look at".to_owned());
        }
        Ok(())
    }

    /// Finds flags without what they need, and flags that would have no effect.
    fn check_parts(&self) -> Result<(), String> {
        let Self { passthrough, certs, backend, check, .. } = self;
        if backend.is_empty() && passthrough.routes.is_empty() {
            let certs = if certs.is_empty() { "--certs and " } else { "" };
            let certs = if self.mode == Mode::Terminate { certs } else { "" };
            return Err(format!("{certs}--backend are needed, or --route, to say where to go"));
        }
        if self.terminates() && certs.is_empty() {
            return Err("--certs is needed where TLS ends here".to_owned());
        }
        if self.terminates() && backend.is_empty() {
            return Err("--backend is needed where TLS ends here".to_owned());
        }
        self.check_effects()?;
        if *check != Check::Tls
            && (passthrough.backend_ca.is_some() || passthrough.backend_name.is_some())
        {
            return Err(
                "--backend-ca and --backend-name have no effect without --check tls".to_owned()
            );
        }
        if *check == Check::Tls && !self.passes() {
            let plain = "--check tls of backends that plain HTTP goes to is not built yet";
            let none = "--check tls has no effect: nothing goes to a backend here";
            return Err(if self.terminates() { plain } else { none }.to_owned());
        }
        if *check == Check::Tls && passthrough.backend_ca.is_none() {
            return Err(
                "--check tls needs --backend-ca, to say whose certificates are good".to_owned()
            );
        }
        Ok(())
    }
}
