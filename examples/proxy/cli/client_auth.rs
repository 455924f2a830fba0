//! What clients have to show.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use http::HeaderName;

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
    pub(super) fn check(&self) -> Result<(), String> {
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
