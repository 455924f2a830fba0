//! Servers that do what a balancer has to survive, each in one way and every time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

use crate::listen::{Acceptor, Counter, Counts, bind};
use crate::raw::{self, Requests};

/// What is wrong with a server.
///
/// "Closes" is an orderly end (FIN), "resets" an abortive one (RST). A server that closes without
/// having read all that it was sent also ends in a reset, which the kernel adds: send such a server
/// requests without a body, or expect either.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Accepts, and closes.
    CloseOnAccept,
    /// Accepts, and resets. The dial succeeds; the first read or write after it fails.
    ResetOnAccept,
    /// Accepts and reads everything, but never answers.
    Hang,
    /// Listens but never accepts, with its queue full: on Linux a dial stays pending. Elsewhere a
    /// dial may succeed and then nothing is read. Its counts stay at zero.
    NeverAccept,
    /// Reads a request's head, and closes.
    CloseAfterRequest,
    /// Reads a request's head, and resets.
    ResetAfterRequest,
    /// Answers with a `Content-Length` that is larger than the `after` bytes of body which follow,
    /// and closes.
    CloseMidBody {
        /// Bytes of body that arrive.
        after: usize,
    },
    /// Like [`CloseMidBody`](Self::CloseMidBody), but resets. A reset discards what the kernel has
    /// not sent yet, so that fewer bytes may arrive once `after` exceeds the receiver's window;
    /// up to 32 KiB all do.
    ResetMidBody {
        /// Bytes of body that arrive at most.
        after: usize,
    },
    /// Answers a request with bytes that are no HTTP, and closes.
    Garbage,
    /// Answers correctly, with a byte of the head every 100 ms of tokio's time.
    SlowHead,
    /// Answers 101 to a request that asked for no upgrade, and keeps reading.
    Unasked101,
    /// Answers 413 as soon as it has the head and keeps the connection open, but reads no more
    /// than 4 KiB that may have come with the head.
    EarlyAnswer,
    /// Answers 200 as if the connection would be kept, and closes it at once: whoever reuses it
    /// may find out only after having sent a request.
    CloseAfterEachKeepAlive,
    /// Answers the first request of a connection with 200 and keeps it; when the head of a second
    /// one has arrived, closes without an answer. The stale connection, without the race.
    CloseOnReuse,
    /// Answers a request, after its body, with these bytes, and closes.
    Raw(Vec<u8>),
    /// Answers each request, after its body, with these bytes, and keeps the connection.
    RawKeepAlive(Vec<u8>),
}

/// A running server with a [`Fault`]. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct Misbehaving {
    addr: SocketAddr,
    counter: Counter,
    listening: Listening,
}

impl Misbehaving {
    /// Starts a server on a free port of 127.0.0.1.
    pub async fn start(fault: Fault) -> Self {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), fault).await
    }

    /// Starts a server on `addr`, where another may have been stopped a moment ago.
    ///
    /// # Panics
    ///
    /// If the address is taken.
    pub async fn start_on(addr: SocketAddr, fault: Fault) -> Self {
        let counter = Counter::new();
        if fault == Fault::NeverAccept {
            let full = tokio::task::spawn_blocking(move || FullQueue::on(addr)).await.unwrap();
            return Self { addr: full.addr, counter, listening: Listening::Full(full) };
        }
        let (fault, seen) = (Arc::new(fault), counter.clone());
        let acceptor = Acceptor::spawn(bind(addr), counter.clone(), move |stream| {
            let (fault, seen) = (fault.clone(), seen.clone());
            // A connection that its peer has closed is simply over.
            async move { fault.serve(stream, &seen).await.unwrap_or_default() }
        });
        Self { addr: acceptor.addr(), counter, listening: Listening::Accepting(acceptor) }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> u64 {
        self.counts().connections
    }

    /// How many request heads it has received.
    pub fn requests(&self) -> u64 {
        self.counts().requests
    }

    /// What it has counted so far.
    pub fn counts(&self) -> Counts {
        self.counter.counts()
    }

    /// Waits until the counts satisfy `condition`, and returns them.
    ///
    /// Cancel safe.
    pub async fn until(&self, condition: impl FnMut(&Counts) -> bool) -> Counts {
        self.counter.until(condition).await
    }

    /// Closes the listener and all connections. When it returns the port refuses, and can be bound
    /// again.
    pub async fn stop(self) {
        if let Listening::Accepting(acceptor) = self.listening {
            acceptor.stop().await;
        }
    }
}

