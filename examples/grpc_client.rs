//! A gRPC client of several servers, of which dead ones get no calls: `grpc_client SERVER…`.

use std::env;
use std::error::Error;
use std::time::Duration;

use bartizan::http::BackendProtocol;
use bartizan::prelude::*;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut servers = Cluster::builder("grpc");
    for server in env::args().skip(1) {
        servers = servers.backend(&server, &server);
    }
    let servers = servers.build()?;
    if servers.table().members().is_empty() {
        return Err("usage: grpc_client SERVER…".into());
    }
    let _checks = servers.check(Checks::tcp());

    let pool = HttpPoolLayer::new().protocol(BackendProtocol::Http2).pool(TcpDial::new());
    let balance = Balance::new(servers, RoundRobin::new(), pool);
    // tonic has no name of its own to put into `:authority`.
    let mut health = HealthClient::with_origin(balance, "http://grpc.internal".parse()?);
    loop {
        match health.check(HealthCheckRequest::default()).await {
            Ok(answer) => println!("status {}", answer.into_inner().status),
            Err(status) => eprintln!("{status}"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
