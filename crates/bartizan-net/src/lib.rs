//! Connections as tower services: accept loop, drain, per-core workers, dialling.
//!
//! A *connection service* is called once per accepted connection with a [`Conn`] and is done when
//! the connection is done. A *dial service* is called with a [`Target`] and answers with a stream.
//! This crate speaks neither TLS nor HTTP, although it can read how a TLS client begins.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use bartizan_net::{Conn, Drain, serve};
//! use tokio::net::{TcpListener, TcpStream};
//!
//! let echo = tower::service_fn(|conn: Conn<TcpStream>| async move {
//!     let (mut read, mut write) = conn.into_io().into_split();
//!     tokio::io::copy(&mut read, &mut write).await.map(drop)
//! });
//! let drain = Drain::new();
//! serve(TcpListener::bind("127.0.0.1:7000").await?, echo).with_drain(drain).await?;
//! # Ok(()) }
//! ```
//!
//! | part | what it does |
//! | --- | --- |
//! | [`serve`] | accepts, spawns each connection at once, survives exhausted descriptors |
//! | [`Workers`] | one current-thread runtime, listener and stack per core |
//! | [`Drain`] | announce → stop accepting → grace → close what is left |
//! | [`ClientHelloLayer`] | reads what a TLS client offers, and leaves the bytes to whoever is next |
//! | [`RejectTls`] | refuses a TLS client with an alert |
//! | [`AcceptProxyLayer`], [`SendProxy`] | the PROXY protocol, versions 1 and 2, from proxies in front and to backends |
//! | [`SourceLimitLayer`] | a token bucket of new connections for each source |
//! | [`HostRouter`], [`Decide`] | one decision for each connection, or request: where it goes |
//! | [`Tunnel`] | passes connections on to what was dialled, as they are |
//! | [`TcpDial`] | connects within a deadline, with happy eyeballs for host names |
//! | [`DialledStream`] | what a dialled stream tells of itself: protocol, peer, until when it is good |
//! | [`IdleTimer`] | an idle limit that costs a clock read each time it is pushed back |

mod bind;
mod client_hello;
mod client_identity;
pub mod clock;
mod conn;
mod dial;
mod dialled;
mod drain;
mod error_chain;
mod host_map;
mod host_pattern;
mod host_scope;
mod idle;
mod listener;
mod proxy_protocol;
mod relay;
mod replay;
mod route;
mod serve;
mod source_limit;
mod spawn;
mod target;
mod tls_alert;
mod tls_info;
mod tunnel;
mod workers;
mod wrong_identity;

pub use bind::{BindError, listen};
pub use client_hello::{
    AlpnNames, ClientHello, ClientHelloError, ClientHelloFuture, ClientHelloLayer, HelloError,
    HelloProgress, HelloReader, ReadClientHello, TlsCodes, is_grease,
};
pub use client_identity::ClientIdentity;
pub use conn::{Conn, ConnInfo, HasConnInfo};
pub use dial::{DialError, DialFuture, TcpDial};
pub use dialled::{DialledStream, PeerIdentity, Superseded, Validity};
pub use drain::{Drain, DrainWatch, Phase};
pub use error_chain::ErrorChain;
pub use host_map::HostMap;
pub use host_pattern::{BadHostPattern, HostPattern, fold_host, wildcard_key};
pub use host_scope::{HostScope, Misdirected};
pub use idle::IdleTimer;
pub use listener::Listener;
pub use proxy_protocol::{
    AcceptProxy, AcceptProxyFuture, AcceptProxyLayer, Parsed, ProxyAddresses, ProxyCommand,
    ProxyHeader, ProxyHeaderError, ProxyProtocolError, ProxySsl, ProxyTlv, ProxyTlvs,
    ProxyTransport, ProxyVersion, SendProxy, SendProxyError, SendProxyFuture, SendProxyHeader,
    SendProxyLayer,
};
pub use relay::{Relay, RelayEnd, Relayed};
pub use replay::Replay;
pub use route::{
    BoxConnService, Decide, DecideError, DecideFuture, HostRouter, LocalBoxConnService, RouteError,
    RouteFuture,
};
pub use serve::{Serve, ServeError, serve};
pub use source_limit::{
    BadRate, SourceLimit, SourceLimitError, SourceLimitFuture, SourceLimitLayer,
};
pub use spawn::{LocalSpawn, Spawn, TokioSpawn};
pub use target::{Address, AddressError, Target};
pub use tls_alert::{RejectTls, RejectTlsFuture, TlsAlert, TlsRefusal};
pub use tls_info::{ClientAuthMode, ServedCertificate, TlsInfo};
pub use tunnel::{Passing, Tunnel, TunnelError, TunnelFuture, TunnelLayer, Tunnelled};
pub use workers::{Worker, Workers, WorkersError};
pub use wrong_identity::WrongIdentity;

/// An error of an inner service, whose type the layer around it neither knows nor inspects.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
