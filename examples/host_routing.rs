//! One port, and a decision for each name: TLS ends here for one, passes through to servers with
//! certificates of their own for others, and everything else is refused.
//!
//! ```text
//! cargo run --example host_routing -- 127.0.0.1:8443 www.pem 127.0.0.1:8080 127.0.0.1:9443 127.0.0.1:9444
//! ```

use bartizan::net::{BoxConnService, ClientHelloLayer, HostRouter, RejectTls, Tunnel};
use bartizan::prelude::*;
use tokio::net::TcpListener;
use tower::{Layer, ServiceBuilder};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [listen, certs, www, shop, mail] = &args[..] else {
        return Err(
            "usage: host_routing LISTEN CERTS.pem WWW SHOP MAIL, each of these HOST:PORT".into()
        );
    };
    let cluster = |name: &'static str, at: &str| Cluster::builder(name).backend(name, at).build();

    // Ends here: HTTP to the backend, in the clear.
    let requests = ServiceBuilder::new()
        .layer(HostGuardLayer::new())
        .layer(ForwardedLayer::new())
        .layer(BalanceLayer::new(cluster("www", www)?, RoundRobin::new()))
        .layer(HttpPoolLayer::new())
        .service(TcpDial::new());
    let www = TlsTerminateLayer::new(CertStore::watch(certs)?).layer(ServeHttp::new(requests));
    // Pass through: each has its own certificate and key.
    let shop = Balance::new(cluster("shop", shop)?, RoundRobin::new(), Tunnel::new(TcpDial::new()));
    let mail = Balance::new(cluster("mail", mail)?, RoundRobin::new(), Tunnel::new(TcpDial::new()));

    let router = HostRouter::new(BoxConnService::new(RejectTls::new()))
        .route(["www.example.com"], BoxConnService::new(www))?
        .route(["shop.example.com", "*.shop.example.com"], BoxConnService::new(shop))?
        .route(["mail.example.com"], BoxConnService::new(mail))?;
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    serve(listener, ClientHelloLayer::new().layer(router)).await?;
    Ok(())
}
