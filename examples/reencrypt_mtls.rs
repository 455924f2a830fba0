//! TLS ends here and starts again towards the servers, which ask for a certificate (mTLS).
//!
//! ```text
//! cargo run --example reencrypt_mtls -- 127.0.0.1:8443 site.pem backends-ca.pem web.internal proxy.pem 192.168.1.10:443 192.168.1.11:443
//! ```
//!
//! Each server has to prove the name with a certificate of that authority, and is shown `proxy.pem`.
//! All files may change at any time: connections that were made with what they held before take no
//! new requests. A server that is not who it has to be is found out by its first check.

use bartizan::balance::DialProbe;
use bartizan::http::BackendProtocol;
use bartizan::prelude::*;
use bartizan::tls::{ClientCredentials, ServerTrust, TlsOriginateLayer};
use tokio::net::TcpListener;
use tower::{Layer, ServiceBuilder};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let mut arg = || {
        args.next()
            .ok_or("usage: reencrypt_mtls LISTEN SITE.pem CA.pem NAME CLIENT.pem HOST:PORT...")
    };
    let (listen, site, ca, name, own) = (arg()?, arg()?, arg()?, arg()?, arg()?);

    let web =
        args.fold(Cluster::builder("web_servers"), |web, at| web.backend(&at, &at)).build()?;
    let originate = TlsOriginateLayer::new(ServerTrust::builder().roots(ca.as_str()).watch()?)
        .server_name(name)
        .client_credentials(ClientCredentials::watch_pem_file(own)?)
        .alpn(["h2", "http/1.1"]);
    // In a resumed session a server shows no certificate, so a check begins a new one.
    let probe = DialProbe::new(originate.clone().resume(false).layer(TcpDial::new()));
    let _checks = web.check(Checks::new(probe));

    let requests = ServiceBuilder::new()
        .layer(ForwardedLayer::new())
        .layer(BalanceLayer::new(web, RoundRobin::new()))
        .layer(HttpPoolLayer::new().protocol(BackendProtocol::Auto))
        .layer(originate)
        .service(TcpDial::new());
    let connections =
        TlsTerminateLayer::new(CertStore::watch(site)?).layer(ServeHttp::new(requests));
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    serve(listener, connections).await?;
    Ok(())
}
