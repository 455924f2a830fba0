//! A key that lives elsewhere, as rustls sees it.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::driver::{self, Driver};
use super::{KeyId, RemoteSigner, SignRequest, Signature, SignerError};
use crate::key::kind_of;
use crate::store::KeyKind;

/// The public half of a key whose private half lives elsewhere: a `SigningKey` of rustls.
///
/// [`Identity::with_signer`](crate::Identity::with_signer) makes one out of a certificate. By itself
/// it is for a `ServerConfig` or `ClientConfig` of one's own.
///
/// # Blocking
///
/// To sign, it blocks the thread that polls the handshake until the signature is there, at most for
/// [`RemoteSigner::timeout`]. Handshakes of [`TlsTerminate`](crate::TlsTerminate) are polled on a
/// [`HandshakeRuntime`](crate::HandshakeRuntime) for that reason, and one's own should be kept off a
/// runtime's workers as well. The service itself runs on another thread, which is started for the
/// first signature and ends with the last clone.
#[derive(Clone)]
pub struct RemoteKey(Arc<Inner>);

struct Inner {
    spki: Box<[u8]>,
    id: KeyId,
    kind: KeyKind,
    signer: RemoteSigner,
    /// For who signs on a thread that has none.
    driver: Arc<Driver>,
}

impl RemoteKey {
    /// A key by its public half (SubjectPublicKeyInfo, DER). `signer` is a signing service, or a
    /// [`RemoteSigner`] with another deadline than 2 s.
    ///
    /// # Errors
    ///
    /// [`SignerError::UnsupportedKey`].
    pub fn new(spki: &[u8], signer: impl Into<RemoteSigner>) -> Result<Self, SignerError> {
        let kind = match SubjectPublicKeyInfo::from_der(spki) {
            Ok((&[], info)) => kind_of(&info),
            _ => None,
        };
        let kind = kind.ok_or(SignerError::UnsupportedKey)?;
        Ok(Self(Arc::new(Inner {
            spki: spki.into(),
            id: KeyId::of_spki(spki),
            kind,
            signer: signer.into(),
            driver: Arc::default(),
        })))
    }

    /// What the signer knows it by.
    pub fn id(&self) -> KeyId {
        self.0.id
    }

    fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, SignerError> {
        let Inner { id, signer, driver, .. } = &*self.0;
        let driver = driver::current().unwrap_or_else(|| Arc::clone(driver));
        let call = signer.sign(SignRequest::new(*id, scheme, message));
        let (answer, answered) = sync_channel(1);
        let task = driver.spawn(async move {
            // Nobody waits any more.
            let _ = answer.send(call.await);
        });
        let task = task.map_err(|error| SignerError::Start(Arc::new(error)))?;
        match answered.recv_timeout(signer.timeout) {
            Ok(Ok(Signature(bytes))) => Ok(bytes),
            Ok(Err(error)) => Err(SignerError::Failed(Arc::from(error))),
            Err(RecvTimeoutError::Timeout) => {
                task.abort();
                Err(SignerError::Late { limit: signer.timeout })
            }
            Err(RecvTimeoutError::Disconnected) => Err(SignerError::Panicked),
        }
    }
}

impl fmt::Debug for RemoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKey")
            .field("id", &self.0.id)
            .field("kind", &self.0.kind)
            .finish_non_exhaustive()
    }
}

impl SigningKey for RemoteKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = schemes(self.0.kind).iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(Signing { key: self.clone(), scheme: *scheme }))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(&*self.0.spki))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.kind {
            KeyKind::Rsa => SignatureAlgorithm::RSA,
            KeyKind::Ed25519 => SignatureAlgorithm::ED25519,
            _ => SignatureAlgorithm::ECDSA,
        }
    }
}

/// One signature to be made.
#[derive(Debug)]
struct Signing {
    key: RemoteKey,
    scheme: SignatureScheme,
}

impl Signer for Signing {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.key.sign(self.scheme, message)?)
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

/// What a key can sign with, the preferred scheme first, in rustls' own order.
fn schemes(kind: KeyKind) -> &'static [SignatureScheme] {
    use SignatureScheme as S;
    match kind {
        KeyKind::Rsa => &[
            S::RSA_PSS_SHA512,
            S::RSA_PSS_SHA384,
            S::RSA_PSS_SHA256,
            S::RSA_PKCS1_SHA512,
            S::RSA_PKCS1_SHA384,
            S::RSA_PKCS1_SHA256,
        ],
        KeyKind::P256 => &[S::ECDSA_NISTP256_SHA256],
        KeyKind::P384 => &[S::ECDSA_NISTP384_SHA384],
        KeyKind::P521 => &[S::ECDSA_NISTP521_SHA512],
        KeyKind::Ed25519 => &[S::ED25519],
    }
}
