//! Connections that are not opened here.
//!
//! TLS can end at the servers instead of at the balancer: they share a certificate, or each has its
//! own, and the balancer holds no key. What it sees is the ClientHello, in which a client says in the
//! clear which name it wants.
//!
//! # Everything passes
//!
//! [`Tunnel`] makes connection services of what is dialled, so the same [`Balance`] that sends
//! requests to backends sends whole connections there:
//!
//! ```
//! # use bartizan::prelude::*;
//! # fn connections(web: Cluster) {
//! let connections = Balance::new(web, RoundRobin::new(), Tunnel::new(TcpDial::new()));
//! # }
//! ```
//!
//! A backend that cannot be dialled is replaced by another before a byte is sent. A tunnel is in
//! flight until its end, for the policy as for [`Backend::in_flight`]. The end of one side's stream
//! is passed on while the other direction goes on, a side that does not read stops the other, and
//! nothing is held for a tunnel that is idle. On Linux, bulk moves from socket to socket without
//! passing through the process.
//!
//! # One decision for each connection
//!
//! [`ClientHelloLayer`] reads the ClientHello, however it is cut, and gives its bytes once more to
//! whoever comes next. [`HostRouter`] chooses by the name in it:
//!
//! ```
//! # use bartizan::net::{BadHostPattern, BoxConnService, RouteError};
//! # use bartizan::prelude::*;
//! # use tower::Layer;
//! # type Io = bartizan::net::Replay<tokio::net::TcpStream>;
//! # fn connections(
//! #     ends_here: BoxConnService<Io>, web: Cluster, shop: Cluster,
//! # ) -> Result<(), RouteError> {
//! let pass = |cluster: Cluster| {
//!     BoxConnService::new(Balance::new(cluster, RoundRobin::new(), Tunnel::new(TcpDial::new())))
//! };
//! let router = HostRouter::new(BoxConnService::new(RejectTls::new()))
//!     .route(["www.example.com"], ends_here)?
//!     .route(["shop.example.com"], pass(shop))?
//!     .route(["example.com", "*.example.com"], pass(web))?;
//! let connections = ClientHelloLayer::new().layer(router);
//! # Ok(()) }
//! ```
//!
//! [`Decide`](crate::net::Decide) asks a service instead, which may look into a database; it knows
//! the whole [`ClientHello`](crate::net::ClientHello), with the protocols offered and the JA4
//! fingerprint, and the client's address.
//!
//! # What browsers make of it
//!
//! A browser with an HTTP/2 connection to one name uses it for every other name that the certificate
//! covers (RFC 9113 §9.1.1). Over a wildcard certificate, requests for a name may so arrive where
//! another name's connection has gone. Where TLS ends here, [`HostGuardLayer`] answers them with 421,
//! and the browser opens a connection of its own: the router tells it which names have the same
//! route. Where TLS passes through, only the servers can do that. So
//! [`lint_routes`](crate::tls::lint_routes) tells beforehand which routes are in danger, and
//! `proxy --lint-routes` asks the servers for their certificates and prints it.
//!
//! # Certificates that are checked although they pass
//!
//! A [`CertificateCheckLayer`](crate::tls::CertificateCheckLayer) over a dial service makes a TLS
//! handshake with each backend and verifies what it presents: the chain, the name, the dates. In the
//! checks of a cluster that starts [down](crate::balance::InitState::Down), a backend with a wrong or
//! expired certificate gets no connection at all, and one that changes to a wrong one is out at the
//! next check. With [`SameCertificate`](crate::tls::SameCertificate), backends that are to share a
//! certificate are held against each other. The example `passthrough` is a program of it.
//!
//! # Who the client is
//!
//! Behind a tunnel, a server sees the balancer's address. [`TunnelLayer::send_proxy`] begins each
//! connection to a backend with a PROXY header that says whose it is; HAProxy's `accept-proxy` and
//! nginx's `proxy_protocol` read it. In front, [`AcceptProxyLayer`](crate::net::AcceptProxyLayer)
//! reads such headers, from the sources that it is told to trust and from no others; from then on
//! [`ConnInfo::peer`] is the client that the header tells of.
//! [`SourceLimitLayer`](crate::net::SourceLimitLayer) behind it limits clients, before it balancers.

#[cfg(doc)]
use crate::prelude::*;
