//! One connection to a backend: the task that drives it, and the handle that requests go through.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bartizan_net::{BoxError, IdleTimer};
use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Settings;
use super::link::{Link, LinkIo, Upload};

/// The handle of a backend connection.
pub(crate) struct Entry<B> {
    pub(crate) send: SendRequest<Upload<B>>,
    pub(crate) link: Arc<Link>,
    // For the silence of the backend. It goes from request to request, so that a request costs no
    // timer of its own.
    pub(crate) silence: IdleTimer,
}

impl<B> Entry<B> {
    /// Takes it for a request, unless it has been retired or closed in the meantime.
    pub(crate) fn reserve(&self) -> bool {
        self.link.reserve() && self.send.is_ready()
    }

    /// Whether a request may still go through it, now or soon.
    pub(crate) fn is_alive(&self) -> bool {
        !self.link.is_retired() && !self.send.is_closed()
    }
}

pub(crate) async fn start<IO, B>(io: IO, settings: &Settings) -> Result<Entry<B>, BoxError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let link = Arc::new(Link::new());
    let io = LinkIo { io, link: Arc::clone(&link) };
    let (send, conn) = http1::Builder::new().handshake(TokioIo::new(io)).await?;
    drop(tokio::spawn(drive(conn, Arc::clone(&link), settings.idle_timeout)));
    Ok(Entry { send, link, silence: IdleTimer::new(settings.response_timeout) })
}

/// Runs the connection until it closes, or until it was idle for too long.
async fn drive<C>(conn: C, link: Arc<Link>, idle_timeout: Duration)
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    let mut conn = pin!(conn);
    let mut idle = IdleTimer::new(idle_timeout);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(result) = conn.as_mut().poll(cx) {
            if let Err(error) = result {
                // Whoever waits for an answer is told as well; this is for those that are idle.
                tracing::debug!(%error, "connection to a backend ended");
            }
            return Poll::Ready(());
        }
        while idle.poll_expired(cx).is_ready() {
            match link.retire_if_idle(idle_timeout) {
                Ok(()) => return Poll::Ready(()),
                Err(ask_again) => idle.expire_at(ask_again),
            }
        }
        Poll::Pending
    })
    .await;
    link.retire();
}
