//! Telling a TLS client that it is refused, without a handshake.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use crate::Conn;

/// A fatal alert in the clear, which is how a server refuses before there is encryption
/// (RFC 8446 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlsAlert(u8);

impl TlsAlert {
    /// A message came that is not the one expected.
    pub const UNEXPECTED_MESSAGE: Self = Self(10);
    /// A record is too long.
    pub const RECORD_OVERFLOW: Self = Self(22);
    /// Nothing in common.
    pub const HANDSHAKE_FAILURE: Self = Self(40);
    /// A field says what it must not, although it can be read.
    pub const ILLEGAL_PARAMETER: Self = Self(47);
    /// The server refuses because of its rules.
    pub const ACCESS_DENIED: Self = Self(49);
    /// A message cannot be read.
    pub const DECODE_ERROR: Self = Self(50);
    /// A version that is not spoken here.
    pub const PROTOCOL_VERSION: Self = Self(70);
    /// The server's own fault.
    pub const INTERNAL_ERROR: Self = Self(80);
    /// No server here has the name that the client asked for (RFC 6066 §3).
    pub const UNRECOGNIZED_NAME: Self = Self(112);
    /// No application protocol in common (RFC 7301 §3.2).
    pub const NO_APPLICATION_PROTOCOL: Self = Self(120);

    /// An alert by its number, as IANA assigns them.
    pub const fn new(description: u8) -> Self {
        Self(description)
    }

    /// Its number.
    pub const fn description(self) -> u8 {
        self.0
    }

    /// The record that carries it: type, the version that RFC 8446 §5.1 prescribes, length, then
    /// level and description.
    pub const fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, FATAL, self.0]
    }
}

/// A connection service that refuses every connection with an alert.
///
/// It is what routing by name ends in when nobody has the name. The client is sent the alert at
/// once, whatever it has said, and is given a moment to take it in ([`TlsRefusal`]). The call does
/// not fail. Each one is a tracing event of level info.
#[derive(Clone, Copy, Debug)]
pub struct RejectTls {
    alert: TlsAlert,
}

impl RejectTls {
    /// Refuses with `unrecognized_name`.
    pub fn new() -> Self {
        Self::with(TlsAlert::UNRECOGNIZED_NAME)
    }

    /// Refuses with `alert`.
    pub fn with(alert: TlsAlert) -> Self {
        Self { alert }
    }
}

impl Default for RejectTls {
    fn default() -> Self {
        Self::new()
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Service<Conn<IO>> for RejectTls {
    type Response = ();
    type Error = Infallible;
    type Future = RejectTlsFuture<IO>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, conn: Conn<IO>) -> Self::Future {
        let (io, info, _) = conn.into_parts();
        let sni = info.client_hello().and_then(|hello| hello.server_name());
        let (peer, alert) = (tracing::field::display(info.peer()), self.alert.description());
        tracing::info!(peer, sni, alert, "TLS connection refused");
        RejectTlsFuture { refusal: TlsRefusal::new(io, self.alert) }
    }
}

/// Refuses a client, and gives it a moment to take that in. Resolves when that is over.
///
/// A client sends before it knows that it is refused. If that lies unread when the socket is
/// closed, the system resets the connection, and the alert is lost on the client. So after the
/// alert the writing side is shut down, and what comes is read and thrown away, until the client
/// closes its side too. All of it takes at most 500 ms from the first poll, and at most 64 KiB are
/// read. Whether the alert arrived, it does not tell: the client is refused either way.
///
/// Dropping it closes the connection at once.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct TlsRefusal<IO> {
    io: IO,
    record: [u8; 7],
    written: usize,
    budget: usize,
    // Made when first polled, for that is when the time begins.
    end: Option<Pin<Box<Sleep>>>,
}

impl<IO> TlsRefusal<IO> {
    /// Sends `alert` first.
    pub fn new(io: IO, alert: TlsAlert) -> Self {
        Self { io, record: alert.record(), written: 0, budget: LINGER_BYTES, end: None }
    }

