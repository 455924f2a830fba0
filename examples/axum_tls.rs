//! An axum service behind TLS that knows its clients: `axum_tls LISTEN CERTS CLIENT_CA`.

use std::env;
use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use bartizan::net::Drain;
use bartizan::tls::{CertStore, ClientAuth, TlsConnInfo, TlsListener};
use tokio::net::TcpListener;

/// Answers who the client has proven to be, and which server it asked for.
async fn who(ConnectInfo(conn): ConnectInfo<TlsConnInfo>) -> String {
    let name = conn.client().and_then(|client| client.common_name.as_deref());
    let (name, sni) = (name.unwrap_or("stranger"), conn.sni().unwrap_or("nobody"));
    format!("hello {name}, this is {sni}\n")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, certs, client_ca] = &args[..] else {
        return Err("usage: axum_tls LISTEN CERTS CLIENT_CA".into());
    };
    // Certificates and CAs are loaded again when they change. Clients may show a certificate; one
    // that is shown must be good.
    let certs = CertStore::builder()
        .path(certs)
        .client_auth(ClientAuth::optional(client_ca.as_str()))
        .watch()?;
    let drain = Drain::new();
    let listener =
        TlsListener::new(TcpListener::bind(listen).await?, certs).with_drain(drain.clone());
    println!("listening on {}", listener.local_addr()?);

    let service =
        Router::new().route("/", get(who)).into_make_service_with_connect_info::<TlsConnInfo>();
    axum::serve(listener, service).with_graceful_shutdown(stop(drain)).await?;
    Ok(())
}

/// Resolves at Ctrl-C, from when on axum finishes what is under way. What it cannot finish is cut.
async fn stop(drain: Drain) {
    if tokio::signal::ctrl_c().await.is_ok() {
        tokio::spawn(async move { drain.run(Duration::ZERO, GRACE).await });
    }
}

const GRACE: Duration = Duration::from_secs(10);
