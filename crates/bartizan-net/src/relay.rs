//! Copying between two streams, both ways.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::IdleTimer;

mod failed;
mod pump;
mod scratch;
#[cfg_attr(not(target_os = "linux"), path = "relay/copy_only.rs")]
mod splice;

use pump::{Flow, Pump};

/// Copies between a client and a backend until both have ended, or one of them fails.
///
/// - The end of one side's stream is passed on once all before it is (half-close), and the other
///   direction goes on.
/// - A side that does not read stops the other one from being read: what is held for it is at most
///   64 KiB in each direction, or between sockets, when much passes at a time, a pipe of 256 KiB in
///   the kernel with its two descriptors, of which there are at most 256. While nothing is held, there is neither: all relays of a
///   thread read into the same buffer.
/// - When a side stops taking bytes or is reset, what it has sent before still arrives. What the
///   client goes on to send to a backend that is gone is read and thrown away, until 2 s after the
///   backend's last byte: a socket that is closed with unread bytes is reset, and a reset destroys
///   what is on its way, such as the answer that says why. Once a side is gone, the other one has
///   30 s to take something of what is left.
/// - When nothing moves in either direction for the idle timeout, it ends. Default: 1 h, as
///   `timeout tunnel` is usually set in HAProxy.
///
/// Dropping it drops both streams, with what is held for them.
///
/// Sockets that are spliced raise SIGPIPE when the peer is gone, which Rust programs ignore from their
/// start. A library in a program of another language has to see to that itself.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Relay<A, B> {
    client: A,
    backend: B,
    up: Pump,
    down: Pump,
    idle: IdleTimer,
    lingering: bool,
    failed: Option<RelayEnd>,
}

impl<A, B> Relay<A, B> {
    /// Copies between `client` and `backend`.
    pub fn new(client: A, backend: B) -> Self {
        Self {
            client,
            backend,
            up: Pump::new(),
            down: Pump::new(),
            idle: IdleTimer::new(IDLE_TIMEOUT),
            lingering: false,
            failed: None,
        }
    }

    /// Ends when nothing was copied for `limit`.
    pub fn idle_timeout(self, limit: Duration) -> Self {
        Self { idle: IdleTimer::new(limit), ..self }
    }

    /// Sends `bytes` to the backend before anything of the client's, in one write with what the
    /// client has sent already.
    pub fn first(self, bytes: Bytes) -> Self {
        Self { up: Pump::starting_with(bytes), ..self }
    }

    /// Bytes that the backend has taken, without those of [`first`](Self::first).
    pub fn to_backend(&self) -> u64 {
        self.up.passed()
    }

    /// Bytes that the client has taken.
    pub fn to_client(&self) -> u64 {
        self.down.passed()
    }

    fn done(&self, end: RelayEnd) -> Relayed {
        Relayed { to_backend: self.to_backend(), to_client: self.to_client(), end }
    }
}

impl<A, B> Relay<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin + 'static,
    B: AsyncRead + AsyncWrite + Unpin + 'static,
{
    /// Copies what there is. Ready when that was all.
    fn poll_copy(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let before = (self.up.moved(), self.down.moved());
        let up = self.up.poll(&mut self.client, &mut self.backend, cx);
        let down = self.down.poll(&mut self.backend, &mut self.client, cx);
        if before != (self.up.moved(), self.down.moved()) && !self.lingering {
            self.idle.touch();
        }
        if self.note_failure(up, down) {
            // What it waits for now, nobody has been asked to wake it for.
            cx.waker().wake_by_ref();
        }
        if self.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A side that cannot be read is gone altogether; one that cannot be written to may still have
    /// something to say. Returns whether a direction was told so that has been polled already.
    fn note_failure(&mut self, up: Flow, down: Flow) -> bool {
        let gone = matches!((&up, &down), (Flow::ReadFailed(_), _) | (_, Flow::ReadFailed(_)));
        let end = match (up, down) {
            (Flow::ReadFailed(error), _) => {
                self.down.discard();
                RelayEnd::ClientFailed(error)
            }
            (_, Flow::ReadFailed(error)) => {
                self.up.discard();
                RelayEnd::BackendFailed(error)
            }
            (Flow::WriteFailed(error), _) => RelayEnd::BackendFailed(error),
            (_, Flow::WriteFailed(error)) => RelayEnd::ClientFailed(error),
            (Flow::Going, Flow::Going) => return false,
        };
        if self.failed.is_none() {
            self.failed = Some(end);
            self.idle = IdleTimer::new(self.idle.limit().min(FAREWELL));
        }
        gone
    }

    /// Whether nothing more can reach anybody.
    fn is_over(&self) -> bool {
        // A client that is gone needs nothing of the backend's.
        let nothing_down = self.down.is_over() || self.down.discards();
        nothing_down && (self.up.is_over() || (self.up.discards() && self.down.discards()))
    }

    /// Whether all that is left is to take what the client goes on to send.
    fn only_discards(&self) -> bool {
        self.up.discards() && self.down.is_over()
    }
}

impl<A, B> Future for Relay<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin + 'static,
    B: AsyncRead + AsyncWrite + Unpin + 'static,
{
    type Output = Relayed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Relayed> {
        let this = &mut *self;
        if this.poll_copy(cx).is_pending() {
            if this.only_discards() && !this.lingering {
                this.lingering = true;
                this.idle = IdleTimer::new(LINGER);
            }
            if this.idle.poll_expired(cx).is_pending() {
                return Poll::Pending;
            }
            let end = this.failed.take().unwrap_or(RelayEnd::Idle);
            return Poll::Ready(this.done(end));
        }
        let end = this.failed.take().unwrap_or(RelayEnd::Closed);
        Poll::Ready(this.done(end))
    }
}

/// What a [`Relay`] has copied, and why it ended.
#[derive(Debug)]
#[non_exhaustive]
pub struct Relayed {
    /// Bytes from the client that the backend has taken.
    pub to_backend: u64,
    /// Bytes from the backend that the client has taken.
    pub to_client: u64,
    /// Why it ended.
    pub end: RelayEnd,
}

/// Why a [`Relay`] ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum RelayEnd {
    /// Both sides have ended their streams.
    Closed,
    /// Nothing was copied for the idle timeout.
    Idle,
    /// The client's stream failed, as it does when the client resets it.
    ClientFailed(io::Error),
    /// The backend's stream failed.
    BackendFailed(io::Error),
}

const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long a side may go without taking what the other one has left behind that is gone.
const FAREWELL: Duration = Duration::from_secs(30);

/// Some round trips: enough for what is on its way to arrive.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
