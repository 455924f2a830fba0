//! Which flags go together.

use bartizan::balance::Limits;

use super::{AuthMode, BackendArg, BalancingArgs, Check, Cli, Mode, StickyBy};

/// Finds flags that contradict each other, that others need, or that would have no effect.
pub(super) fn check(cli: &Cli) -> Result<(), String> {
    cli.client_auth.check()?;
    check_parts(cli)?;
    check_balancing(cli)?;
    cli.upstream.check(cli)
}

/// Finds flags that would have no effect. One that asks clients for certificates must not be
/// believed to protect what it does not.
fn check_effects(cli: &Cli) -> Result<(), String> {
    let Cli { passthrough, client_auth, .. } = cli;
    if !cli.terminates() && (client_auth.mode != AuthMode::Off || cli.strict_sni) {
        let flag = if cli.strict_sni { "--strict-sni" } else { "--client-auth" };
        return Err(format!("{flag} has no effect: TLS ends nowhere here"));
    }
    if passthrough.send_proxy.is_some() && !cli.terminates() && !cli.passes() {
        return Err("--send-proxy has no effect: nothing goes to a backend here".to_owned());
    }
    if passthrough.lint_routes && passthrough.routes.is_empty() {
        return Err("--lint-routes needs --route, to say what to look at".to_owned());
    }
    Ok(())
}

/// Finds flags without what they need, and flags that would have no effect.
fn check_parts(cli: &Cli) -> Result<(), String> {
    let Cli { passthrough, certs, backend, .. } = cli;
    if backend.is_empty() && passthrough.routes.is_empty() {
        let certs = if certs.is_empty() { "--certs and " } else { "" };
        let certs = if cli.mode != Mode::Passthrough { certs } else { "" };
        return Err(format!("{certs}--backend are needed, or --route, to say where to go"));
    }
    if cli.terminates() && certs.is_empty() {
        return Err("--certs is needed where TLS ends here".to_owned());
    }
    if cli.ends_in_the_clear() && backend.is_empty() {
        return Err("--backend is needed where TLS ends here".to_owned());
    }
    check_effects(cli)?;
    check_checks(cli)
}

/// Finds what checks of backends need, and what without them has no effect.
fn check_checks(cli: &Cli) -> Result<(), String> {
    cli.health.check()?;
    let upstream = &cli.upstream;
    let named = upstream.ca.is_some() || upstream.name.is_some();
    if let Some(check) = cli.health.checks().find(|check| check.is_over_tls())
        && cli.passes()
        && upstream.ca.is_none()
    {
        let kind = check.kind();
        return Err(format!(
            "--check {kind} needs --backend-ca, to say whose certificates are good"
        ));
    }
    let tls = cli.health.checks().any(|check| *check == Check::Tls);
    let proves = tls || cli.passes() && cli.health.checks().any(Check::is_over_tls);
    if cli.reencrypts() {
        return Ok(());
    }
    if !proves && named {
        return Err("--backend-ca and --backend-name have no effect without --mode reencrypt, a \
                    route that does, or --check tls"
            .to_owned());
    }
    if tls && !cli.passes() {
        let plain = "--check tls has no effect: backends are spoken to in the clear here";
        let none = "--check tls has no effect: nothing goes to a backend here";
        return Err(if cli.terminates() { plain } else { none }.to_owned());
    }
    Ok(())
}

/// Finds what the way of balancing needs, and what without it has no effect.
fn check_balancing(cli: &Cli) -> Result<(), String> {
    let BalancingArgs { balance, hash_key, sticky, slowstart, queue } = &cli.balancing;
    let opens = !cli.passes() && cli.terminates();
    if let Some(key) = hash_key {
        if !balance.policy.hashes() {
            return Err("--hash-key has no effect: only ring, maglev and rendezvous hash".into());
        }
        if key.is_of_requests() && !opens {
            return Err(
                "--hash-key: where TLS passes there are no requests to read; take source or \
                        sni"
                .into(),
            );
        }
    }
    let by_cookie = sticky.as_ref().is_some_and(|arg| matches!(arg.by, StickyBy::Cookie(_)));
    if by_cookie && !opens {
        return Err(
            "--sticky cookie: where TLS passes there are no cookies to read; take source".into()
        );
    }
    if !slowstart.is_zero() && !cli.health.is_checked() && cli.health.outlier.is_none() {
        return Err("--slowstart needs --check or --outlier: nothing is known to recover without"
            .to_owned());
    }
    check_backends(cli)?;
    let limited = |backend: &BackendArg| backend.limits.is_limited();
    if queue.is_some() && !cli.backend.iter().any(limited) {
        return Err("--queue has no effect: no backend has a maxconn".to_owned());
    }
    Ok(())
}

/// Finds limits without what they need, and names that are followed twice.
fn check_backends(cli: &Cli) -> Result<(), String> {
    let limited = |backend: &BackendArg| backend.limits.is_limited();
    let needless = |backend: &&BackendArg| backend.limits != Limits::none() && !limited(backend);
    if let Some(backend) = cli.backend.iter().find(needless) {
        return Err(format!("minconn and maxqueue of {} need a maxconn", backend.name));
    }
    let mut followed = cli.backend.iter().filter_map(BackendArg::followed);
    let mut seen = std::collections::HashSet::new();
    match followed.find(|place| !seen.insert(*place)) {
        Some((name, port)) => Err(format!("dns:{name}:{port} is followed twice")),
        None => Ok(()),
    }
}
