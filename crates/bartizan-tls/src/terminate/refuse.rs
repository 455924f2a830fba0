//! Telling a client that it is refused.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::HandshakeError;

/// A fatal alert in the clear, which rustls cannot be told to send before it has a certificate.
pub(super) struct Alert {
    record: [u8; 7],
    written: usize,
}

impl Alert {
    pub(super) fn of(error: &HandshakeError) -> Self {
        let description = match error {
            HandshakeError::UnknownName | HandshakeError::NoName => UNRECOGNIZED_NAME,
            HandshakeError::Tls(_) => HANDSHAKE_FAILURE,
            _ => INTERNAL_ERROR,
        };
        // RFC 8446 §5.1 and §6: type, legacy version, length, then level and description.
        Self { record: [21, 3, 3, 0, 2, FATAL, description], written: 0 }
    }

    pub(super) fn poll_write<IO: AsyncWrite>(
        &mut self,
        mut io: Pin<&mut IO>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.record.len() {
            match ready!(io.as_mut().poll_write(cx, &self.record[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        io.poll_flush(cx)
    }
}

/// Ready when the client has closed its side, or has sent more than it is granted.
pub(super) fn poll_discard<IO>(
    mut io: Pin<&mut IO>,
    budget: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<()>
where
    IO: AsyncRead + AsyncWrite,
{
    // An error would be one of the transport, which the reading below tells as well.
    let _ = ready!(io.as_mut().poll_shutdown(cx));
    let mut bytes = [0; 1_024];
    while *budget > 0 {
        let mut buffer = ReadBuf::new(&mut bytes);
        match ready!(io.as_mut().poll_read(cx, &mut buffer)) {
            Ok(()) if !buffer.filled().is_empty() => {
                *budget = budget.saturating_sub(buffer.filled().len());
            }
            _ => break,
        }
    }
    Poll::Ready(())
}

const FATAL: u8 = 2;
const HANDSHAKE_FAILURE: u8 = 40;
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;