    /// Sends nothing, for whoever has sent an alert already.
    pub fn silent(io: IO) -> Self {
        let mut refusal = Self::new(io, TlsAlert::INTERNAL_ERROR);
        refusal.written = refusal.record.len();
        refusal
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsRefusal<IO> {
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let unsent = &self.record[self.written..]
            && !unsent.is_empty()
        {
            match ready!(Pin::new(&mut self.io).poll_write(cx, unsent))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Ready when the client has closed its side, or has sent more than it is granted.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        let mut bytes = [0; 1_024];
        while self.budget > 0 {
            let mut buffer = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                break;
            }
            self.budget = self.budget.saturating_sub(buffer.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for TlsRefusal<IO> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        match this.poll_write(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(()),
            Poll::Ready(Ok(())) if this.poll_discard(cx).is_ready() => return Poll::Ready(()),
            _ => {}
        }
        this.end.get_or_insert_with(|| Box::pin(sleep(LINGER))).as_mut().poll(cx)
    }
}

/// Resolves when the connection passed to [`RejectTls`] is finished.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct RejectTlsFuture<IO> {
    refusal: TlsRefusal<IO>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for RejectTlsFuture<IO> {
    type Output = Result<(), Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.refusal).poll(cx).map(Ok)
    }
}

const FATAL: u8 = 2;

/// Time for an alert to arrive and for the client to close: some round trips.
const LINGER: Duration = Duration::from_millis(500);

/// A client's first requests, as far as they go before its alert arrives.
const LINGER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bartizan_testkit::{FailAfter, Trickle};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::ConnInfo;

    async fn read_all(mut io: DuplexStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejected_client_is_told_why_and_then_the_end() {
        let (mut ours, theirs) = duplex(1_024);
        ours.write_all(b"whatever it said").await.unwrap();
        let addr = SocketAddr::from(([192, 0, 2, 1], 5_000));
        let conn = Conn::new(Trickle::new(theirs, 3), ConnInfo::new(addr, addr));
        let since = Instant::now();
        let (result, bytes) = tokio::join!(RejectTls::new().call(conn), read_all(ours));
        result.unwrap();
        assert_eq!(bytes, [21, 3, 3, 0, 2, 2, 112]);
        assert_eq!(since.elapsed(), Duration::ZERO, "the client has closed its side");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stays_is_given_half_a_second() {
        let (mut ours, theirs) = duplex(1_024);
        let since = Instant::now();
        TlsRefusal::new(theirs, TlsAlert::DECODE_ERROR).await;
        assert_eq!(since.elapsed(), LINGER);
        let mut bytes = [0; 7];
        ours.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, TlsAlert::new(50).record());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_no_longer() {
        let (_ours, theirs) = duplex(3);
        let since = Instant::now();
        TlsRefusal::new(theirs, TlsAlert::DECODE_ERROR).await;
        assert_eq!(since.elapsed(), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_talks_on_is_not_listened_to_for_ever() {
        let (mut ours, theirs) = duplex(1_024);
        let since = Instant::now();
        let talk = async {
            let mut sent = 0;
            while let Ok(n) = ours.write(&[0; 512]).await {
                sent += n;
            }
            sent
        };
        let refusal = TlsRefusal::silent(theirs);
        let (sent, ()) = tokio::join!(talk, refusal);
        assert!((LINGER_BYTES..=LINGER_BYTES + 2_048).contains(&sent), "{sent}");
        assert_eq!(since.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_means_that_nothing_is_written() {
        let (ours, theirs) = duplex(1_024);
        let (bytes, ()) = tokio::join!(read_all(ours), TlsRefusal::silent(theirs));
        assert_eq!(bytes, []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_transport_is_not_waited_for() {
        let (_ours, theirs) = duplex(1_024);
        let since = Instant::now();
        TlsRefusal::new(FailAfter::new(theirs, 3), TlsAlert::DECODE_ERROR).await;
        assert_eq!(since.elapsed(), Duration::ZERO);
    }
}
