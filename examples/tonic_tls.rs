//! A gRPC service behind mutual TLS that knows its clients: `tonic_tls LISTEN CERTS CLIENT_CA`.

use std::env;
use std::error::Error;

use bartizan::tls::{CertStore, ClientAuth, TlsConnInfo, TlsListener};
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Status};

/// Lets clients with a name pass, and tells who they are.
fn identify(request: Request<()>) -> Result<Request<()>, Status> {
    let conn = request.extensions().get::<TlsConnInfo>();
    let name = conn.and_then(|conn| conn.client()?.common_name.as_deref());
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Err(Status::permission_denied("the certificate names nobody"));
    };
    let sni = conn.and_then(TlsConnInfo::sni).unwrap_or("nobody");
    eprintln!("{name} asks {sni}");
    Ok(request)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, certs, client_ca] = &args[..] else {
        return Err("usage: tonic_tls LISTEN CERTS CLIENT_CA".into());
    };
    // tonic speaks HTTP/2 and nothing else.
    let certs = CertStore::builder()
        .path(certs)
        .client_auth(ClientAuth::required(client_ca.as_str()))
        .alpn(["h2"])
        .watch()?;
    let listener = TlsListener::new(TcpListener::bind(listen).await?, certs);
    println!("listening on {}", listener.local_addr()?);

    let (_reporter, health) = tonic_health::server::health_reporter();
    Server::builder()
        .add_service(InterceptedService::new(health, identify))
        .serve_with_incoming(listener.into_stream())
        .await?;
    Ok(())
}
