//! TLS and load balancing for Rust services, as composable tower parts.
//!
//! A *bartizan* is the small tower on the corner of a wall from which the gate is watched. This
//! crate gathers the parts of its siblings under one name; each can be had alone as well.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`net`] | connections: accept loop, drain, per-core workers, dialling, routes by server name, tunnels, PROXY protocol |
//! | [`tls`] | TLS towards clients and backends, certificates (feature `tls`) |
//! | [`balance`] | backends, policies, leases, health checks |
//! | [`http`] | serving, pooling and forwarding HTTP, HTTP and gRPC probes (feature `http`) |
//!
//! The feature `dns`, off by default, adds `balance::dns`: backends that follow DNS.
//!
//! Two further features, both off by default, are for servers with an accept loop of their own:
//! `axum` makes `tls::TlsListener` a listener of `axum::serve`, `tonic` makes what it accepts a
//! connection for `serve_with_incoming`.
//!
//! What most programs need stands at the root, too: `use bartizan::prelude::*`.
//!
//! The [`guide`] walks through a reverse proxy line by line.

pub mod guide;

pub use bartizan_balance as balance;
#[cfg(feature = "http")]
pub use bartizan_http as http;
pub use bartizan_net as net;
#[cfg(feature = "tls")]
pub use bartizan_tls as tls;

pub use bartizan_net::serve;

pub mod prelude {
    //! The names that most programs need.

    pub use bartizan_balance::{Backend, Balance, BalanceLayer, Checks, Cluster, RoundRobin};
    #[cfg(feature = "http")]
    pub use bartizan_http::{
        ClientCertLayer, ForwardedLayer, GrpcProbe, HostGuardLayer, HttpPool, HttpPoolLayer,
        HttpProbe, ServeHttp,
    };
    pub use bartizan_net::{
        ClientHelloLayer, Conn, ConnInfo, Drain, HostRouter, RejectTls, TcpDial, Tunnel,
        TunnelLayer, Workers, serve,
    };
    #[cfg(feature = "tls")]
    pub use bartizan_tls::{
        CertStore, ClientAuth, ClientCredentials, HostRules, Identity, ServerTrust, TlsListener,
        TlsOriginateLayer, TlsTerminateLayer,
    };
}
