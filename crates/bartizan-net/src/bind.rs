//! Listening sockets.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// Binds `count` listening sockets to one address, with SO_REUSEPORT where `count` is above 1.
///
/// Port 0 is resolved once and shared by all. They listen with a queue of 4,096 connections (Linux
/// caps it at `net.core.somaxconn`), and are not blocking.
///
/// # Errors
///
/// [`BindError`], also when another process already listens on the address *with* SO_REUSEPORT: a
/// plain bind would then succeed, and both would get a part of the connections.
pub fn listen(addr: SocketAddr, count: usize) -> Result<Vec<std::net::TcpListener>, BindError> {
    let wrap = |source| BindError { addr, source };
    // Alone first: this is the only bind that fails when the port is taken by a sharing socket.
    let alone = socket(addr, false).and_then(|s| started(s, addr)).map_err(wrap)?;
    if count <= 1 {
        return Ok(vec![alone]);
    }
    let addr = alone.local_addr().map_err(wrap)?;
    drop(alone);
    (0..count).map(|_| socket(addr, true).and_then(|s| started(s, addr)).map_err(wrap)).collect()
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}: {source}{}", hint(source))]
pub struct BindError {
    addr: SocketAddr,
    source: io::Error,
}

impl BindError {
    /// The address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The system's reason.
    pub fn io_error(&self) -> &io::Error {
        &self.source
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "; another program has this port, choose another one",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need the capability net_bind_service"
        }
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has this address",
        _ => "",
    }
}

fn socket(addr: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    #[cfg(unix)] // On Windows the option means that a port may be stolen.
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    if shared {
        socket.set_reuse_port(true)?;
    }
    Ok(socket)
}

fn started(socket: Socket, addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    socket.bind(&addr.into())?;
    socket.listen(QUEUE)?;
    Ok(socket.into())
}

const QUEUE: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn any() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    #[test]
    fn several_sockets_share_one_port() {
        let sockets = listen(any(), 3).unwrap();
        let ports: Vec<_> = sockets.iter().map(|s| s.local_addr().unwrap().port()).collect();
        assert_ne!(ports[0], 0);
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn a_port_taken_by_sharing_sockets_is_still_an_error() {
        let taken = listen(any(), 2).unwrap()[0].try_clone().unwrap();
        let addr = taken.local_addr().unwrap();
        let error = listen(addr, 2).unwrap_err();
        assert_eq!(error.io_error().kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
}
