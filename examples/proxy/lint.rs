//! `--lint-routes`: which routes browsers would mix up.

use std::error::Error;
use std::io::{self, Write};
use std::time::Duration;

use bartizan::net::Address;
use bartizan::prelude::*;
use bartizan::tls::{CertificateCheckLayer, CheckedCertificate, LintedRoute, lint_routes};
use tokio::runtime::Builder;
use tokio::time::timeout;
use tower::{Layer, ServiceExt};

use crate::certs;
use crate::checks::{announced, sample_name};
use crate::cli::Cli;
use crate::routes::{Action, RouteArg};

/// Looks at the certificates behind the routes and prints what is found. Returns the exit status:
/// 0 if that is nothing, 1 if it is something, 2 if a certificate could not be looked at.
pub(crate) fn run(cli: &Cli) -> Result<i32, Box<dyn Error>> {
    let certs = if cli.terminates() { Some(certs::store(cli)?) } else { None };
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let mut status = 0;
    let mut linted = Vec::new();
    for route in &cli.passthrough.routes {
        match runtime.block_on(look(cli, certs.as_ref(), route)) {
            Ok(route) => linted.push(route),
            Err(error) => {
                eprintln!("proxy: the certificate for {} cannot be looked at: {error}", route.host);
                status = 2;
            }
        }
    }
    for finding in lint_routes(&linted) {
        // Whoever reads it may have read enough and closed the pipe.
        let _ = writeln!(io::stdout(), "{finding}");
        status = status.max(1);
    }
    Ok(status)
}

async fn look(
    cli: &Cli,
    certs: Option<&CertStore>,
    route: &RouteArg,
) -> Result<LintedRoute, Box<dyn Error>> {
    let host = route.host.to_string();
    match &route.action {
        Action::Reject => Ok(LintedRoute::new(&host, "reject")?),
        Action::Terminate => served(cli, certs, route, "terminate".to_owned()),
        Action::Reencrypt(backends) => {
            served(cli, certs, route, format!("reencrypt:{}", list(backends)))
        }
        Action::Pass(backends) => {
            let seen = first_seen(cli, route, backends).await?;
            let linted = LintedRoute::new(&host, format!("pass:{}", list(backends)))?;
            Ok(linted.certificate(&seen.names, seen.is_h2()))
        }
    }
}

/// A route for which TLS ends here.
fn served(
    cli: &Cli,
    certs: Option<&CertStore>,
    route: &RouteArg,
    action: String,
) -> Result<LintedRoute, Box<dyn Error>> {
    let h2 = cli.alpn.iter().any(|protocol| protocol == "h2");
    let served = certs.and_then(|certs| certs.lookup(&sample_name(&route.host)));
    let names = served.map(|served| served.names).unwrap_or_default();
    Ok(LintedRoute::new(&route.host.to_string(), action)?.certificate(names, h2))
}

fn list(backends: &[Address]) -> String {
    backends.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The certificate of the first backend that presents one.
async fn first_seen(
    cli: &Cli,
    route: &RouteArg,
    backends: &[Address],
) -> Result<CheckedCertificate, Box<dyn Error>> {
    let dial = TcpDial::new().connect_timeout(cli.timeout_connect);
    // Only looked at: whether it is good is for `--check tls` to find out.
    let check = CertificateCheckLayer::dangerous_accepting_any()
        .name(sample_name(&route.host))
        .warn_days(0)
        .layer(announced(cli).layer(dial));
    let mut last: Box<dyn Error> = "there is no backend".into();
    for backend in backends {
        let limit: Duration = cli.timeout_handshake;
        match timeout(limit, check.clone().oneshot(backend.clone())).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(error)) => last = error.into(),
            Err(_) => last = format!("{backend} was silent for {limit:?}").into(),
        }
    }
    Err(last)
}
