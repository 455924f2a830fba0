//! The guide.
//!
//! 1. [A reverse proxy, line by line](#a-reverse-proxy-line-by-line)
//! 2. [Three kinds of service](#three-kinds-of-service)
//! 3. [Where errors go](#where-errors-go)
//! 4. [Limits on time](#limits-on-time)
//! 5. [Health checks](#health-checks)
//! 6. [Redispatch, and safe resends](#redispatch-and-safe-resends)
//! 7. [Shutting down](#shutting-down)
//! 8. [One runtime, or one per core](#one-runtime-or-one-per-core)
//!
//! Connections whose TLS passes through have a [page of their own](passthrough), and so have
//! [TLS towards backends](reencrypt), the [choice of a policy](policies) and the
//! [health of backends](health).
//!
//! # A reverse proxy, line by line
//!
//! TLS ends at the balancer, and three servers take turns. First the servers:
//!
//! ```
//! use bartizan::prelude::*;
//!
//! # fn cluster() -> Result<Cluster, Box<dyn std::error::Error>> {
//! let web = Cluster::builder("web_servers")
//!     .backend("web1", "192.168.1.10:80")
//!     .backend("web2", "192.168.1.11:80")
//!     .backend("web3", "web3.internal:80")
//!     .build()?;
//! # Ok(web) }
//! # cluster().unwrap();
//! ```
//!
//! A [`Cluster`] is a handle: clones are handles on the same set, and whoever has one can change the
//! set while it serves. Names tell backends apart in logs, so two of the same are an error, as is an
//! address that is not `HOST:PORT`. A host name is resolved at each dial.
//!
//! ```
//! # use bartizan::prelude::*;
//! # fn update(web: &Cluster) -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! let web4 = Arc::new(Backend::new("web4", "192.168.1.13:80".parse()?));
//! web.update(|change| {
//!     change.remove("web1");
//!     change.add(web4);
//! })?;
//! # Ok(()) }
//! # update(&Cluster::builder("web").backend("web1", "192.168.1.10:80").build().unwrap()).unwrap();
//! ```
//!
//! Requests that are under way at `web1` then go on to their end; it only gets no new ones.
//!
//! The checks run in the background for as long as the guard lives. `let _ = …` would drop it, and
//! so end them, at once: give it a name.
//!
//! ```no_run
//! # use bartizan::prelude::*;
//! # async fn check(web: Cluster) {
//! let _checks = web.check(Checks::tcp());
//! # }
//! ```
//!
//! Then the way of a request, from the outside in:
//!
//! ```
//! # use bartizan::prelude::*;
//! # fn requests(web: Cluster) {
//! use tower::ServiceBuilder;
//!
//! let requests = ServiceBuilder::new()
//!     .layer(ForwardedLayer::new())                     // tells the servers who the client is
//!     .layer(BalanceLayer::new(web, RoundRobin::new())) // picks a backend, and has it dialled
//!     .layer(HttpPoolLayer::new())                      // by this: a kept connection, or
//!     .service(TcpDial::new());                         // a new one
//! # }
//! ```
//!
//! Two kinds of service meet in the middle of this stack: above [`BalanceLayer`] they are called
//! with requests, below it with the backend that it picked. Layers of your own for requests, and
//! those of tower and tower-http, go above it.
//!
//! A request's body comes as [`RequestBody`](crate::http::RequestBody). `HttpPool` takes it as it
//! is; a layer that wraps it has to be followed by a pool that takes what it makes of it.
//!
//! Then the way of a connection:
//!
//! ```no_run
//! # use bartizan::prelude::*;
//! # use tower::ServiceBuilder;
//! # async fn run(web: Cluster, drain: Drain) -> Result<(), Box<dyn std::error::Error>> {
//! # let requests = Balance::new(web, RoundRobin::new(), HttpPool::new(TcpDial::new()));
//! let certificates = CertStore::watch("/etc/ssl/certs/site")?;
//! let connections = ServiceBuilder::new()
//!     .layer(TlsTerminateLayer::new(certificates))
//!     .service(ServeHttp::new(requests));
//!
//! let listener = tokio::net::TcpListener::bind("[::]:443").await?;
//! serve(listener, connections).with_drain(drain).await?;
//! # Ok(()) }
//! ```
//!
//! [`CertStore`] holds certificates with their keys, from a file or a directory, and loads them again
//! when they change; see [below](#certificates). For a single one that never changes there is
//! [`Identity`]. What is wrong with a file is in the error, with the section in it.
//!
//! [`TlsTerminateLayer`] makes a service of plaintext connections out of one of decrypted
//! connections. [`ServeHttp`] speaks HTTP/2 where the handshake agreed on `h2`, else HTTP/1.1.
//! Without the layer, the same stack serves plain HTTP/1.1.
//!
//! # Three kinds of service
//!
//! | kind | called with | answers with | parts |
//! | --- | --- | --- | --- |
//! | connection | [`Conn<IO>`](Conn) | `()`, when the connection is done | [`TlsTerminateLayer`], [`ServeHttp`] |
//! | request | `http::Request<B>` | `http::Response<B2>` | [`ForwardedLayer`], [`Balance`] |
//! | dial | `Arc<Backend>` | a stream, or a service that spends it | [`TcpDial`], [`HttpPool`] |
//!
//! A connection service of your own is a function:
//!
//! ```no_run
//! use bartizan::prelude::*;
//! use tokio::net::{TcpListener, TcpStream};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let hello = tower::service_fn(|conn: Conn<TcpStream>| async move {
//!     println!("hello, {}", conn.info().peer());
//!     Ok::<_, std::io::Error>(())
//! });
//! serve(TcpListener::bind("127.0.0.1:7000").await?, hello).await?;
//! # Ok(()) }
//! ```
//!
//! What is known of a connection is its [`ConnInfo`]: the addresses, and after a handshake the
//! server name, protocol and cipher. Requests carry it as `Arc<ConnInfo>` in their extensions, where
//! [`HasConnInfo`](crate::net::HasConnInfo) reads it.
//!
//! For all three, `poll_ready` says whether there is room, and never whether a backend is well. A
//! sick backend is not eligible in the cluster's table, and that is all.
//!
//! # Where errors go
//!
//! | what failed | who is told |
//! | --- | --- |
//! | accepting, for want of descriptors or memory | the log, at most every 10 s; accepting goes on |
//! | a handshake | the client by an alert; the log (info), with peer, server name, reason, time; [`counts`](TlsTerminateLayer::counts) |
//! | certificates that cannot be loaded again | the log (error), with the file; [`CertStore::status`]; the last good ones are served |
//! | a request service | the client by a status and nothing else; the log (info) |
//! | a try at a backend that is followed by another | the log (debug) |
//! | a response's body, half way | the client: HTTP/1.1 by the end of the connection, HTTP/2 by a reset of the stream |
//! | a connection, in any other way | the log (debug) |
//! | `poll_ready` of the connection service | whoever awaits [`serve`]: it ends |
//!
//! The log is [tracing](https://docs.rs/tracing), with the crates' names as targets. For an error of
//! a request service, [`status_of`](crate::http::status_of) looks for the innermost error that it
//! knows, in the chain of [`source`](std::error::Error::source)s:
//!
//! | status | when |
//! | --- | --- |
//! | 400 | the client's body is broken |
//! | 405 | CONNECT |
//! | 408 | the client sent nothing of its body for too long; or an HTTP/1.1 head did not end in time |
//! | 502 | a backend refused, broke the connection, or did not speak HTTP |
//! | 503 | no backend is eligible, all slots stay taken, or the backend that the client is pinned to is down |
//! | 504 | a backend could not be connected to in time, or was silent for too long |
//! | 500 | an error that it does not know, from a layer of yours |
//!
//! So a layer of yours that wants another status answers with a response instead of an error.
//!
//! # Certificates
//!
//! ```no_run
//! # use bartizan::prelude::*;
//! use bartizan::tls::TicketSource;
//!
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let store = CertStore::builder()
//!     .path("/etc/haproxy/certs")
//!     .host(
//!         ["admin.example.com", "*.staff.example.com"],
//!         HostRules::new().client_auth(
//!             ClientAuth::required("/etc/ssl/staff-ca.pem").crl("/etc/ssl/staff.crl"),
//!         ),
//!     )
//!     .tickets(TicketSource::SecretFile("/etc/ssl/tickets.secret".into()))
//!     .watch()?;
//! # let _ = store; Ok(()) }
//! ```
//!
//! A directory is read as HAProxy reads one, side files (`.key`, `.ocsp`, `.issuer`) included; see
//! [`CertStoreBuilder::path`](crate::tls::CertStoreBuilder::path). Everything that is named here is
//! watched, by directory, so that links that are turned and files that are moved into place count as
//! changes. A change leads to a new *generation*: certificates, authorities, revocation lists and
//! ticket keys, loaded together, in force all at once or not at all. Each handshake is governed by
//! one; [`ServedCertificate`](crate::tls::ServedCertificate) in [`ConnInfo`] says by which.
//!
//! | what | default | where to change it |
//! | --- | --- | --- |
//! | unknown or missing server name | the certificate that was loaded first | [`strict_sni`](crate::tls::CertStoreBuilder::strict_sni) |
//! | versions, cipher suites, groups, ALPN | TLS 1.2 and 1.3, X25519MLKEM768 first, `h2` and `http/1.1` | [`TlsSettings`](crate::tls::TlsSettings), [`HostRules`] |
//! | client certificates | not asked for | [`ClientAuth`], for all or in [`HostRules`] |
//! | a CRL out of date | nobody of its issuer is let in | [`ClientAuth::crl_expiry`] |
//! | an issuer without a CRL, where there are some | nobody of it is let in | [`ClientAuth::unknown_revocation`] |
//! | a client that a new generation does not trust | its connections end within 10 s | [`Withdrawal`](crate::tls::Withdrawal) |
//! | a client certificate that expires while it is used | its connections go on | [`Withdrawal`](crate::tls::Withdrawal) |
//! | session tickets | keys at random, new ones every 6 h, which reloads survive | [`TicketKeys`](crate::tls::TicketKeys) |
//! | early data (0-RTT) | never | – |
//! | OCSP responses beside certificates | stapled if they are good and in date | [`staple_files`](crate::tls::CertStoreBuilder::staple_files) |
//! | handshakes in progress | 4,096, in fair shares by source address | [`HandshakeLimit`](crate::tls::HandshakeLimit) |
//!
//! A ticket opens only under the trust that it was made under: the mode, the authorities and the
//! revocation lists of its host. So sessions resume where client certificates are asked for as well,
//! and one from a host without them opens no host with them.
//!
//! Where rules differ by host, put a [`HostGuardLayer`] in front of the requests. A client names the
//! host twice, in the handshake and in each request, and nothing but the guard keeps it from naming
//! two. It answers 421 where a handshake for the second name would have asked for more.
//!
//! Requests tell who the client is by `ConnInfo`: its common name, DNS names, SPIFFE ID, serial and
//! chain are in [`ClientIdentity`](crate::net::ClientIdentity). [`ClientCertLayer`] tells backends.
//!
//! # Limits on time
//!
//! | limit | default | covers | on expiry |
//! | --- | --- | --- | --- |
//! | [`TlsTerminateLayer::handshake_timeout`] | 10 s | a whole TLS handshake | closed |
//! | [`ServeHttp::header_timeout`] | 10 s | an HTTP/1.1 head, from its first byte to its last | 408, closed |
//! | [`ServeHttp::keep_alive_timeout`] | 60 s | a client connection without a request | closed; HTTP/2: GOAWAY |
//! | [`ServeHttp::client_timeout`] | 60 s | a client that is awaited: to send its body, to read | body: 408; reader: closed |
//! | [`TcpDial::connect_timeout`] | 5 s | resolving and connecting, all addresses together | the next backend, or 504 |
//! | [`HttpPoolLayer::response_timeout`] | 60 s | a backend's silence, before and within an answer | 504, or the body breaks |
//! | [`HttpPoolLayer::idle_timeout`] | 30 s | a kept backend connection that nobody uses | closed |
//! | [`BalanceLayer::retry_pause`] | 1 s | the pause before a backend is tried a second time | it is tried |
//! | [`Checks::every`] | 2 s | from one check of a backend to the next | – |
//! | [`Checks::timeout`] | 1 s | one check | failed |
//! | [`Drain::run`] | arguments | notice and grace of a shutdown | see below |
//!
//! None of them limits a whole request: a download may take all day while it moves. Put tower's
//! timeout above [`Balance`] for that. Some that are fixed: with several addresses of a host name the
//! next one is tried 250 ms after the one before, and during a drain a client's connection is idle
//! for a second at the most.
//!
//! # Health checks
//!
//! They are HAProxy's: `inter` is [`every`](Checks::every), and [`rise`](Checks::rise) and
//! [`fall`](Checks::fall) are called the same. A backend starts up. It goes down after `fall` (3)
//! failed checks in a row, and up again after `rise` (2) passed ones in a row; one check that says
//! otherwise starts the count again.
//!
//! ```
//! # use bartizan::prelude::*;
//! use std::time::Duration;
//!
//! let checks = Checks::tcp().every(Duration::from_secs(1)).rise(1).fall(2);
//! # let _ = checks;
//! ```
//!
//! Probes over HTTP, gRPC and TLS, scripts and agents, ejection by what requests show, and who is
//! told of changes have [a page of their own](health).
//!
//! # Redispatch, and safe resends
//!
//! **A failed dial costs the request nothing.** It has not been handed over, so it goes to another
//! backend, whatever its method, up to [`retries`](BalanceLayer::retries) (3) times after the first.
//! Backends that have failed it are left out while there are others; when there are none, it waits
//! for [`retry_pause`](BalanceLayer::retry_pause) and may try them again. The same goes for a
//! request of which a connection has taken no byte. This is what covers a dead backend until the
//! checks notice.
//!
//! **What was sent is repeated in one case.** A GET, HEAD or OPTIONS without a body, which was
//! answered with not a single byte before the connection broke, is sent again, to another backend
//! while there is one: once in any case, and to each further one within the retries, as two of three
//! backends may die at once. Everything else that was sent fails with 502: a POST may have been
//! carried out, and an answer that has begun cannot be taken back. A backend that is silent for too
//! long (504) gets no second try either, since it may still be at work.
//!
//! A connection out of the pool that turns out to be closed is replaced by a new one to the same
//! backend first, if the request did not go out on it.
//!
//! # Shutting down
//!
//! | [`Phase`](crate::net::Phase) | new connections | open ones |
//! | --- | --- | --- |
//! | `Running` | accepted | – |
//! | `Announced` | accepted | HTTP/1.1: answers carry `connection: close`; HTTP/2: GOAWAY; idle for a second: closed |
//! | `Stopped` | refused, after what the kernel had queued | finish what they do |
//! | `Closing` | refused | dropped |
//!
//! [`serve`] returns once it is `Stopped` and the last connection is done, or when it is `Closing`.
//! [`Drain::run`] goes through all phases: `notice` is the time between announcing and stopping, for
//! a balancer in front to notice; `grace` is the time for what is under way after that.
//!
//! ```no_run
//! # use bartizan::prelude::*;
//! # async fn shut_down() {
//! use std::time::Duration;
//!
//! let drain = Drain::new();
//! let stop = drain.clone();
//! tokio::spawn(async move {
//!     if tokio::signal::ctrl_c().await.is_ok() {
//!         stop.run(Duration::ZERO, Duration::from_secs(10)).await;
//!     }
//! });
//! // serve(listener, connections).with_drain(drain).await
//! # let _ = drain;
//! # }
//! ```
//!
//! No part of this crate listens for signals.
//!
//! # One runtime, or one per core
//!
//! [`serve`] runs in the runtime that awaits it. On tokio's multi-thread runtime one stack serves
//! all threads: it has to be `Send`, and its pool and its policy are shared.
//!
//! [`Workers`] has a current-thread runtime per core, each with its own listening socket and its own
//! stack, made on its thread. A connection stays where it was accepted, and pools take no locks
//! across cores. This is the faster of the two under load; `serve` is the simpler one, spreads a few
//! busy connections better, and fits into a program that has a runtime already.
//!
//! ```no_run
//! use bartizan::prelude::*;
//! use tower::ServiceBuilder;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let web = Cluster::builder("web_servers").backend("web1", "192.168.1.10:80").build()?;
//! let tls = TlsTerminateLayer::new(Identity::from_pem_file("/etc/ssl/certs/domain.pem")?);
//!
//! // What all workers share runs beside them: checks, and whatever starts the drain.
//! let background = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
//! let entered = background.enter();
//! let _checks = web.check(Checks::tcp());
//! drop(entered);
//!
//! Workers::bind(["[::]:443".parse()?], 0)?.run(|worker| {
//!     let requests = ServiceBuilder::new()
//!         .layer(ForwardedLayer::new())
//!         .layer(BalanceLayer::new(web.clone(), RoundRobin::starting_at(worker.index)))
//!         .layer(HttpPoolLayer::new())
//!         .service(TcpDial::new());
//!     ServiceBuilder::new().layer(tls.clone()).service(ServeHttp::new(requests))
//! })?;
//! # Ok(()) }
//! ```
//!
//! `Cluster`, `TlsTerminateLayer` and `Drain` are handles, made once and cloned into each stack. So
//! session tickets of one worker open at all of them. Pools and policies are made per worker:
//! that each starts at another backend keeps the first one from getting the first request of all.
//! A stack that is not `Send` needs [`ServeHttp::local`].
#![cfg(all(feature = "http", feature = "tls"))]

pub mod health;
pub mod passthrough;
pub mod policies;
#[cfg(all(feature = "tls", feature = "http"))]
pub mod reencrypt;

#[cfg(doc)]
use crate::prelude::*;
