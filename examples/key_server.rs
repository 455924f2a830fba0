//! The private key lives in one process, the TLS of clients ends in another: whoever breaks into the
//! latter does not get the key.
//!
//! ```text
//! cargo run --example key_server -- serve /run/keys/sock site.key
//! cargo run --example key_server -- front /run/keys/sock 127.0.0.1:8443 site.crt 127.0.0.1:8080
//! ```
//!
//! Both ends of the socket compare who is at the other: here the same user. That also holds for the
//! moment between `bind` and the change of the socket's permissions, in which others may connect;
//! they are turned away.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;

use bartizan::prelude::*;
use bartizan::tls::{Identity, KeyServer, UnixSigner};
use tokio::net::{TcpListener, UnixListener};
use tower::{Layer, ServiceBuilder};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", socket, ref keys @ ..] => sign(socket, keys).await,
        ["front", socket, listen, chain, backend] => front(socket, listen, chain, backend).await,
        _ => Err("usage: key_server serve SOCKET KEY.pem...\n       \
                  key_server front SOCKET LISTEN CHAIN.pem BACKEND"
            .into()),
    }
}

/// Has the keys, and signs.
async fn sign(socket: &str, keys: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    let server = keys.iter().try_fold(KeyServer::new(), |server, key| server.pem_file(key))?;
    // Left behind by one that did not end in good order.
    if let Err(error) = fs::remove_file(socket)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error.into());
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    println!("serving on {socket}");
    server.serve(listener, async { drop(tokio::signal::ctrl_c().await) }).await?;
    Ok(())
}

/// Faces the clients, and asks for signatures.
async fn front(
    socket: &str,
    listen: &str,
    chain: &str,
    backend: &str,
) -> Result<(), Box<dyn std::error::Error>> {
    let identity = Identity::with_signer_from_file(chain, UnixSigner::new(socket))?;
    let web = Cluster::builder("web").backend("web", backend).build()?;
    let requests = ServiceBuilder::new()
        .layer(ForwardedLayer::new())
        .layer(BalanceLayer::new(web, RoundRobin::new()))
        .layer(HttpPoolLayer::new())
        .service(TcpDial::new());
    let connections = TlsTerminateLayer::new(identity).layer(ServeHttp::new(requests));
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    serve(listener, connections).await?;
    Ok(())
}
