//! TLS towards backends.
//!
//! TLS that ends at the balancer can start again towards the servers. Then nobody between them reads
//! or changes what passes, each server proves who it is, and it can ask the balancer for a
//! certificate as well (mTLS).
//!
//! # A layer over the dial
//!
//! [`TlsOriginateLayer`] makes TLS of the streams that are dialled below it. It stands under the pool,
//! so connections are kept with TLS on them:
//!
//! ```no_run
//! # use bartizan::prelude::*;
//! # use bartizan::http::BackendProtocol;
//! # use tower::ServiceBuilder;
//! # fn requests(web: Cluster) -> Result<(), Box<dyn std::error::Error>> {
//! let trust = ServerTrust::builder().roots("/etc/bartizan/backends-ca.pem").watch()?;
//! let identity = ClientCredentials::watch_pem_file("/etc/bartizan/proxy.pem")?;
//! let requests = ServiceBuilder::new()
//!     .layer(BalanceLayer::new(web, RoundRobin::new()))
//!     .layer(HttpPoolLayer::new().protocol(BackendProtocol::Auto))
//!     .layer(
//!         TlsOriginateLayer::new(trust)
//!             .server_name("web.internal")
//!             .client_credentials(identity)
//!             .alpn(["h2", "http/1.1"]),
//!     )
//!     .service(TcpDial::new());
//! # drop(requests); Ok(()) }
//! ```
//!
//! The example `reencrypt_mtls` is a whole program of it, `proxy --mode reencrypt` another one.
//!
//! # Who a backend has to be
//!
//! Chain and name are always verified; HAProxy ignores names unless it is told one, and nginx verifies
//! nothing unless it is told to. A [`ServerTrust`] says against what:
//!
//! | wish | how |
//! | --- | --- |
//! | authorities from a file, from memory, of the system | `roots`, `system_roots` |
//! | revocation lists | `crl`, with the rules of [`ClientAuth`] |
//! | this key and no other | `pin`, beside the chain; [`ServerTrust::pinned_only`](crate::tls::ServerTrust::pinned_only) in its place |
//! | other names than the one that is asked for | `accept_names` |
//! | a workload of SPIFFE | `spiffe_id`, `spiffe_trust_domain`, in place of the name |
//! | anybody | [`ServerTrust::dangerous`](crate::tls::ServerTrust::dangerous), with a [`DangerousNoVerify`](crate::tls::DangerousNoVerify) that has to be named, and a line in the log |
//!
//! The name is the backend's own ([`Backend::with_server_name`]), or the host name of its address, or
//! its IP address; [`TlsOriginateLayer::server_name`] sets one for all. Where it has to follow what a
//! client asks for, as HAProxy's `sni-auto` does, [`PerHost`](crate::http::PerHost) keeps a stack for
//! each host.
//!
//! # What changes while requests go on
//!
//! `watch` reads files again when they change, and swaps what is in them as a whole: a generation.
//! What cannot be used is logged, and the last good one stays. From then on no session that was begun
//! under another generation is resumed, no connection that was made under one takes a new request, and
//! what is under way on it ends as usual. Certificates on both sides and their authorities can so be
//! replaced while requests go on; `tests/tests/rotation.rs` does it 200 times and loses none.
//!
//! No connection outlives the certificate that it was made with, the backend's or the own one: shortly
//! before, at another moment for each, it takes no new request, and at the end it is cut
//! ([`ConnectionExpiry`](crate::tls::ConnectionExpiry)).
//!
//! # What can be wrong
//!
//! A dial that fails is no failed request: the next backend gets it, a POST as well as a GET. With
//! client certificates in TLS 1.3, where a client is done before its certificate has been looked at,
//! the dial waits for the backend's word, so a refusal is a failed dial, too. If no backend is left,
//! the client sees 502 and none of this; the log has all of it:
//! [`OriginateError`](crate::tls::OriginateError) says which backend, how far it got, what was
//! expected and what was presented (names, issuer, dates), and what to do.
//!
//! | what is wrong | error |
//! | --- | --- |
//! | nothing listens, no route | [`Dial`](crate::tls::OriginateError::Dial) |
//! | it stalls, in whatever state of the handshake | [`Timeout`](crate::tls::OriginateError::Timeout) |
//! | it speaks plaintext | [`NotTls`](crate::tls::OriginateError::NotTls) |
//! | it closes in the middle of the handshake | [`Closed`](crate::tls::OriginateError::Closed) |
//! | no version, cipher suite or protocol in common | [`Refused`](crate::tls::OriginateError::Refused), [`Incompatible`](crate::tls::OriginateError::Incompatible) |
//! | it wants a client certificate, or another one | [`ClientCertificate`](crate::tls::OriginateError::ClientCertificate) |
//! | another authority | [`Untrusted`](crate::tls::CertificateProblem::Untrusted) |
//! | nobody issued it but itself | [`SelfSigned`](crate::tls::CertificateProblem::SelfSigned) |
//! | another name | [`WrongName`](crate::tls::CertificateProblem::WrongName), [`WrongSpiffeId`](crate::tls::CertificateProblem::WrongSpiffeId) |
//! | expired, not valid yet | [`Expired`](crate::tls::CertificateProblem::Expired), [`NotYetValid`](crate::tls::CertificateProblem::NotYetValid) |
//! | revoked; not known whether | [`Revoked`](crate::tls::CertificateProblem::Revoked), [`RevocationUnknown`](crate::tls::CertificateProblem::RevocationUnknown), [`CrlExpired`](crate::tls::CertificateProblem::CrlExpired) |
//! | another key than the pinned one | [`PinMismatch`](crate::tls::CertificateProblem::PinMismatch) |
//!
//! The last six are a [`CertificateProblem`](crate::tls::CertificateProblem) behind
//! [`OriginateError::Certificate`](crate::tls::OriginateError::Certificate), with
//! [`WrongIdentity`](crate::net::WrongIdentity) in between: a check that meets one takes the backend
//! out at once. Checks are the same layer under a [`DialProbe`](crate::balance::DialProbe), without
//! sessions, for in a resumed one no certificate is shown.
//!
//! An answer whose end is the end of the connection is complete only if the backend has said so
//! (close_notify). Otherwise the client gets an error, where HAProxy and nginx pass on a part as the
//! whole.
//!
//! # HTTP/2 towards backends
//!
//! [`BackendProtocol`](crate::http::BackendProtocol) chooses: HTTP/1.1, HTTP/2, or what ALPN agrees
//! on. Connections of HTTP/2 are shared by requests, up to the number of streams that the backend
//! grants; when there are more requests, there are more connections. A backend that ends a connection
//! says which requests it has not looked at (nginx does so every 1,000): those are sent again on
//! another one, a POST as well as a GET, if no more than 16 KiB of the body has gone.
//!
//! # Keys that live elsewhere
//!
//! A private key need not be in the process that terminates or originates TLS.
//! [`Identity::with_signer`](crate::tls::Identity::with_signer) takes the chain and a tower service that
//! signs. [`UnixSigner`](crate::tls::UnixSigner) and [`KeyServer`](crate::tls::KeyServer) are the two ends
//! of a Unix socket, which check each other's user; the key server signs what TLS handshakes sign and
//! nothing else, so whoever takes over the front can neither read the key nor use it for anything but
//! handshakes while it is there. The example `key_server` has both processes in one file. Handshakes
//! with such a key run on threads of their own, because rustls signs synchronously; those with local
//! keys do not notice.
//!
//! A whole handshake of TLS 1.3, both ends of it, took 0.7 ms with a P-256 key at hand and 1.3 ms with
//! the same key behind the socket (two cores, 2026-11-22): 1.8 times as long, most of it waiting for
//! threads to wake. `cargo bench -p bartizan-benches --bench signing` prints both.
//!
//! # What it costs
//!
//! Per request, re-encryption with a verified name and a client certificate takes about as much CPU
//! time as HAProxy's (the README has the figure, `benches/versus_haproxy.py reencrypt-small` prints
//! it). Reconnecting costs a resumed handshake: `cargo test -p bartizan-tls --lib 99_percent -- --nocapture` prints how
//! many of 150 reconnects were, for TLS 1.2 and 1.3, with client certificates and without.

#[cfg(doc)]
use crate::prelude::*;
