//! Asking a key server on a Unix socket.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower_service::Service;

use super::wire::{self, SigningFrameError, SigningRefused};
use super::{BoxFuture, SignRequest, Signature};

/// Signs by asking a [`KeyServer`](crate::KeyServer) on a Unix socket.
///
/// Clones share their connections, of which there are a few and which stay open. One that the key
/// server has closed, because it was started again for instance, is replaced at once, and the
/// request is sent again: to sign twice does no harm.
///
/// Before anything is sent the user id of the process at the other end is compared with the one
/// that is expected, so that nobody who got hold of the path is taken for the key server. (It is the
/// one that the process had when it began to listen.) The key server compares in the same way.
#[derive(Clone)]
pub struct UnixSigner {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    expected: Option<u32>,
    timeout: Duration,
    places: Semaphore,
    idle: Mutex<Vec<UnixStream>>,
}

impl UnixSigner {
    /// Asks the key server at `path`, which has to run as the same user. Nothing is connected yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self::with(path.into(), None, TIMEOUT, CONNECTIONS)
    }

    /// Expects the key server to run as the user `uid`. Default: the effective user of this process.
    pub fn expect_uid(self, uid: u32) -> Self {
        let Shared { path, timeout, places, .. } = &*self.shared;
        Self::with(path.clone(), Some(uid), *timeout, places.available_permits())
    }

    /// Gives up on a signature after `limit`, connecting included. Default: 5 s.
    ///
    /// A handshake waits as [`RemoteSigner::timeout`](crate::RemoteSigner::timeout) says, if that is
    /// shorter, as it is by default.
    pub fn timeout(self, limit: Duration) -> Self {
        let Shared { path, expected, places, .. } = &*self.shared;
        Self::with(path.clone(), *expected, limit, places.available_permits())
    }

    /// Has at most `count` connections (at least 1); further requests wait. Default: 4.
    pub fn connections(self, count: usize) -> Self {
        let Shared { path, expected, timeout, .. } = &*self.shared;
        Self::with(path.clone(), *expected, *timeout, count)
    }

    fn with(path: PathBuf, expected: Option<u32>, timeout: Duration, count: usize) -> Self {
        let places = Semaphore::new(count.clamp(1, Semaphore::MAX_PERMITS));
        Self {
            shared: Arc::new(Shared { path, expected, timeout, places, idle: Mutex::default() }),
        }
    }
}

impl fmt::Debug for UnixSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixSigner").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Service<SignRequest> for UnixSigner {
    type Response = Signature;
    type Error = UnixSignerError;
    type Future = UnixSigning;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), UnixSignerError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: SignRequest) -> UnixSigning {
        let shared = Arc::clone(&self.shared);
        UnixSigning {
            signing: Box::pin(async move {
                let limit = shared.timeout;
                let signed = timeout(limit, shared.sign(&request)).await;
                signed.unwrap_or(Err(UnixSignerError::Late { limit }))
            }),
        }
    }
}

impl Shared {
    async fn sign(&self, request: &SignRequest) -> Result<Signature, UnixSignerError> {
        let frame = wire::request(request).map_err(UnixSignerError::Request)?;
        // Never closed.
        let _place = self.places.acquire().await.ok();
        while let Some(mut connection) = self.take_idle() {
            match exchange(&mut connection, &frame).await {
                // Closed since it was used: others may still be good, a new one is at last.
                Err(UnixSignerError::Lost(_)) => {}
                done => return self.finish(connection, done),
            }
        }
        let mut connection = self.connect().await?;
        let done = exchange(&mut connection, &frame).await;
        self.finish(connection, done)
    }

