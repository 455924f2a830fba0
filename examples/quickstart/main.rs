//! HTTPS in, three servers behind: `cargo run --release --example quickstart`.
//!
//! Mints a development certificate, starts three demo servers as processes of their own, and puts
//! a load balancer before them. What to try then is printed.

mod certs;
mod demo;
mod guide;
mod signals;

use std::error::Error;
use std::fs;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use bartizan::net::ServeError;
use bartizan::prelude::*;
use clap::Parser;
use demo::DemoServer;
use signals::Signals;
use tokio::net::TcpListener;
use tower::ServiceBuilder;

/// The load balancer: TLS ends here, and each request goes to the next server that is up.
async fn balance(
    listener: TcpListener,
    identity: Identity,
    web: Cluster,
    drain: Drain,
) -> Result<(), ServeError> {
    // Three failed checks in a row take a server out, two passed ones bring it back.
    let _checks = web.check(Checks::tcp().every(Duration::from_secs(1)));

    let requests = ServiceBuilder::new()
        .layer(ForwardedLayer::new())
        .layer(BalanceLayer::new(web, RoundRobin::new()))
        .layer(HttpPoolLayer::new())
        .service(TcpDial::new());

    let connections = ServiceBuilder::new()
        .layer(TlsTerminateLayer::new(identity))
        .service(ServeHttp::new(requests));

    serve(listener, connections).with_drain(drain).await
}

/// A load balancer before three demo servers, with a certificate of its own making.
#[derive(Debug, Parser)]
#[command(name = "quickstart", about, disable_version_flag = true)]
struct Args {
    /// Where clients connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,

    /// Be the demo server of this name; the program starts itself so
    #[arg(long, value_name = "NAME", hide = true)]
    demo_server: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.demo_server {
        Some(name) => demo::run(name),
        None => run(args.listen),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("quickstart: {}", bartizan::net::ErrorChain(&*error));
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(addr: SocketAddr) -> Result<ExitCode, Box<dyn Error>> {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        // It would panic once the terminal is gone, and with it the servers' checks.
        .log_internal_errors(false)
        .init();
    // Before there is anything to tidy up: a signal from here on ends the program in good order.
    let signals = Signals::new()?;

    let listener = match TcpListener::bind(addr).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("{}", guide::cannot_listen(addr, &error));
            return Ok(ExitCode::from(2));
        }
    };
    let addr = listener.local_addr()?;

    let minted = certs::mint(addr.ip())?;
    let folder = tempfile::Builder::new().prefix("bartizan-quickstart-").tempdir()?;
    let ca_file = folder.path().canonicalize()?.join("ca.pem");
    fs::write(&ca_file, minted.ca_pem)?;
    let identity = Identity::from_pem("the development certificate", minted.site_pem.as_bytes())?;

    let servers = ["web1", "web2", "web3"].map(DemoServer::start);
    let servers = servers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let web = servers
        .iter()
        .fold(Cluster::builder("demo"), |web, server| {
            web.add(Backend::new(server.name(), server.addr().into()))
        })
        .build()?;

    println!("{}", guide::what_to_try(addr, &ca_file, &servers));
    let drain = Drain::new();
    tokio::select! {
        served = balance(listener, identity, web, drain.clone()) => served?,
        () = signals.obey(drain) => {}
    }

    drop(servers);
    folder.close()?;
    Ok(ExitCode::SUCCESS)
}
