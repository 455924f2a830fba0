//! The way to backends, and TLS on it.

use std::path::PathBuf;

use bartizan::http::BackendProtocol;
use bartizan::net::{Address, Target};
use bartizan::tls::Pin;
use clap::Args;

use super::{Cli, values};
use crate::routes::Action;

/// How backends are spoken to, and who they have to prove to be.
#[derive(Clone, Debug, Args)]
pub(crate) struct UpstreamArgs {
    /// Protocol towards backends: h1, h2, or auto: what backends choose over TLS
    #[arg(long = "backend-proto", value_name = "PROTO", default_value = "h1", value_parser = values::backend_proto)]
    pub(crate) proto: BackendProto,

    /// Authorities of the backends' certificates: a PEM file, or `system`
    #[arg(long = "backend-ca", value_name = "FILE|system", value_parser = values::backend_ca)]
    pub(crate) ca: Option<BackendCa>,

    /// The name that the backends' certificates have to be for, also sent as SNI
    #[arg(long = "backend-name", value_name = "NAME", value_parser = values::server_name)]
    pub(crate) name: Option<String>,

    /// Certificate for backends that ask for one, PEM; its key may be in the same file
    #[arg(long = "backend-cert", value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,

    /// Key of that certificate, PEM
    #[arg(long = "backend-key", value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,

    /// Accept only backends with one of these keys, SHA-256 of the SubjectPublicKeyInfo
    /// (repeatable)
    #[arg(long = "backend-pin", value_name = "sha256:BASE64", value_parser = values::pin)]
    pub(crate) pins: Vec<Pin>,

    /// Accept any backend certificate, whoever it is from; with --backend-pin, one with such a key
    #[arg(long = "dangerous-no-verify")]
    pub(crate) no_verify: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendProto {
    H1,
    H2,
    Auto,
}

impl From<BackendProto> for BackendProtocol {
    fn from(proto: BackendProto) -> Self {
        match proto {
            BackendProto::H1 => Self::Http1,
            BackendProto::H2 => Self::Http2,
            BackendProto::Auto => Self::Auto,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum BackendCa {
    System,
    File(PathBuf),
}

impl UpstreamArgs {
    /// Finds flags that contradict each other, that others need, or that would have no effect.
    pub(super) fn check(&self, cli: &Cli) -> Result<(), String> {
        if cli.reencrypts() {
            return self.check_needs(cli);
        }
        let useless = [
            ("--backend-cert", self.cert.is_some()),
            ("--backend-key", self.key.is_some()),
            ("--backend-pin", !self.pins.is_empty()),
            ("--dangerous-no-verify", self.no_verify),
        ];
        if let Some((flag, _)) = useless.iter().find(|(_, given)| *given) {
            return Err(format!("{flag} has no effect: TLS to backends starts nowhere here"));
        }
        Ok(())
    }

    fn check_needs(&self, cli: &Cli) -> Result<(), String> {
        if self.no_verify && self.ca.is_some() {
            return Err("--dangerous-no-verify and --backend-ca contradict each other".to_owned());
        }
        if !self.no_verify && self.ca.is_none() {
            return Err(
                "--backend-ca is needed where TLS to backends starts, to say whose certificates \
                 are good"
                    .to_owned(),
            );
        }
        if self.key.is_some() && self.cert.is_none() {
            return Err("--backend-key needs --backend-cert, which it belongs to".to_owned());
        }
        if self.name.is_some() || self.no_verify {
            return Ok(());
        }
        match nameless(cli) {
            Some(backend) => Err(format!(
                "--backend-name is needed, or `sni=NAME` on each backend, to say what name the \
                 certificate of {backend} has to be for"
            )),
            None => Ok(()),
        }
    }
}

/// A backend of which it is not known what name it has to prove.
fn nameless(cli: &Cli) -> Option<String> {
    let is_nameless = |address: &&Address| address.server_name().is_none();
    let own = cli.backend.iter().filter(|_| cli.mode == super::Mode::Reencrypt);
    // An address that is none is refused with the cluster.
    let mut own = own.filter(|backend| backend.server_name.is_none()).filter_map(|backend| {
        // Those that DNS is asked for have to prove the name that it was asked for.
        let super::Place::Fixed(place) = &backend.place else { return None };
        let address: Address = place.parse().ok()?;
        is_nameless(&&address).then(|| backend.name.clone())
    });
    let routed = cli.passthrough.routes.iter().filter_map(|route| match &route.action {
        Action::Reencrypt(backends) => Some(backends),
        _ => None,
    });
    own.next().or_else(|| routed.flatten().find(is_nameless).map(ToString::to_string))
}
