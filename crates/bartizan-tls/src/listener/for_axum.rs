//! A listener for `axum::serve`.

use std::future::pending;
use std::io;
use std::net::SocketAddr;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, TapIo};
use bartizan_net::Listener;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{TlsConnInfo, TlsConnection, TlsListener};

/// `axum::serve(TlsListener::new(tcp, certs), router)`. Handlers learn who the client is so:
///
/// ```no_run
/// # use bartizan_tls::{CertStore, TlsConnInfo, TlsListener};
/// use axum::{Router, extract::ConnectInfo, routing::get};
///
/// async fn who(ConnectInfo(conn): ConnectInfo<TlsConnInfo>) -> String {
///     format!("hello {:?}", conn.client())
/// }
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// # let tcp = tokio::net::TcpListener::bind("[::]:443").await?;
/// # let certs = CertStore::watch("/etc/ssl/certs/site")?;
/// let router = Router::new().route("/", get(who));
/// let service = router.into_make_service_with_connect_info::<TlsConnInfo>();
/// axum::serve(TlsListener::new(tcp, certs), service).await?;
/// # Ok(()) }
/// ```
///
/// Without axum's feature `http2`, the store is to agree on nothing but `http/1.1`.
///
/// After the end of a drain it accepts nothing, and stays so: `with_graceful_shutdown` is what ends
/// the server.
impl<L> axum::serve::Listener for TlsListener<L>
where
    L: Listener + Send + 'static,
    L::Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Io = TlsConnection<L::Io>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match Self::accept(self).await {
            Some(connection) => {
                let peer = connection.info().peer();
                (connection, peer)
            }
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

/// For `into_make_service_with_connect_info::<TlsConnInfo>()`.
impl<L> Connected<IncomingStream<'_, TlsListener<L>>> for TlsConnInfo
where
    L: Listener + Send + 'static,
    L::Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    fn connect_info(stream: IncomingStream<'_, TlsListener<L>>) -> Self {
        stream.io().conn_info()
    }
}

/// The same behind `tap_io`.
impl<L, F> Connected<IncomingStream<'_, TapIo<TlsListener<L>, F>>> for TlsConnInfo
where
    L: Listener + Send + 'static,
    L::Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: FnMut(&mut TlsConnection<L::Io>) + Send + 'static,
{
    fn connect_info(stream: IncomingStream<'_, TapIo<TlsListener<L>, F>>) -> Self {
        stream.io().conn_info()
    }
}