    /// Keeps the connection for the next request if it is between two frames.
    fn finish(
        &self,
        connection: UnixStream,
        done: Result<Vec<u8>, UnixSignerError>,
    ) -> Result<Signature, UnixSignerError> {
        let closes = |refused| matches!(refused, SigningRefused::Busy | SigningRefused::Forbidden);
        let usable = match &done {
            Ok(_) => true,
            Err(UnixSignerError::Refused(refused)) => !closes(*refused),
            Err(_) => false,
        };
        if usable {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        done.map(Signature)
    }

    fn take_idle(&self) -> Option<UnixStream> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    async fn connect(&self) -> Result<UnixStream, UnixSignerError> {
        let wrong = |source| UnixSignerError::Connect { path: self.path.clone(), source };
        let connection = UnixStream::connect(&self.path).await.map_err(wrong)?;
        let uid = connection.peer_cred().map_err(wrong)?.uid();
        let expected = self.expected.map_or_else(own_uid, Ok).map_err(wrong)?;
        check_server(&self.path, uid, expected)?;
        Ok(connection)
    }
}

fn check_server(path: &Path, uid: u32, expected: u32) -> Result<(), UnixSignerError> {
    if uid == expected {
        return Ok(());
    }
    Err(UnixSignerError::Impostor { path: path.to_owned(), uid, expected })
}

async fn exchange(connection: &mut UnixStream, frame: &[u8]) -> Result<Vec<u8>, UnixSignerError> {
    // A server that refuses the client closes without reading; its answer is there all the same.
    let written = connection.write_all(frame).await;
    let mut bytes = Vec::new();
    loop {
        if let Some(body) = wire::body(&bytes, wire::ANSWER_LIMIT)? {
            return Ok(wire::read_answer(body)??);
        }
        let read = connection.read_buf(&mut bytes).await.map_err(UnixSignerError::Lost)?;
        if read == 0 {
            written.map_err(UnixSignerError::Lost)?;
            return Err(UnixSignerError::Lost(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// The effective user id of this process: whoever is at the other end of a pair of sockets.
pub(super) fn own_uid() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

/// Resolves to the signature.
///
/// Cancel safe: the connection of a request that is dropped is closed.
#[must_use = "futures do nothing unless polled"]
pub struct UnixSigning {
    signing: BoxFuture<Result<Signature, UnixSignerError>>,
}

impl Future for UnixSigning {
    type Output = Result<Signature, UnixSignerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.signing.as_mut().poll(cx)
    }
}

impl fmt::Debug for UnixSigning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnixSigning").finish_non_exhaustive()
    }
}

/// The key server gave no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnixSignerError {
    /// There is no connection to be had: the key server does not run, or its socket is elsewhere.
    #[error("no connection to the key server at {}; see whether it runs", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },

    /// Another user listens on the socket. Nothing was sent to it.
    #[error(
        "what listens on {} runs as user {uid}, not as {expected}; if that is the key server, \
         expect its user id", path.display()
    )]
    Impostor {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Whose it has to be.
        expected: u32,
    },

    /// The connection broke before the answer was whole.
    #[error("the key server has closed the connection; its log says why")]
    Lost(#[source] io::Error),

    /// What is to be signed does not fit into a request.
    #[error("the request cannot be sent to the key server")]
    Request(#[source] SigningFrameError),

    /// The answer is none.
    #[error("what the key server answers is not of its protocol")]
    Answer(#[from] SigningFrameError),

    /// It does not sign.
    #[error(transparent)]
    Refused(#[from] SigningRefused),

    /// No answer in time.
    #[error("the key server has not answered within {limit:?}")]
    Late {
        /// How long was waited.
        limit: Duration,
    },
}

/// Longer than a handshake waits, whose own deadline is the one to be told of then.
const TIMEOUT: Duration = Duration::from_secs(5);

/// As many as a `HandshakeRuntime` has threads: each waits for one signature.
const CONNECTIONS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_is_no_key_server() {
        assert!(check_server(Path::new("/s"), 7, 7).is_ok());
        let error = check_server(Path::new("/s"), 8, 7).unwrap_err().to_string();
        assert!(error.starts_with("what listens on /s runs as user 8, not as 7"), "{error}");
    }
}
