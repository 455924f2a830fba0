//! The protocol of the key server, as bytes.
//!
//! A client sends a request and waits for the answer, then may send the next. Numbers are
//! big-endian; a frame of another version or length ends the connection.
//!
//! ```text
//! request:  version (1 byte, 1) │ length of the rest (2) │ scheme (2) │ key id (32) │ message
//! answer:   version (1 byte, 1) │ length of the rest (2) │ status (1) │ signature if status is 0
//! ```
//!
//! The scheme is TLS' `SignatureScheme`; the key id is the SHA-256 of the public half.

use rustls::SignatureScheme;

use super::{KeyId, SignRequest};

/// Why a key server does not sign. It goes over the wire as its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
#[repr(u8)]
pub enum SigningRefused {
    /// It does not have the key.
    #[error("the key server does not have this key; give it the file of the certificate's key")]
    UnknownKey = 1,
    /// The message is nothing that it signs.
    #[error("the key server does not sign such content, only what TLS handshakes sign")]
    Content = 2,
    /// The key cannot sign so.
    #[error("the key server cannot use this signature scheme with this key")]
    Scheme = 3,
    /// It has as many connections as it may.
    #[error("the key server is busy; allow it more connections, or ask over fewer")]
    Busy = 4,
    /// The cryptography failed.
    #[error("the key server failed to sign; its log says why")]
    Failed = 5,
    /// The client's user may not use it.
    #[error("the key server does not serve this user; allow the user id of this process there")]
    Forbidden = 6,
}

impl SigningRefused {
    const ALL: [Self; 6] =
        [Self::UnknownKey, Self::Content, Self::Scheme, Self::Busy, Self::Failed, Self::Forbidden];
}

/// Bytes that are no frame of the key server's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SigningFrameError {
    /// Another version, or another protocol.
    #[error("the frame is of version {0}, not of {VERSION}; run the same release on both sides")]
    Version(u8),
    /// Shorter than anything that makes sense.
    #[error("the frame is cut: {0} bytes")]
    Short(usize),
    /// Longer than is allowed.
    #[error("the frame is of {len} bytes, of which {limit} are allowed")]
    Long {
        /// Its length.
        len: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A status that is not known.
    #[error("the answer has the unknown status {0}; run the same release on both sides")]
    Status(u8),
}

/// A request as a frame.
pub(super) fn request(request: &SignRequest) -> Result<Vec<u8>, SigningFrameError> {
    let scheme = u16::from(request.scheme).to_be_bytes();
    frame(&[&scheme, request.key.as_bytes(), &request.message])
}

/// An answer as a frame.
pub(super) fn answer(answer: Result<&[u8], SigningRefused>) -> Result<Vec<u8>, SigningFrameError> {
    match answer {
        Ok(signature) => frame(&[&[SIGNED], signature]),
        Err(refused) => frame(&[&[refused as u8]]),
    }
}

/// The length of what follows the head of a frame; `None` while the head is not whole.
pub(super) fn body_len(bytes: &[u8], limit: usize) -> Result<Option<usize>, SigningFrameError> {
    match bytes {
        [] => Ok(None),
        [VERSION, high, low, ..] => match usize::from(u16::from_be_bytes([*high, *low])) {
            len if len > limit => Err(SigningFrameError::Long { len, limit }),
            len => Ok(Some(len)),
        },
        [VERSION, ..] => Ok(None),
        [other, ..] => Err(SigningFrameError::Version(*other)),
    }
}

/// The body of a frame that begins `bytes`; `None` while it is not whole.
pub(super) fn body(bytes: &[u8], limit: usize) -> Result<Option<&[u8]>, SigningFrameError> {
    let Some(len) = body_len(bytes, limit)? else { return Ok(None) };
    Ok(bytes.get(HEAD..HEAD + len))
}

pub(super) fn read_request(body: &[u8]) -> Result<SignRequest, SigningFrameError> {
    let Some(([a, b, key @ ..], message)) = body.split_first_chunk::<{ 2 + 32 }>() else {
        return Err(SigningFrameError::Short(body.len()));
    };
    let mut id = [0; 32];
    id.copy_from_slice(key);
    let scheme = SignatureScheme::from(u16::from_be_bytes([*a, *b]));
    Ok(SignRequest::new(KeyId::from(id), scheme, message))
}

pub(super) fn read_answer(
    body: &[u8],
) -> Result<Result<Vec<u8>, SigningRefused>, SigningFrameError> {
    match body {
        [] => Err(SigningFrameError::Short(0)),
        [SIGNED, signature @ ..] if !signature.is_empty() => Ok(Ok(signature.to_vec())),
        [SIGNED] => Err(SigningFrameError::Short(1)),
        [status, ..] => {
            let refused = SigningRefused::ALL.into_iter().find(|refused| *refused as u8 == *status);
            refused.map(Err).ok_or(SigningFrameError::Status(*status))
        }
    }
}

/// The request that `bytes` begin with, written once more.
#[cfg(fuzzing)]
pub(crate) fn rewritten(bytes: &[u8]) -> Option<Vec<u8>> {
    let read = read_request(body(bytes, usize::from(u16::MAX)).ok()??).ok()?;
    request(&read).ok()
}

fn frame(parts: &[&[u8]]) -> Result<Vec<u8>, SigningFrameError> {
    let len = parts.iter().map(|part| part.len()).sum();
    let Ok(short) = u16::try_from(len) else {
        return Err(SigningFrameError::Long { len, limit: usize::from(u16::MAX) });
    };
    let mut frame = Vec::with_capacity(HEAD + len);
    frame.push(VERSION);
    frame.extend(short.to_be_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    Ok(frame)
}

const VERSION: u8 = 1;

/// Version and length.
const HEAD: usize = 3;

const SIGNED: u8 = 0;

/// The body of a request with what TLS 1.3, or ServerKeyExchange, has signed takes 235 bytes at the
/// most; there is room for what is refused for its content, to say so.
pub(super) const REQUEST_LIMIT: usize = 4096;

/// The transcript of TLS 1.2 has the certificates of both sides in it.
pub(super) const TRANSCRIPT_LIMIT: usize = 32 * 1024;

/// The signature of an RSA key with 16,384 bits takes 2,048 bytes.
pub(super) const ANSWER_LIMIT: usize = 4096;

#[cfg(test)]
mod tests;
