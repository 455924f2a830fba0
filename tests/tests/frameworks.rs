//! The listener under axum and tonic: the examples, run as they stand, know who their clients are.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use bartizan_testkit::{Leaf, TestCa};
use bartizan_tests::{Answer, Client, Http, Proxy, Site, eventually, full, request_as};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use tokio::net::TcpStream;

/// The example `name`, whose clients' authority is that of `site`.
fn start(name: &str, site: &Site) -> Proxy {
    let (certs, ca) = (site.certs().to_str().unwrap(), site.ca_file().to_str().unwrap());
    Proxy::example(name, &["127.0.0.1:0", certs, ca])
}

/// A client of `site` that shows a certificate which `authority` has issued.
fn client_of(site: &Site, authority: &TestCa, name: &str, http: Http) -> Arc<ClientConfig> {
    let identity = authority.issue(Leaf::client(name));
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(site.ca().roots())
        .with_client_auth_cert(identity.chain_der(), identity.key_der())
        .unwrap();
    config.alpn_protocols = vec![alpn(http).into()];
    Arc::new(config)
}

fn alpn(http: Http) -> &'static str {
    if http == Http::Two { "h2" } else { "http/1.1" }
}

/// What the health service says; its request is an empty message (gRPC over HTTP/2, §Requests).
async fn health(client: &mut Client) -> Result<Answer, String> {
    let fields = [("content-type", "application/grpc"), ("te", "trailers")];
    let empty_message = full(&[0; 5][..]);
    client.ask(request_as("POST", "/grpc.health.v1.Health/Check", &fields, empty_message)).await
}

#[tokio::test]
async fn axum_handlers_know_who_the_client_is() {
    let site = Site::new();
    let server = start("axum_tls", &site);
    // Accepting does not wait for this one.
    let _stalled = TcpStream::connect(server.addr()).await.unwrap();
    for http in Http::BOTH {
        for name in ["alice", "bob"] {
            let tls = client_of(&site, site.ca(), name, http);
            let mut client = Client::open(server.addr(), tls, http).await.unwrap();
            for _ in 0..2 {
                let answer = client.get("/").await;
                assert_eq!(answer.text(), format!("hello {name}, this is localhost\n"), "{http:?}");
            }
        }
        let anonymous = site.tls(&[alpn(http)]);
        let mut client = Client::open(server.addr(), anonymous, http).await.unwrap();
        assert_eq!(client.get("/").await.text(), "hello stranger, this is localhost\n", "{http:?}");
    }
}

#[tokio::test]
async fn axum_serves_no_client_with_a_bad_certificate_and_goes_on() {
    let site = Site::new();
    let server = start("axum_tls", &site);
    for http in Http::BOTH {
        let stranger = client_of(&site, &TestCa::new("stranger"), "alice", http);
        // With TLS 1.3 the client is done with its handshake before the server has refused it.
        if let Ok(mut client) = Client::open(server.addr(), stranger, http).await {
            client.ask(request_as("GET", "/", &[], full(""))).await.unwrap_err();
        }
        let alice = client_of(&site, site.ca(), "alice", http);
        let mut client = Client::open(server.addr(), alice, http).await.unwrap();
        assert_eq!(client.get("/").await.text(), "hello alice, this is localhost\n", "{http:?}");
    }
}

#[tokio::test]
async fn axum_ends_in_good_order() {
    let site = Site::new();
    let mut server = start("axum_tls", &site);
    let mut clients = Vec::new();
    for http in Http::BOTH {
        let tls = site.tls(&[alpn(http)]);
        let mut client = Client::open(server.addr(), tls, http).await.unwrap();
        client.get("/").await;
        clients.push(client);
    }
    server.signal("INT");
    for client in clients {
        client.closed().await.unwrap();
    }
    assert!(server.wait(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn tonic_services_know_who_the_client_is() {
    let site = Site::new();
    let server = start("tonic_tls", &site);
    let _stalled = TcpStream::connect(server.addr()).await.unwrap();
    for name in ["alice", "bob"] {
        let tls = client_of(&site, site.ca(), name, Http::Two);
        let mut client = Client::open(server.addr(), tls, Http::Two).await.unwrap();
        let answer = health(&mut client).await.unwrap();
        // A message of two bytes: the first field is 1, `SERVING`.
        assert_eq!(&answer.body[..], [0, 0, 0, 0, 2, 8, 1]);
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
        let line = format!("{name} asks localhost\n");
        eventually("the client's name", || server.stderr().contains(&line)).await;
    }
    let nobody = client_of(&site, site.ca(), "", Http::Two);
    let mut client = Client::open(server.addr(), nobody, Http::Two).await.unwrap();
    let answer = health(&mut client).await.unwrap();
    assert_eq!(answer.header("grpc-status"), "7", "permission denied");
}

#[tokio::test]
async fn tonic_serves_no_client_without_a_good_certificate() {
    let site = Site::new();
    let server = start("tonic_tls", &site);
    let stranger = client_of(&site, &TestCa::new("stranger"), "alice", Http::Two);
    for tls in [site.tls(&["h2"]), stranger] {
        if let Ok(mut client) = Client::open(server.addr(), tls, Http::Two).await {
            health(&mut client).await.unwrap_err();
        }
    }
    let other_protocol = client_of(&site, site.ca(), "alice", Http::One);
    let error = Client::open(server.addr(), other_protocol, Http::One).await.unwrap_err();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    assert_eq!(server.stderr(), "");
}

#[test]
fn without_its_arguments_an_example_says_what_they_are() {
    for name in ["axum_tls", "tonic_tls"] {
        let mut command = std::process::Command::new(bartizan_tests::example_binary(name));
        let ended = bartizan_tests::program::run(&mut command, Duration::from_secs(30));
        assert!(!ended.status.success());
        assert!(
            ended.stderr.contains(&format!("usage: {name} LISTEN CERTS CLIENT_CA")),
            "{ended:?}"
        );
    }
}
