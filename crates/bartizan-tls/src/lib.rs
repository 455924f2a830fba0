//! TLS as tower layers over rustls, and the certificates that it serves.
//!
//! [`TlsTerminateLayer`] turns a service of plaintext connections into one of TLS connections:
//!
//! ```no_run
//! # use bartizan_tls::{Identity, TlsTerminateLayer};
//! # use bartizan_net::{Conn, serve};
//! # use tower::{Layer, service_fn};
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let hello = service_fn(|conn: Conn<tokio_rustls::server::TlsStream<_>>| async move {
//!     let sni = conn.info().tls().and_then(|tls| tls.sni.clone());
//!     println!("{} asked for {sni:?}", conn.info().peer());
//!     drop::<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>(conn.into_io());
//!     Ok::<_, std::io::Error>(())
//! });
//! let identity = Identity::from_pem_file("/etc/ssl/certs/domain.pem")?;
//! let stack = TlsTerminateLayer::new(identity).layer(hello);
//! serve(tokio::net::TcpListener::bind("[::]:443").await?, stack).await?;
//! # Ok(()) }
//! ```
//!
//! Every configuration names the aws-lc-rs provider itself, so another crate that turns on another
//! provider changes nothing here.

mod admit;
mod certificate_check;
mod certificate_problem;
mod client_auth;
mod coalescing;
mod der;
mod fingerprint;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod generations;
mod identity;
mod key;
mod listener;
mod load;
mod ocsp;
mod originate;
mod peer;
mod pem;
mod pem_source;
mod server_roots;
mod server_trust;
mod signature;
mod signer;
mod stamp;
mod store;
mod terminate;
mod tickets;
mod trust;
mod watch;

pub use admit::{Entering, HandshakeLimit, HandshakeSlot};
pub use certificate_check::{
    CertificateCheck, CertificateCheckError, CertificateCheckFuture, CertificateCheckLayer,
    CheckedCertificate, SameCertificate,
};
pub use certificate_problem::CertificateProblem;
pub use client_auth::ClientAuth;
pub use coalescing::{Coalescing, LintedRoute, lint_routes};
pub use fingerprint::Fingerprint;
pub use generations::SourceError;
pub use identity::Identity;
pub use listener::{TlsConnInfo, TlsConnection, TlsIncoming, TlsListener};
pub use load::{LoadError, LoadProblem};
pub use ocsp::StapleProblem;
pub use originate::{
    CertificateEnded, ClientCredentials, ConnectionExpiry, OriginateError, OriginateFuture,
    OriginatedStream, TlsOriginate, TlsOriginateLayer,
};
pub use pem_source::PemSource;
pub use server_roots::{ServerRoots, SystemRootsError};
pub use server_trust::{
    BadSpiffeId, DangerousNoVerify, Pin, PinError, PresentedCertificate, ServerTrust,
    ServerTrustBuilder,
};
pub use signer::{
    HandshakeRuntime, HandshakeRuntimeError, KeyId, RemoteKey, RemoteSigner, SignRequest,
    Signature, SignedContent, SignerError,
};
#[cfg(unix)]
pub use signer::{
    KeyServer, KeyServerError, SigningFrameError, SigningRefused, UnixSigner, UnixSignerError,
    UnixSigning,
};
pub use store::{
    CertStore, CertStoreBuilder, CertSummary, HostRules, KeyKind, Notice, SettingsError,
    StoreError, StoreStatus, TicketSource, TlsSettings, Withdrawal,
};
pub use terminate::{
    HandshakeCounts, HandshakeError, HandshakeReason, TerminateFuture, TlsTerminate,
    TlsTerminateLayer,
};
pub use tickets::{TicketKeyError, TicketKeyProblem, TicketKeys};
pub use trust::{CrlDepth, CrlExpiry, TrustConcern, TrustNotice, UnknownRevocation};

pub use bartizan_net::clock::Clock;
pub use bartizan_net::{ClientAuthMode, ClientIdentity, ServedCertificate, TlsInfo};

/// The TLS library: what is given to [`TlsTerminateLayer::from_config`],
/// [`TlsSettings::dangerous_key_log`] and [`TicketKeys::ticketer`] is of this version of it.
pub use rustls;
