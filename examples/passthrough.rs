//! TLS passes through to servers that share a certificate: the balancer holds no key.
//!
//! ```text
//! cargo run --example passthrough -- 127.0.0.1:8443 ca.pem example.com 192.168.1.10:443 192.168.1.11:443
//! ```
//!
//! Although it cannot read what passes, it makes sure that each server presents a certificate from
//! this authority, for this name, that has not expired, and the same one everywhere. A server that
//! does not gets no connection.

use bartizan::balance::{DialProbe, InitState};
use bartizan::net::TunnelLayer;
use bartizan::prelude::*;
use bartizan::tls::{CertificateCheckLayer, SameCertificate, ServerRoots};
use tokio::net::TcpListener;
use tower::{Layer, ServiceBuilder};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1);
    let mut arg = || args.next().ok_or("usage: passthrough LISTEN CA.pem NAME HOST:PORT...");
    let (listen, ca, name) = (arg()?, arg()?, arg()?);

    let web =
        args.fold(Cluster::builder("web_servers"), |web, at| web.backend(&at, &at)).build()?;
    let certificate = CertificateCheckLayer::new(ServerRoots::from_pem_file(ca)?)
        .name(name)
        .same_certificate(SameCertificate::enforce());
    let probe = DialProbe::new(certificate.layer(TcpDial::new()));
    let _checks = web.check(Checks::new(probe).init_state(InitState::Down));

    let connections = ServiceBuilder::new()
        .layer(BalanceLayer::new(web, RoundRobin::new()))
        .layer(TunnelLayer::new())
        .service(TcpDial::new());
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    serve(listener, connections).await?;
    Ok(())
}
