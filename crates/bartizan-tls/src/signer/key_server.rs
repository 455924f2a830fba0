//! The process that has the keys, and signs for others on a Unix socket.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::unix_signer::own_uid;
use super::wire::{self, SigningFrameError, SigningRefused};
use super::{KeyId, SignRequest, SignedContent};
use crate::load::{self, LoadError, LoadProblem};
use crate::pem;
use crate::store::take_key;

/// Has private keys, and signs with them for processes of the users that it allows: the other side
/// of [`UnixSigner`](crate::UnixSigner).
///
/// ```no_run
/// # use bartizan_tls::KeyServer;
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let socket = tokio::net::UnixListener::bind("/run/keys/sock")?;
/// KeyServer::new().pem_file("site.key")?.serve(socket, std::future::pending()).await?;
/// # Ok(()) }
/// ```
///
/// # What it signs
///
/// Only what a TLS handshake signs, see [`SignedContent`]: the server's and the client's
/// CertificateVerify of TLS 1.3 and the server's key exchange of TLS 1.2; what a client signs in
/// TLS 1.2 if that is [allowed](Self::allow_tls12_client_auth). So whoever takes over the front can
/// pass for the site as long as it is there, but gets no key to take along, and no certificate
/// request, token or SSH session signed.
///
/// # Who may ask
///
/// Processes whose effective user is allowed, as the kernel tells it of each connection. The
/// permissions of the socket's file are a second fence: between `bind` and a `chmod` anybody may
/// connect, and is turned away for the user.
///
/// # Bounds
///
/// 64 connections, each with one request of at most 4 KiB at a time (32 KiB where transcripts are
/// allowed); a request that has begun has to be whole within 5 s, and a connection may be idle for
/// 10 minutes. Refusals and broken frames are events of level warn (target `bartizan_tls`). No event
/// has a key or a message in it.
#[derive(Clone)]
#[must_use = "a key server does nothing before it serves"]
pub struct KeyServer {
    keys: HashMap<KeyId, Arc<dyn SigningKey>>,
    uids: Vec<u32>,
    transcripts: bool,
    connections: usize,
}

impl KeyServer {
    /// One without keys, for processes of its own user.
    pub fn new() -> Self {
        Self {
            keys: HashMap::new(),
            uids: Vec::new(),
            transcripts: false,
            connections: CONNECTIONS,
        }
    }

    /// Adds the private key of a PEM file. Certificates may be in it, and are passed over.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which section, and what is wrong.
    pub fn pem_file(self, path: impl AsRef<Path>) -> Result<Self, LoadError> {
        let path = path.as_ref();
        let text = load::read_bytes(path)?;
        self.add(path, &text)
    }

    /// Adds the private key of PEM text. `name` stands for the file in errors.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says which section, and what is wrong.
    pub fn pem(self, name: &str, pem: &[u8]) -> Result<Self, LoadError> {
        self.add(Path::new(name), pem)
    }

    /// Serves processes of the user `uid`. Default: those of its own effective user; once any is
    /// allowed, that one only if it is as well.
    pub fn allow_uid(mut self, uid: u32) -> Self {
        self.uids.push(uid);
        self
    }

    /// Signs transcripts as well, with which TLS 1.2 clients prove who they are. Default: it does
    /// not, since they have no mark that nothing else has.
    pub fn allow_tls12_client_auth(self) -> Self {
        Self { transcripts: true, ..self }
    }

    /// Has at most `count` connections (at least 1). Further ones are told that it is busy. Default:
    /// 64.
    pub fn max_connections(self, count: usize) -> Self {
        Self { connections: count.max(1), ..self }
    }

