//! Connections as tower services: accept loop, drain, per-core workers, dialling.
//!
//! A *connection service* is called once per accepted connection with a [`Conn`] and is done when
//! the connection is done. A *dial service* is called with a [`Target`] and answers with a stream.
//! This crate knows neither TLS nor HTTP.
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
//! | [`TcpDial`] | connects within a deadline, with happy eyeballs for host names |
//! | [`IdleTimer`] | an idle limit that costs a clock read each time it is pushed back |

mod bind;
mod client_identity;
pub mod clock;
mod conn;
mod dial;
mod drain;
mod error_chain;
mod host_map;
mod host_pattern;
mod host_scope;
mod idle;
mod listener;
mod relay;
mod replay;
mod serve;
mod source_limit;
mod spawn;
mod target;
mod tls_info;
mod tunnel;
mod workers;

pub use bind::{BindError, listen};
pub use client_identity::ClientIdentity;
pub use conn::{Conn, ConnInfo, HasConnInfo};
pub use dial::{DialError, DialFuture, TcpDial};
pub use drain::{Drain, DrainWatch, Phase};
pub use error_chain::ErrorChain;
pub use host_map::HostMap;
pub use host_pattern::{BadHostPattern, HostPattern, fold_host};
pub use host_scope::{HostScope, Misdirected};
pub use idle::IdleTimer;
pub use listener::Listener;
pub use relay::{Relay, RelayEnd, Relayed};
pub use replay::Replay;
pub use serve::{Serve, ServeError, serve};
pub use source_limit::{
    BadRate, SourceLimit, SourceLimitError, SourceLimitFuture, SourceLimitLayer,
};
pub use spawn::{LocalSpawn, Spawn, TokioSpawn};
pub use target::{Address, AddressError, Target};
pub use tls_info::{ClientAuthMode, ServedCertificate, TlsInfo};
pub use tunnel::{Passing, Tunnel, TunnelError, TunnelFuture, TunnelLayer, Tunnelled};
pub use workers::{Worker, Workers, WorkersError};

/// An error of an inner service, whose type the layer around it neither knows nor inspects.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
