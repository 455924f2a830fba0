//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use http::HeaderName;

/// A TLS-terminating load balancer, made of bartizan's public parts.
#[derive(Debug, Parser)]
#[command(name = "proxy", about, disable_version_flag = true)]
pub(crate) struct Cli {
    /// Where clients connect (repeatable)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    pub(crate) listen: Vec<SocketAddr>,

    /// What happens to TLS; only `terminate` is built yet
    #[arg(long, default_value = "terminate", value_parser = mode)]
    pub(crate) mode: String,

    /// PEM bundle (its key may lie beside it as X.key or X.pem.key) or directory of such
    /// (repeatable); the first certificate is the default
    #[arg(long, value_name = "PATH", required = true)]
    pub(crate) certs: Vec<PathBuf>,

    /// Refuse unknown or missing server names with the alert unrecognized_name
    #[arg(long)]
    pub(crate) strict_sni: bool,

    #[command(flatten)]
    pub(crate) client_auth: ClientAuthArgs,

    /// Derive ticket keys from the secret in this file, at least 32 bytes, instead of at random
    #[arg(long, value_name = "FILE")]
    pub(crate) ticket_secret: Option<PathBuf>,

    /// OCSP responses to staple: off, or file for X.pem.ocsp beside X.pem
    #[arg(long, value_name = "KIND", default_value = "file", value_parser = ocsp)]
    pub(crate) ocsp: String,

    /// Application protocols to agree on, the preferred one first
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "h2,http/1.1", value_parser = protocol)]
    pub(crate) alpn: Vec<String>,

    /// A server to balance over (repeatable)
    #[arg(long, value_name = "[NAME=]HOST:PORT", required = true, value_parser = backend)]
    pub(crate) backend: Vec<BackendArg>,

    /// Protocol towards backends; only `h1` is built yet
    #[arg(long, value_name = "PROTO", default_value = "h1", value_parser = backend_proto)]
    pub(crate) backend_proto: String,

    /// How to choose a backend; only `roundrobin` is built yet
    #[arg(long, value_name = "NAME", default_value = "roundrobin", value_parser = balance)]
    pub(crate) balance: String,

    /// Active check of backends: none or tcp
    #[arg(long, value_name = "KIND", default_value = "none", value_parser = check)]
    pub(crate) check: Check,

    /// Time between two checks of a backend
    #[arg(long, value_name = "D", default_value = "2s", value_parser = duration)]
    pub(crate) check_interval: Duration,

    /// Time for one check
    #[arg(long, value_name = "D", default_value = "1s", value_parser = duration)]
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
    #[arg(long, value_name = "D", default_value = "10s", value_parser = duration)]
    pub(crate) timeout_handshake: Duration,

    /// Time for a whole request head
    #[arg(long, value_name = "D", default_value = "10s", value_parser = duration)]
    pub(crate) timeout_header: Duration,

    /// Time to connect to a backend
    #[arg(long, value_name = "D", default_value = "5s", value_parser = duration)]
    pub(crate) timeout_connect: Duration,

    /// Longest silence of a client that is awaited
    #[arg(long, value_name = "D", default_value = "60s", value_parser = duration)]
    pub(crate) timeout_client: Duration,

    /// Longest silence of a backend that is awaited
    #[arg(long, value_name = "D", default_value = "60s", value_parser = duration)]
    pub(crate) timeout_server: Duration,

    /// Time without a request
    #[arg(long, value_name = "D", default_value = "60s", value_parser = duration)]
    pub(crate) timeout_keepalive: Duration,

    /// Open client connections; further ones wait in the kernel's queue [default: half of the
    /// descriptors that the process may have]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) max_conns: Option<usize>,

    /// Current-thread runtimes, each with its own listener; 0: one per core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) workers: usize,

    /// Grace after SIGTERM or SIGINT; a second signal ends at once
    #[arg(long, value_name = "D", default_value = "10s", value_parser = duration)]
    pub(crate) drain: Duration,

    /// Access log on standard output; only `off` is built yet
    #[arg(long, value_name = "FORMAT", default_value = "off", value_parser = log)]
    pub(crate) log: String,
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
pub(crate) enum Check {
    None,
    Tcp,
}

#[derive(Clone, Debug)]
pub(crate) struct BackendArg {
    pub(crate) name: String,
    pub(crate) address: String,
}

impl Cli {
    /// Reads the command line. What is wrong with it is said on one line, with status 2.
    pub(crate) fn read() -> Result<Self, String> {
        let given: Vec<String> = std::env::args().collect();
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
        Ok(cli)
    }
}

fn backend(text: &str) -> Result<BackendArg, String> {
    let mut parts = text.split(',');
    let server = parts.next().unwrap_or_default();
    if let Some(option) = parts.next() {
        return Err(unbuilt(&format!("the option `{option}` of a backend")));
    }
    let (name, address) = server.split_once('=').unwrap_or((server, server));
    if address.starts_with("dns:") {
        return Err(unbuilt("a backend that follows DNS"));
    }
    if name.is_empty() {
        return Err("the name before `=` is empty".to_owned());
    }
    Ok(BackendArg { name: name.to_owned(), address: address.to_owned() })
}

fn duration(text: &str) -> Result<Duration, String> {
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

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "not a number from 1 up".to_owned())
}

fn protocol(text: &str) -> Result<String, String> {
    match text {
        "h2" | "http/1.1" => Ok(text.to_owned()),
        _ => Err("known protocols are h2 and http/1.1".to_owned()),
    }
}

fn check(text: &str) -> Result<Check, String> {
    match text {
        "none" => Ok(Check::None),
        "tcp" => Ok(Check::Tcp),
        other => {
            one_of(&["tls", "http", "grpc", "agent"], other.split(':').next().unwrap_or(other))
        }
    }
}

fn mode(text: &str) -> Result<String, String> {
    if text == "terminate" { Ok(text.into()) } else { one_of(&["reencrypt", "passthrough"], text) }
}

fn backend_proto(text: &str) -> Result<String, String> {
    if text == "h1" { Ok(text.into()) } else { one_of(&["h2", "auto"], text) }
}

fn balance(text: &str) -> Result<String, String> {
    let name = text.split(',').next().unwrap_or(text);
    if text == "roundrobin" {
        return Ok(text.into());
    }
    one_of(&["leastconn", "random", "p2c", "first", "ewma", "ring", "maglev", "rendezvous"], name)
}

fn ocsp(text: &str) -> Result<String, String> {
    if matches!(text, "off" | "file") { Ok(text.into()) } else { one_of(&["auto"], text) }
}

fn log(text: &str) -> Result<String, String> {
    if text == "off" { Ok(text.into()) } else { one_of(&["text", "json"], text) }
}

fn one_of<T>(planned: &[&str], text: &str) -> Result<T, String> {
    if planned.contains(&text) { Err(unbuilt(text)) } else { Err(format!("`{text}` is not known")) }
}

fn unbuilt(what: &str) -> String {
    format!("{what} is not built yet in this version")
}

/// Flags of the contract whose parts do not exist yet.
const UNBUILT: [&str; 31] = [
    "--route",
    "--lint-routes",
    "--limit-source",
    "--accept-proxy",
    "--send-proxy",
    "--backend-ca",
    "--backend-name",
    "--backend-cert",
    "--backend-key",
    "--backend-pin",
    "--dangerous-no-verify",
    "--hash-key",
    "--sticky",
    "--slowstart",
    "--queue",
    "--observe",
    "--outlier",
    "--on-marked-down",
    "--retry-on",
    "--max-age",
    "--timeout-tunnel",
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
