//! TLS towards backends, as the command line asks for it.

use bartizan::tls::{
    ClientCredentials, DangerousNoVerify, ServerTrust, ServerTrustBuilder, SourceError,
    TlsOriginateLayer,
};

use crate::cli::{BackendCa, BackendProto, Check, Cli, UpstreamArgs};

/// What it is made of, all of it watched.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) layer: TlsOriginateLayer,
    trust: ServerTrust,
    credentials: Option<ClientCredentials>,
}

impl Upstream {
    /// Loads what the command line names. None if TLS starts nowhere here.
    pub(crate) fn new(cli: &Cli) -> Result<Option<Self>, SourceError> {
        if !cli.reencrypts() {
            return Ok(None);
        }
        let args = &cli.upstream;
        let (trust, credentials) = (trust(args)?, credentials(args)?);
        let mut layer = TlsOriginateLayer::new(trust.clone())
            .alpn(protocols(args.proto))
            .handshake_timeout(cli.timeout_connect);
        if let Some(credentials) = &credentials {
            layer = layer.client_credentials(credentials.clone());
        }
        Ok(Some(Self { layer, trust, credentials }))
    }

    /// Whom backends have to prove to be.
    pub(crate) fn trust(&self) -> ServerTrust {
        self.trust.clone()
    }

    /// Reads all files again. What is wrong is logged, and the last good ones stay.
    pub(crate) fn reload(&self) {
        let _ = self.trust.reload();
        let _ = self.credentials.as_ref().map(ClientCredentials::reload);
    }
}

/// TLS for the checks of backends that TLS passes to: what clients would find there. None if no
/// check needs it.
pub(crate) fn for_checks(cli: &Cli) -> Result<Option<Upstream>, SourceError> {
    let mut checks = cli.health.checks();
    if !cli.passes() || !checks.any(Check::is_over_tls) {
        return Ok(None);
    }
    let trust = roots(&cli.upstream).watch()?;
    let layer = TlsOriginateLayer::new(trust.clone())
        .alpn(protocols(cli.upstream.proto))
        .handshake_timeout(cli.health.timeout);
    Ok(Some(Upstream { layer, trust, credentials: None }))
}

fn protocols(proto: BackendProto) -> &'static [&'static str] {
    match proto {
        BackendProto::H1 => &["http/1.1"],
        BackendProto::H2 => &["h2"],
        BackendProto::Auto => &["h2", "http/1.1"],
    }
}

fn roots(args: &UpstreamArgs) -> ServerTrustBuilder {
    match &args.ca {
        Some(BackendCa::File(path)) => ServerTrust::builder().roots(path.as_path()),
        Some(BackendCa::System) | None => ServerTrust::builder().system_roots(),
    }
}

fn trust(args: &UpstreamArgs) -> Result<ServerTrust, SourceError> {
    let pins = args.pins.iter().cloned();
    if args.no_verify {
        let decision = DangerousNoVerify::for_cluster("backends");
        return Ok(ServerTrust::dangerous(pins.fold(decision, DangerousNoVerify::pin)));
    }
    pins.fold(roots(args), ServerTrustBuilder::pin).watch()
}

fn credentials(args: &UpstreamArgs) -> Result<Option<ClientCredentials>, SourceError> {
    match (&args.cert, &args.key) {
        (None, _) => Ok(None),
        (Some(bundle), None) => ClientCredentials::watch_pem_file(bundle).map(Some),
        (Some(cert), Some(key)) => ClientCredentials::watch_pem_files(cert, key).map(Some),
    }
}
