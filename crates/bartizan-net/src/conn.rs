//! What connection services are called with.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;

use crate::host_scope::Both;
use crate::{ClientHello, DrainWatch, HostScope, ProxyHeader, TlsInfo};

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
    socket_peer: SocketAddr,
    socket_local: SocketAddr,
    proxy_header: Option<Arc<ProxyHeader>>,
    client_hello: Option<Arc<ClientHello>>,
    tls: Option<TlsInfo>,
    host_scope: Option<Arc<dyn HostScope>>,
    peer_text: OnceLock<HeaderValue>,
}

impl ConnInfo {
    /// A connection from `peer`, accepted at `local`.
    pub fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        let (peer, local) = (canonical(peer), canonical(local));
        Self {
            peer,
            local,
            socket_peer: peer,
            socket_local: local,
            proxy_header: None,
            client_hello: None,
            tls: None,
            host_scope: None,
            peer_text: OnceLock::new(),
        }
    }

    /// The client's address, which a PROXY header may have told. An IPv4 client of an IPv6 socket
    /// has its IPv4 address here.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address that the client connected to, which a PROXY header may have told.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The address at the other end of the socket: of the client, or of a proxy in front.
    pub fn socket_peer(&self) -> SocketAddr {
        self.socket_peer
    }

    /// The address at this end of the socket.
    pub fn socket_local(&self) -> SocketAddr {
        self.socket_local
    }

    /// The PROXY header that the connection began with; `None` if it had none, or if none was read.
    pub fn proxy_header(&self) -> Option<&Arc<ProxyHeader>> {
        self.proxy_header.as_ref()
    }

    /// Records a PROXY header. If it speaks for a connection over TCP or UDP, [`peer`](Self::peer)
    /// and [`local`](Self::local) are its ends from now on; if not, they are those of the socket.
    pub fn set_proxy_header(&mut self, header: Arc<ProxyHeader>) {
        let (peer, local) = header.endpoints().unwrap_or((self.socket_peer, self.socket_local));
        (self.peer, self.local) = (canonical(peer), canonical(local));
        self.peer_text = OnceLock::new();
        self.proxy_header = Some(header);
    }

    /// What the client said first; `None` if it did not begin with TLS, or if nobody has looked.
    pub fn client_hello(&self) -> Option<&Arc<ClientHello>> {
        self.client_hello.as_ref()
    }

    /// Records what the client said first.
    pub fn set_client_hello(&mut self, hello: Arc<ClientHello>) {
        self.client_hello = Some(hello);
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
    use crate::{ProxyAddresses, ProxyVersion};

    #[test]
    fn a_mapped_address_is_shown_as_ipv4() {
        let info =
            ConnInfo::new("[::ffff:192.0.2.7]:5000".parse().unwrap(), "[::]:443".parse().unwrap());
        assert_eq!(info.peer(), "192.0.2.7:5000".parse().unwrap());
        assert_eq!(info.peer_ip_text(), "192.0.2.7");
    }

    #[test]
    fn a_proxy_header_replaces_the_ends_and_the_text_of_the_peer() {
        let of = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (proxy, here) = (of("10.0.0.1:5000"), of("10.0.0.2:443"));
        let mut info = ConnInfo::new(proxy, here);
        assert_eq!(info.peer_ip_text(), "10.0.0.1");
        let ends = ProxyAddresses::tcp(of("[::ffff:192.0.2.7]:9"), of("[2001:db8::1]:80"));
        info.set_proxy_header(Arc::new(ProxyHeader::new(ProxyVersion::V2, ends)));
        assert_eq!((info.peer(), info.local()), (of("192.0.2.7:9"), of("[2001:db8::1]:80")));
        assert_eq!((info.socket_peer(), info.socket_local()), (proxy, here));
        assert_eq!(info.peer_ip_text(), "192.0.2.7");
        info.set_proxy_header(Arc::new(ProxyHeader::local()));
        assert_eq!((info.peer(), info.local()), (proxy, here));
        assert_eq!(info.peer_ip_text(), "10.0.0.1");
        assert!(info.proxy_header().is_some());
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
