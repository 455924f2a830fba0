//! HTTP as tower parts over hyper: serving, pooling, forwarding.
//!
//! [`ServeHttp`] turns a service of requests into one of connections. [`HttpPool`] turns a dial
//! service of streams into one of HTTP connections that are kept alive. What lies between them is a
//! tower stack; with `Balance` in it, that is a reverse proxy:
//!
//! ```no_run
//! use bartizan_balance::{Balance, Cluster, RoundRobin};
//! use bartizan_http::{ForwardedLayer, HttpPool, ServeHttp};
//! use bartizan_net::{TcpDial, serve};
//! use tower::ServiceBuilder;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let web = Cluster::builder("web").backend("web1", "192.168.1.10:80").build()?;
//! let requests = ServiceBuilder::new()
//!     .layer(ForwardedLayer::new())
//!     .service(Balance::new(web, RoundRobin::new(), HttpPool::new(TcpDial::new())));
//! let listener = tokio::net::TcpListener::bind("[::]:80").await?;
//! serve(listener, ServeHttp::new(requests)).await?;
//! # Ok(()) }
//! ```
//!
//! Bodies stream both ways with backpressure; nothing is collected.

mod client_cert;
mod error;
mod explain;
mod forwarded;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod headers;
mod host_guard;
mod keys;
mod per_host;
mod pool;
mod probe;
mod serve;
mod sticky;
mod text_or;

pub use client_cert::{ClientCert, ClientCertLayer};
pub use error::{ClientBodyError, SendError, status_of};
pub use explain::{Explain, ExplainFuture, ExplainLayer, Explained, ExplainedTie};
pub use forwarded::{Forwarded, ForwardedLayer};
pub use headers::strip_hop_by_hop;
pub use host_guard::{GuardFuture, HostGuard, HostGuardLayer};
pub use keys::{CookieKey, HeaderKey, QueryKey, UriKey};
pub use per_host::{PerHost, PerHostFuture, PerHostLayer};
pub use pool::{
    BackendProtocol, Checkout, HttpPool, HttpPoolLayer, PooledBody, PooledConn, SendFuture,
};
pub use probe::{Expect, GrpcProbe, HttpOnce, HttpProbe, HttpProbeError, Probing};
pub use serve::{Answer, H2Executor, Reply, RequestBody, ServeHttp, ServeHttpError, Serving};
pub use sticky::{
    ByCookie, CookieTie, SameSite, StickyCookie, StickyCookieError, StickyCookieFuture,
    StickyCookieLayer, StickyCookies, StickyKeyError, StickyKeys,
};
pub use text_or::TextOr;
