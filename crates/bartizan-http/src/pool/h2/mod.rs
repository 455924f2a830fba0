//! HTTP/2 connections to backends, each shared by many requests.
//!
//! A task of its own drives each connection, since no one request could: hyper's client spawns more
//! for the streams. What the backend announces is read off its frames on their way, because hyper
//! acts on it and does not tell.

mod frames;
mod kept;
mod lines;
mod send;
mod shared_error;
mod stream;
mod traffic;

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bartizan_net::{BoxError, DialledStream, Validity};
use http_body::Body;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;

use super::Settings;
use crate::SendError;
use stream::H2Upload;
use traffic::{H2Io, Room, Traffic};

#[cfg(fuzzing)]
pub(crate) use frames::{Announced, FrameReader};
pub(super) use lines::{Lines, share};
pub(super) use send::{SharedAnswer, over_h2};

/// A connection that takes requests from many at once.
pub(crate) struct Conn<B> {
    send: SendRequest<H2Upload<B>>,
    traffic: Arc<Traffic>,
    // Whether it is encrypted: requests then have the scheme `https`.
    secure: bool,
}

impl<B> fmt::Debug for Conn<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("traffic", &self.traffic).finish_non_exhaustive()
    }
}

/// Room for one request on a connection.
#[derive(Debug)]
pub(crate) struct Slot<B> {
    conn: Arc<Conn<B>>,
    room: Room,
}

impl<B> Conn<B> {
    /// Room for a request, if there is some. To be asked by one at a time.
    fn take(self: &Arc<Self>) -> Option<Slot<B>> {
        let room = self.traffic.take()?;
        Some(Slot { conn: Arc::clone(self), room })
    }
}

impl<B> Slot<B> {
    /// Whether the connection may still be given the request that this is for.
    pub(super) fn is_usable(&self) -> bool {
        self.room.traffic().is_usable()
    }
}

/// Starts HTTP/2 over what was dialled, and waits for the backend's settings.
pub(super) async fn start<IO, B>(
    io: IO,
    validity: Validity,
    settings: &Settings,
) -> Result<Conn<B>, BoxError>
where
    IO: DialledStream,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let secure = io.alpn().is_some() || io.peer_identity().is_some();
    let traffic = Arc::new(Traffic::new(validity));
    let io = TokioIo::new(H2Io::new(io, Arc::clone(&traffic)));
    let limit = settings.settings_timeout;
    let settled = timeout(limit, async {
        let (send, conn) = http2::Builder::new(TokioExecutor::new()).handshake(io).await?;
        drop(tokio::spawn(drive(conn, Arc::clone(&traffic))));
        let conn = Conn { send, traffic, secure };
        poll_fn(|cx| conn.traffic.poll_settled(cx)).await?;
        Ok(conn)
    });
    settled.await.unwrap_or_else(|_| Err(SendError::Timeout { limit }.into()))
}

/// Drives a connection until it ends, or until it may have no more requests and has none.
///
/// Dropped, hyper's future leaves the rest to those that it has spawned: they say goodbye, as far as
/// the socket takes that at once, and close the stream.
async fn drive<F>(conn: F, traffic: Arc<Traffic>)
where
    F: Future<Output = Result<(), hyper::Error>>,
{
    let mut conn = pin!(conn);
    let ended = poll_fn(|cx| match traffic.poll_over(cx) {
        Poll::Ready(()) => Poll::Ready(Ok(())),
        Poll::Pending => conn.as_mut().poll(cx),
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "HTTP/2 connection to a backend ended");
    }
    traffic.retire();
}

#[cfg(test)]
mod tests;
