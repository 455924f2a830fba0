//! Where connections come from.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::ConnInfo;

/// Accepts connections. [`serve`](crate::serve) drives it.
///
/// It must never do more than accept: a handshake in here would let one slow client hold up all
/// others.
pub trait Listener {
    /// The accepted stream.
    type Io;

    /// Accepts one connection.
    ///
    /// # Errors
    ///
    /// Whatever the system says. `serve` backs off and asks again.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Io, ConnInfo)>>;

    /// Accepts a connection that the system has queued already; `None` when there is none.
    ///
    /// Asked before a listener is closed, because closing resets what is queued on it. It must ask
    /// the system itself: the runtime may not have heard yet of what has just arrived.
    ///
    /// # Errors
    ///
    /// Whatever the system says. `serve` backs off and asks again, until its drain closes.
    fn accept_queued(&mut self) -> io::Result<Option<(Self::Io, ConnInfo)>>;

    /// The address that it listens on.
    ///
    /// # Errors
    ///
    /// Whatever the system says; of a listener that does not know, `Unsupported`.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Accepts with TCP_NODELAY set: an answer written in two parts must not wait for the client's
/// delayed acknowledgement (40 ms).
impl Listener for TcpListener {
    type Io = TcpStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, ConnInfo)>> {
        let (stream, peer) = ready!(Self::poll_accept(self, cx))?;
        Poll::Ready(accepted(stream, peer))
    }

    fn accept_queued(&mut self) -> io::Result<Option<(TcpStream, ConnInfo)>> {
        let (socket, peer) = match SockRef::from(&*self).accept() {
            Ok(accepted) => accepted,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) => return Err(e),
        };
        socket.set_nonblocking(true)?;
        let stream = TcpStream::from_std(socket.into())?;
        let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
        accepted(stream, peer).map(Some)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

fn accepted(stream: TcpStream, peer: SocketAddr) -> io::Result<(TcpStream, ConnInfo)> {
    // Fails only when the peer is gone already, which whoever reads will find out.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr()?;
    Ok((stream, ConnInfo::new(peer, local)))
}
