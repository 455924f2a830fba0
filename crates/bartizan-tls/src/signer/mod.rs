//! Private keys that live elsewhere: the seam between a handshake and whoever signs for it.
//!
//! ```text
//! handshake thread                       driver thread
//! rustls ─▶ RemoteKey::sign ─ SignRequest ─▶ the service (UnixSigner, or one's own)
//!           blocks, with a deadline ◀─ Signature ─┘
//! ```
//!
//! rustls signs synchronously, so whoever polls the handshake waits for the signature. That is why
//! such handshakes are polled on a [`HandshakeRuntime`] and nowhere else, and why the service runs
//! on a thread of its own: the one that waits cannot drive the socket that it waits for.

mod content;
mod driver;
mod error;
#[cfg(unix)]
mod key_server;
mod remote_key;
mod runtime;
#[cfg(unix)]
mod unix_signer;
#[cfg(unix)]
mod wire;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bartizan_net::BoxError;
use rustls::SignatureScheme;
use tower_service::Service;

use crate::Fingerprint;

pub use content::SignedContent;
pub use error::SignerError;
#[cfg(unix)]
pub use key_server::{KeyServer, KeyServerError};
pub use remote_key::RemoteKey;
pub use runtime::{HandshakeRuntime, HandshakeRuntimeError};
pub(crate) use runtime::{RunHandshake, run_handshake};
#[cfg(unix)]
pub use unix_signer::{UnixSigner, UnixSignerError, UnixSigning};
#[cfg(fuzzing)]
pub(crate) use wire::rewritten;
#[cfg(unix)]
pub use wire::{SigningFrameError, SigningRefused};

/// Which key is to sign: the SHA-256 of its public half (SubjectPublicKeyInfo, DER).
///
/// It is the same as an SPKI pin (RFC 7469 §2.4), and stays when a certificate is renewed with the
/// same key. Shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// That of a public key.
    pub fn of_spki(spki: &[u8]) -> Self {
        Self(*Fingerprint::of(spki).as_bytes())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for KeyId {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// What is to be signed, with which key and how.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignRequest {
    /// The key.
    pub key: KeyId,
    /// The algorithm, which says how the message is hashed.
    pub scheme: SignatureScheme,
    /// The message itself, not its hash. What TLS signs is of one of the forms of
    /// [`SignedContent`].
    pub message: Vec<u8>,
}

impl SignRequest {
    /// A request.
    pub fn new(key: KeyId, scheme: SignatureScheme, message: impl Into<Vec<u8>>) -> Self {
        Self { key, scheme, message: message.into() }
    }
}

impl fmt::Debug for SignRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignRequest")
            .field("key", &self.key)
            .field("scheme", &self.scheme)
            .field("message", &self.message.len())
            .finish()
    }
}

/// A signature, in the form that TLS has for its algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is these bytes and will be nothing else")]
pub struct Signature(pub Vec<u8>);

/// A service that signs, with how long a handshake waits for it.
///
/// Any `Service<SignRequest, Response = Signature>` that can be cloned and shared turns into one:
/// [`UnixSigner`], one that asks an HSM, a `service_fn`. It is called from a tokio runtime of its
/// own, with time and IO, on a single thread: a service that blocks holds up all others.
///
/// A call that is late is dropped, which has to cancel it.
#[derive(Clone)]
pub struct RemoteSigner {
    service: Arc<dyn Signs>,
    timeout: Duration,
}

impl RemoteSigner {
    /// Asks `service`, and waits 2 s for each signature.
    pub fn new<S>(service: S) -> Self
    where
        S: Service<SignRequest, Response = Signature> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        Self { service: Arc::new(Shared(service)), timeout: SIGN_TIMEOUT }
    }

    /// How long a handshake waits for a signature, the service's readiness included. Default: 2 s.
    ///
    /// While it waits it holds one thread of the [`HandshakeRuntime`].
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    fn sign(&self, request: SignRequest) -> BoxFuture<Result<Signature, BoxError>> {
        self.service.sign(request)
    }
}

impl<S> From<S> for RemoteSigner
where
    S: Service<SignRequest, Response = Signature> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn from(service: S) -> Self {
        Self::new(service)
    }
}

impl fmt::Debug for RemoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSigner").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A signing service without its type.
trait Signs: Send + Sync {
    fn sign(&self, request: SignRequest) -> BoxFuture<Result<Signature, BoxError>>;
}

struct Shared<S>(S);

impl<S> Signs for Shared<S>
where
    S: Service<SignRequest, Response = Signature> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    fn sign(&self, request: SignRequest) -> BoxFuture<Result<Signature, BoxError>> {
        let mut service = self.0.clone();
        Box::pin(async move {
            poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
            // Not held while it signs: a clone may own a place among few.
            let call = service.call(request);
            drop(service);
            call.await.map_err(Into::into)
        })
    }
}

/// A signer on the same machine answers in less than a millisecond, an HSM in tens of them; and a
/// client that is kept waiting for longer than this tries again.
const SIGN_TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
