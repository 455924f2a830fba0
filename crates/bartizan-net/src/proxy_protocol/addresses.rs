//! The ends of a connection that somebody else accepted.

use std::net::{IpAddr, SocketAddr};

/// How a client of a proxy is connected to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyTransport {
    /// TCP, or a Unix stream socket.
    Stream,
    /// UDP, or a Unix datagram socket.
    Datagram,
}

/// The ends of the connection that a PROXY header speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyAddresses {
    /// None are told; the real ones are as good as any.
    Unspecified,
    /// A connection over TCP or UDP.
    Inet {
        /// TCP or UDP.
        transport: ProxyTransport,
        /// The client.
        source: SocketAddr,
        /// The address that the client connected to.
        destination: SocketAddr,
    },
    /// A connection over a Unix socket. The paths are as sent, filled up with zeros; one that
    /// begins with a zero is an abstract one.
    Unix {
        /// Stream or datagram.
        transport: ProxyTransport,
        /// The path of the client.
        source: Box<[u8; 108]>,
        /// The path that the client connected to.
        destination: Box<[u8; 108]>,
    },
}

impl ProxyAddresses {
    /// A connection over TCP.
    pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::Inet { transport: ProxyTransport::Stream, source, destination }
    }

    /// An IPv4 address beside an IPv6 address mapped to IPv6.
    pub(super) fn of_one_family(self) -> Self {
        let Self::Inet { transport, source, destination } = self else { return self };
        let mixed = source.is_ipv4() != destination.is_ipv4();
        // Made anew also without a change of family: neither version can tell flows and scopes.
        let plain = |addr: SocketAddr| match addr.ip() {
            IpAddr::V4(ip) if mixed => SocketAddr::new(ip.to_ipv6_mapped().into(), addr.port()),
            ip => SocketAddr::new(ip, addr.port()),
        };
        Self::Inet { transport, source: plain(source), destination: plain(destination) }
    }
}
