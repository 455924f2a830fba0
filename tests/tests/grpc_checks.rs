//! gRPC checks against the health service of tonic.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use bartizan::balance::Verdict;
use bartizan::prelude::*;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tower::ServiceExt;

#[tokio::test]
async fn a_probe_tells_what_tonics_health_service_says() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = Arc::new(Backend::new("a", listener.local_addr().unwrap().into()));
    let (reporter, health) = tonic_health::server::health_reporter();
    for (service, status) in [
        ("shop.Orders", ServingStatus::Serving),
        ("shop.Stock", ServingStatus::NotServing),
        ("shop.Prices", ServingStatus::Unknown),
    ] {
        reporter.set_service_status(service, status).await;
    }
    tokio::spawn(Server::builder().serve_with_incoming(health, TcpIncoming::from(listener)));

    for (service, word) in [
        ("", ""),
        ("shop.Orders", ""),
        ("shop.Stock", "NOT_SERVING"),
        ("shop.Prices", "UNKNOWN"),
        ("shop.Other", "does not know \"shop.Other\" (NOT_FOUND"),
    ] {
        let probe = GrpcProbe::new(TcpDial::new()).service(service);
        let verdict = tokio::time::timeout(LONG, probe.oneshot(Arc::clone(&backend)));
        match (verdict.await.expect("it hangs"), word) {
            (Ok(verdict), "") => assert_eq!(verdict, Verdict::Pass, "{service}"),
            (Ok(Verdict::Fail { reason }), word) => assert!(reason.contains(word), "{reason}"),
            (other, _) => panic!("{service}: {other:?}"),
        }
    }
}

const LONG: Duration = Duration::from_secs(10);
