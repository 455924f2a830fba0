//! What connection services are called with.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;

use crate::host_scope::Both;
use crate::{DrainWatch, HostScope, TlsInfo};

/// An accepted stream, what is known of it, and the drain that it has to obey.
///
/// Layers unwrap the stream and wrap it again ([`map_io`](Self::map_io)), and add what they learn
/// to the [`ConnInfo`].
#[derive(Debug)]
pub struct Conn<IO> {
    io: IO,
    info: ConnInfo,
    drain: DrainWatch,
}

impl<IO> Conn<IO> {
    /// A connection that no drain ends. The accept loop of [`serve`](crate::serve) adds its own.
    pub fn new(io: IO, info: ConnInfo) -> Self {
        Self { io, info, drain: DrainWatch::never() }
    }

    /// Makes the connection obey `drain`, in place of the one that it has. To obey both, it takes
    /// [`DrainWatch::or`].
    pub fn with_drain(self, drain: DrainWatch) -> Self {
        Self { drain, ..self }
    }

    /// The stream.
    pub fn io(&self) -> &IO {
        &self.io
    }

    /// The stream, to read from or write to.
    pub fn io_mut(&mut self) -> &mut IO {
        &mut self.io
    }

    /// What is known of the connection.
    pub fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// What is known of the connection, to add to it.
    pub fn info_mut(&mut self) -> &mut ConnInfo {
        &mut self.info
    }

    /// A watch on the drain that this connection has to obey.
    pub fn drain(&self) -> DrainWatch {
        self.drain.clone()
    }

    /// Replaces the stream and keeps the rest.
    pub fn map_io<T>(self, wrap: impl FnOnce(IO) -> T) -> Conn<T> {
        Conn { io: wrap(self.io), info: self.info, drain: self.drain }
    }

    /// The stream alone.
    pub fn into_io(self) -> IO {
        self.io
    }

    /// The stream, what is known of it, and its drain. [`new`](Self::new) and
    /// [`with_drain`](Self::with_drain) put them together again.
    pub fn into_parts(self) -> (IO, ConnInfo, DrainWatch) {
        (self.io, self.info, self.drain)
    }
}

/// What is known of an accepted connection.
///
/// HTTP servers of this project put it, as `Arc<ConnInfo>`, into the extensions of each request.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    peer: SocketAddr,
    local: SocketAddr,
    tls: Option<TlsInfo>,
    host_scope: Option<Arc<dyn HostScope>>,
    peer_text: OnceLock<HeaderValue>,
}

impl ConnInfo {
    /// A connection from `peer`, accepted at `local`.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            peer: canonical(peer),
            local: canonical(local),
            tls: None,
            host_scope: None,
            peer_text: OnceLock::new(),
        }
    }

    /// The client's address. An IPv4 client of an IPv6 socket has its IPv4 address here.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address that the client connected to.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What the TLS handshake established; `None` on a connection without TLS.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_ref()
    }

    /// Records a finished TLS handshake.
    pub fn set_tls(&mut self, tls: TlsInfo) {
        self.tls = Some(tls);
    }

    /// Which hosts may be asked for over this connection; `None` if nobody has said.
    pub fn host_scope(&self) -> Option<&dyn HostScope> {
        self.host_scope.as_deref()
    }

    /// Records which hosts may be asked for. What earlier layers have recorded stays in force: only
    /// what all of them permit is permitted.
    pub fn add_host_scope(&mut self, scope: Arc<dyn HostScope>) {
        self.host_scope = Some(match self.host_scope.take() {
            Some(earlier) => Arc::new(Both(earlier, scope)),
            None => scope,
        });
    }

    /// The client's IP address as text for a header, formatted once per connection.
    pub fn peer_ip_text(&self) -> &HeaderValue {
        self.peer_text.get_or_init(|| {
            let text = self.peer.ip().to_string();
            HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        })
    }
}

/// Reads the [`ConnInfo`] out of whatever a service is called with.
pub trait HasConnInfo {
    /// What is known of the connection that this came by; `None` if nobody recorded it.
    fn conn_info(&self) -> Option<&ConnInfo>;
}

impl<IO> HasConnInfo for Conn<IO> {
    fn conn_info(&self) -> Option<&ConnInfo> {
        Some(&self.info)
    }
}

impl<B> HasConnInfo for http::Request<B> {
    fn conn_info(&self) -> Option<&ConnInfo> {
        self.extensions().get::<Arc<ConnInfo>>().map(|info| &**info)
    }
}

/// An IPv4-mapped IPv6 address is an IPv4 address to everybody who reads logs and headers.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_shown_as_ipv4() {
        let info =
            ConnInfo::new("[::ffff:192.0.2.7]:5000".parse().unwrap(), "[::]:443".parse().unwrap());
        assert_eq!(info.peer(), "192.0.2.7:5000".parse().unwrap());
        assert_eq!(info.peer_ip_text(), "192.0.2.7");
    }

    #[test]
    fn a_request_carries_the_info_in_its_extensions() {
        let mut request = http::Request::new(());
        assert!(request.conn_info().is_none());
        let addr = "192.0.2.7:5000".parse().unwrap();
        request.extensions_mut().insert(Arc::new(ConnInfo::new(addr, addr)));
        assert_eq!(request.conn_info().unwrap().peer(), addr);
    }
}