    /// The keys that it signs with, in no order.
    pub fn key_ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.keys().copied()
    }

    /// Serves `listener` until `shutdown` is done, then finishes the requests that have begun.
    ///
    /// Dropped, it ends at once with all of its connections.
    ///
    /// # Errors
    ///
    /// There is no key, or its own user cannot be told. What fails later is an event.
    pub async fn serve(
        mut self,
        listener: UnixListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), KeyServerError> {
        if self.keys.is_empty() {
            return Err(KeyServerError::NoKey);
        }
        if self.uids.is_empty() {
            self.uids.push(own_uid().map_err(KeyServerError::OwnUser)?);
        }
        let server = Arc::new(self);
        let (end, ending) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((connection, _)) => {
                        let full = connections.len() >= server.connections;
                        let serve = Arc::clone(&server).welcome(connection, full, ending.clone());
                        // Beyond the limit there is one at a time, which is told so and closed.
                        if full { serve.await } else { _ = connections.spawn(serve) }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept for the key server");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(end);
        while connections.join_next().await.is_some() {}
        Ok(())
    }

    fn add(mut self, path: &Path, text: &[u8]) -> Result<Self, LoadError> {
        let (section, key) = take_key(&mut pem::parse(path, text)?)?;
        let bad = |what| LoadError::new(path, Some(section), LoadProblem::BadKey(what));
        let signer = key.signer().map_err(|error| bad(error.to_string()))?;
        let spki = signer.public_key().ok_or_else(|| bad("its public half is missing".into()))?;
        let id = KeyId::of_spki(&spki);
        self.keys.insert(id, signer);
        Ok(self)
    }

    async fn welcome(
        self: Arc<Self>,
        mut connection: UnixStream,
        full: bool,
        ending: watch::Receiver<()>,
    ) {
        let refused = match connection.peer_cred() {
            Ok(peer) if is_allowed(&self.uids, peer.uid()) => full.then_some(SigningRefused::Busy),
            Ok(peer) => {
                let (uid, pid) = (peer.uid(), peer.pid());
                tracing::warn!(uid, pid, "refused a process of a user that is not allowed");
                Some(SigningRefused::Forbidden)
            }
            Err(error) => {
                tracing::warn!(%error, "refused a process whose user cannot be told");
                Some(SigningRefused::Forbidden)
            }
        };
        let Some(refused) = refused else {
            if let Err(error) = self.converse(connection, ending).await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "ended a connection of the key server");
            }
            return;
        };
        if refused == SigningRefused::Busy {
            let limit = self.connections;
            tracing::warn!(limit, "refused a connection beyond the key server's limit");
        }
        if let Ok(frame) = wire::answer(Err(refused)) {
            // It fits into the buffer of a new socket, so this does not wait.
            let _ = connection.try_write(&frame);
            let _ = connection.shutdown().await;
        }
    }

    /// One request after another.
    async fn converse(
        &self,
        mut connection: UnixStream,
        mut ending: watch::Receiver<()>,
    ) -> Result<(), ServeError> {
        let limit = if self.transcripts { wire::TRANSCRIPT_LIMIT } else { wire::REQUEST_LIMIT };
        loop {
            let mut bytes = Vec::new();
            // One byte, so that what has begun is told from what has not.
            let mut first = [0];
            let read = tokio::select! {
                biased;
                read = timeout(IDLE, connection.read(&mut first)) => read,
                _ = ending.changed() => return Ok(()),
            };
            match read {
                Ok(Ok(0)) | Err(_) => return Ok(()),
                Ok(read) => _ = read?,
            }
            bytes.push(first[0]);
            let rest = timeout(REQUEST_TIME, read_rest(&mut connection, &mut bytes, limit)).await;
            let request = rest.map_err(|_| ServeError::Slow)??;
            let signed = self.sign(&request);
            let frame = wire::answer(signed.as_deref().map_err(|refused| *refused))?;
            let written = timeout(REQUEST_TIME, connection.write_all(&frame)).await;
            written.map_err(|_| ServeError::Slow)??;
        }
    }

    fn sign(&self, request: &SignRequest) -> Result<Vec<u8>, SigningRefused> {
        let signed = self.try_sign(request);
        let (key, scheme, bytes) = (request.key, request.scheme, request.message.len());
        match &signed {
            Ok(_) => tracing::debug!(%key, ?scheme, bytes, "signed"),
            Err(refused) => tracing::warn!(%key, ?scheme, bytes, %refused, "refused to sign"),
        }
        signed
    }

    fn try_sign(&self, request: &SignRequest) -> Result<Vec<u8>, SigningRefused> {
        let key = self.keys.get(&request.key).ok_or(SigningRefused::UnknownKey)?;
        let content = SignedContent::of(&request.message).ok_or(SigningRefused::Content)?;
        if content == SignedContent::Tls12Transcript && !self.transcripts {
            return Err(SigningRefused::Content);
        }
        if content.is_tls13() && is_pkcs1(request.scheme) {
            return Err(SigningRefused::Scheme);
        }
        let signer = key.choose_scheme(&[request.scheme]).ok_or(SigningRefused::Scheme)?;
        signer.sign(&request.message).map_err(|error| {
            tracing::error!(key = %request.key, %error, "a key failed to sign");
            SigningRefused::Failed
        })
    }
}

impl Default for KeyServer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for KeyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyServer")
            .field("keys", &self.keys.len())
            .field("uids", &self.uids)
            .finish_non_exhaustive()
    }
}

fn is_allowed(uids: &[u32], peer: u32) -> bool {
    uids.contains(&peer)
}

fn is_pkcs1(scheme: SignatureScheme) -> bool {
    use SignatureScheme as S;
    matches!(scheme, S::RSA_PKCS1_SHA256 | S::RSA_PKCS1_SHA384 | S::RSA_PKCS1_SHA512)
}

async fn read_rest(
    connection: &mut UnixStream,
    bytes: &mut Vec<u8>,
    limit: usize,
) -> Result<SignRequest, ServeError> {
    loop {
        if let Some(body) = wire::body(bytes, limit)? {
            return Ok(wire::read_request(body)?);
        }
        if connection.read_buf(bytes).await? == 0 {
            return Err(SigningFrameError::Short(bytes.len()).into());
        }
    }
}

/// Why a connection ended that should have gone on.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("the request is broken: {0}")]
    Frame(#[from] SigningFrameError),
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the client took longer than {REQUEST_TIME:?} to send a request or to take an answer")]
    Slow,
}

/// A key server cannot serve. The operator's fault.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyServerError {
    /// There is nothing to sign with.
    #[error("the key server has no key; add one")]
    NoKey,
    /// The system does not tell whose process this is.
    #[error("the user of this process cannot be told; allow user ids by name")]
    OwnUser(#[source] io::Error),
}

/// Sixteen fronts with the connections that each has by default.
const CONNECTIONS: usize = 64;

/// A front writes a request at once; longer than this it has hung.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// A front that has no handshakes for this long can connect again.
const IDLE: Duration = Duration::from_secs(600);

/// Without descriptors, the next attempt fails as well unless something ends meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests;
