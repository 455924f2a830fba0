//! The certificates that the proxy serves, and those that it asks for.

use bartizan::tls::{CertStore, ClientAuth, HostRules, StoreError, TicketSource, Withdrawal};

use crate::cli::{AuthMode, Cli, ClientAuthArgs};

/// Loads what the command line names, and goes on watching it.
pub(crate) fn store(cli: &Cli) -> Result<CertStore, StoreError> {
    let mut store = CertStore::builder()
        .strict_sni(cli.strict_sni)
        .alpn(&cli.alpn)
        .staple_files(cli.ocsp == "file")
        .withdrawal(Withdrawal::default().on_client_expiry(true));
    for path in &cli.certs {
        store = store.path(path);
    }
    if let Some(secret) = &cli.ticket_secret {
        store = store.tickets(TicketSource::SecretFile(secret.clone()));
    }
    if let Some(auth) = client_auth(&cli.client_auth) {
        let names = &cli.client_auth.names;
        store = if names.is_empty() {
            store.client_auth(auth)
        } else {
            store.host(names, HostRules::new().client_auth(auth))
        };
    }
    store.watch()
}

fn client_auth(args: &ClientAuthArgs) -> Option<ClientAuth> {
    let ca = args.ca.as_deref()?;
    let auth = match args.mode {
        AuthMode::Off => return None,
        AuthMode::Optional => ClientAuth::optional(ca),
        AuthMode::Required => ClientAuth::required(ca),
    };
    Some(args.crl.iter().fold(auth, |auth, crl| auth.crl(crl.as_path())))
}
