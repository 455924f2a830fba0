//! What a [`TlsListener`](super::TlsListener) accepts.

use std::io::{self, IoSlice};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_net::{ClientIdentity, Conn, ConnInfo, DrainWatch};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::tie::{Holder, Side};

/// An accepted connection whose TLS handshake is done.
///
/// It reads and writes plaintext. When it is withdrawn (see
/// [`Withdrawal`](crate::Withdrawal)), or the listener's drain closes, what reads or writes then
/// fails with [`ConnectionAborted`](io::ErrorKind::ConnectionAborted), a wait that is under way
/// included. A server ends the connection for that.
#[derive(Debug)]
pub struct TlsConnection<IO = TcpStream> {
    io: TlsStream<IO>,
    info: TlsConnInfo,
    drain: DrainWatch,
    holder: Holder,
}

impl<IO> TlsConnection<IO> {
    pub(super) fn new(conn: Conn<TlsStream<IO>>, holder: Holder) -> Self {
        let (io, info, drain) = conn.into_parts();
        Self { io, info: TlsConnInfo(Arc::new(info)), drain, holder }
    }

    /// What is known of the connection: addresses, server name, the client's identity.
    pub fn info(&self) -> &Arc<ConnInfo> {
        &self.info.0
    }

    /// The same, as it comes with requests.
    #[cfg(any(feature = "axum", feature = "tonic"))]
    pub(super) fn conn_info(&self) -> TlsConnInfo {
        self.info.clone()
    }

    /// Says when the connection should finish what it does: when it is withdrawn, which leaves it
    /// some time before it is cut, or with the listener's drain.
    ///
    /// For servers of one's own: neither axum nor tonic can be asked to end one connection.
    pub fn drain(&self) -> DrainWatch {
        self.drain.clone()
    }

    /// Polls the stream, unless and until the connection is cut.
    fn poll<T>(
        self: Pin<&mut Self>,
        side: Side,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut TlsStream<IO>>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>>
    where
        IO: Unpin,
    {
        let this = self.get_mut();
        if this.holder.is_cut() {
            return Poll::Ready(Err(cut()));
        }
        match poll(Pin::new(&mut this.io), cx) {
            // Only who waits has to be woken.
            Poll::Pending if this.holder.watch(side, cx) => Poll::Ready(Err(cut())),
            polled => polled,
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsConnection<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(Side::Read, cx, |io, cx| io.poll_read(cx, buf))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsConnection<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(Side::Write, cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(Side::Write, cx, |io, cx| io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(Side::Write, cx, TlsStream::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(Side::Write, cx, TlsStream::poll_shutdown)
    }
}

/// What is known of the connection that a request came by: a [`ConnInfo`] that comes with it.
///
/// In axum it is extracted as `ConnectInfo<TlsConnInfo>`, in tonic it is among the request's
/// extensions.
#[derive(Clone, Debug)]
pub struct TlsConnInfo(Arc<ConnInfo>);

impl TlsConnInfo {
    /// Who the client has proven to be; `None` if it showed no certificate.
    pub fn client(&self) -> Option<&ClientIdentity> {
        self.0.tls()?.client.as_deref()
    }

    /// The server name that the client asked for (SNI), if it named one.
    pub fn sni(&self) -> Option<&str> {
        self.0.tls()?.sni.as_deref()
    }

    /// The same as `Arc<ConnInfo>`, which this project's own layers look for in the extensions of a
    /// request.
    ///
    /// Neither axum nor tonic puts it there. In front of a `HostGuard` (`bartizan-http`), which
    /// [rules by name](crate::HostRules::client_auth) need, a middleware has to.
    pub fn into_inner(self) -> Arc<ConnInfo> {
        self.0
    }
}

impl Deref for TlsConnInfo {
    type Target = ConnInfo;

    fn deref(&self) -> &ConnInfo {
        &self.0
    }
}

impl From<Arc<ConnInfo>> for TlsConnInfo {
    fn from(info: Arc<ConnInfo>) -> Self {
        Self(info)
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the TLS connection was ended by the server")
}