/// An address on 127.0.0.1 that refuses connections for as long as the process lives, unless
/// something is started on it.
pub fn refused_addr() -> SocketAddr {
    // Bound but not listening. A port that is merely free might be given to another test, and a
    // dial to a free port can even connect to itself.
    let socket = reusable_socket((Ipv4Addr::LOCALHOST, 0).into());
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    addr
}

impl Fault {
    async fn serve(&self, stream: TcpStream, counter: &Counter) -> Option<()> {
        match self {
            Self::CloseOnAccept => return Some(()),
            Self::ResetOnAccept => {
                raw::reset(stream);
                return Some(());
            }
            _ => {}
        }
        let mut requests = Requests::new(stream);
        let head = requests.head().await?;
        counter.request();
        match self {
            Self::Hang => requests.drain().await,
            Self::ResetAfterRequest => requests.reset(),
            Self::CloseMidBody { after } => requests.write(&cut_short(*after)).await?,
            Self::ResetMidBody { after } => {
                requests.write(&cut_short(*after)).await?;
                requests.reset();
            }
            Self::Garbage => requests.write(GARBAGE).await?,
            Self::SlowHead => drip(&mut requests).await?,
            Self::Unasked101 => {
                requests.write(SWITCHING).await?;
                requests.drain().await;
            }
            Self::EarlyAnswer => {
                requests.write(TOO_LARGE).await?;
                // Without reading there is no way to learn that the peer has gone.
                std::future::pending().await
            }
            Self::CloseAfterEachKeepAlive => answer(&mut requests, &head, OK).await?,
            Self::CloseOnReuse => {
                answer(&mut requests, &head, OK).await?;
                requests.head().await?;
                counter.request();
            }
            Self::Raw(bytes) => answer(&mut requests, &head, bytes).await?,
            Self::RawKeepAlive(bytes) => keep_answering(requests, head, bytes, counter).await?,
            // The end of this function drops the connection, which closes it.
            Self::CloseAfterRequest => {}
            Self::CloseOnAccept | Self::ResetOnAccept | Self::NeverAccept => unreachable!(),
        }
        Some(())
    }
}

#[derive(Debug)]
enum Listening {
    Accepting(Acceptor),
    #[expect(dead_code, reason = "held for its drop")]
    Full(FullQueue),
}

/// A listener whose queue of connections is full, so that the kernel takes no further one.
#[derive(Debug)]
struct FullQueue {
    addr: SocketAddr,
    _listener: Socket,
    _queued: Vec<std::net::TcpStream>,
}

impl FullQueue {
    /// Blocks for about [`DIAL`].
    fn on(addr: SocketAddr) -> Self {
        let listener = reusable_socket(addr);
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        // Loopback connects at once or, when the queue is full, not at all.
        let queued = (0..MAX_QUEUED)
            .map_while(|_| std::net::TcpStream::connect_timeout(&addr, DIAL).ok())
            .collect();
        Self { addr, _listener: listener, _queued: queued }
    }
}

fn reusable_socket(addr: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&addr.into()).unwrap_or_else(|e| panic!("cannot bind {addr}: {e}"));
    socket
}

async fn answer(requests: &mut Requests, head: &str, bytes: &[u8]) -> Option<()> {
    requests.skip_body(head).await?;
    requests.write(bytes).await
}

async fn keep_answering(
    mut requests: Requests,
    mut head: String,
    bytes: &[u8],
    counter: &Counter,
) -> Option<()> {
    loop {
        answer(&mut requests, &head, bytes).await?;
        head = requests.head().await?;
        counter.request();
    }
}

async fn drip(requests: &mut Requests) -> Option<()> {
    for byte in OK {
        tokio::time::sleep(DRIP).await;
        requests.write(&[*byte]).await?;
    }
    requests.drain().await;
    Some(())
}

/// A response whose body has `after` bytes where more are announced.
fn cut_short(after: usize) -> Vec<u8> {
    let mut response =
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", after + MISSING).into_bytes();
    response.resize(response.len() + after, b'x');
    response
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const TOO_LARGE: &[u8] = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// Neither a status line nor the start of one, nor text.
const GARBAGE: &[u8] = b"\x00\xff\x13\x37 this is no HTTP \x80\r\n\r\n";

/// How much of a body is announced but never sent.
const MISSING: usize = 1024 * 1024;

const DRIP: Duration = Duration::from_millis(100);

/// A loopback connection that is not there by then will not come.
const DIAL: Duration = Duration::from_millis(200);

/// Linux queues one connection more than the backlog of zero; others round it up to a few.
const MAX_QUEUED: usize = 16;

#[cfg(test)]
mod tests;
