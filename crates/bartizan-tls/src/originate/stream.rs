//! The stream to a backend.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bartizan_net::{DialledStream, PeerIdentity, Validity};
use rustls::client::ClientConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_rustls::client::TlsStream;

/// A TLS stream to a backend whose certificate was verified.
///
/// An end without close_notify is an error ([`io::ErrorKind::UnexpectedEof`]): what came so far may
/// be cut short. Shutting down sends close_notify.
pub struct OriginatedStream<IO> {
    tls: TlsStream<IO>,
    peer: Option<PeerIdentity>,
    validity: Validity,
    // When the connection has to be over, if it has to.
    cut: Option<Pin<Box<Sleep>>>,
}

impl<IO> OriginatedStream<IO> {
    pub(super) fn new(
        tls: TlsStream<IO>,
        peer: Option<PeerIdentity>,
        validity: Validity,
        cut: Option<Sleep>,
    ) -> Self {
        Self { tls, peer, validity, cut: cut.map(Box::pin) }
    }

    /// What was dialled, and the TLS connection.
    pub fn get_ref(&self) -> (&IO, &ClientConnection) {
        self.tls.get_ref()
    }

    /// The error, when the connection has to be over. Asked whenever it would wait, and with
    /// `passed` alone before it is used: a timer is no more than a flag then.
    fn check(&mut self, cx: &mut Context<'_>, waits: bool) -> io::Result<()> {
        let Some(cut) = &mut self.cut else { return Ok(()) };
        if cut.is_elapsed() || (waits && cut.as_mut().poll(cx).is_ready()) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, CertificateEnded));
        }
        Ok(())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for OriginatedStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx, false)?;
        let read = Pin::new(&mut self.tls).poll_read(cx, buf);
        if read.is_pending() {
            self.check(cx, true)?;
        }
        read
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for OriginatedStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx, false)?;
        let written = Pin::new(&mut self.tls).poll_write(cx, buf);
        if written.is_pending() {
            self.check(cx, true)?;
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(cx, false)?;
        let written = Pin::new(&mut self.tls).poll_write_vectored(cx, bufs);
        if written.is_pending() {
            self.check(cx, true)?;
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.tls).poll_flush(cx);
        if flushed.is_pending() {
            self.check(cx, true)?;
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

impl<IO> DialledStream for OriginatedStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn alpn(&self) -> Option<&[u8]> {
        self.tls.get_ref().1.alpn_protocol()
    }

    fn peer_identity(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    fn validity(&self) -> Validity {
        self.validity.clone()
    }
}

impl<IO> fmt::Debug for OriginatedStream<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OriginatedStream")
            .field("peer", &self.peer)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

/// A connection to a backend was cut because the certificate has expired that it was verified with,
/// the backend's or the one that the backend was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the connection was cut, because the certificate has expired that it was made with; renew \
     certificates before they expire"
)]
#[non_exhaustive]
pub struct CertificateEnded;
