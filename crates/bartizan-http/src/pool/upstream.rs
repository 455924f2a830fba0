//! One connection to a backend.
//!
//! hyper's connection is a future that does all the work, and a handle that requests go through.
//! Here the request that uses the connection polls it, and no task of its own does: an answer then
//! waits for no other task on its way.
//!
//! So nobody needs to be woken by the handle's futures: what they wait for happens inside the
//! connection's poll, and whoever polls that looks at them again right after. They are polled with
//! a waker that does nothing, and the connection with a [`Bell`].

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bartizan_net::{BoxError, DialledStream, IdleTimer, Validity};
use http_body::Body;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::task::coop::{has_budget_remaining, unconstrained};
use tokio::time::Instant;

use super::Settings;
use super::bell::Bell;
use super::link::{Link, LinkIo, Upload};

/// A backend connection, in the hands of one request or of the pool.
pub(crate) struct Entry<B> {
    pub(crate) send: SendRequest<Upload<B>>,
    pub(crate) link: Arc<Link>,
    // For the silence of the backend. It goes from request to request, so that a request costs no
    // timer of its own.
    pub(crate) silence: IdleTimer,
    // Until when it may be given requests.
    pub(crate) validity: Validity,
    conn: Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>,
    bell: Bell,
    closed: bool,
}

impl<B> Entry<B> {
    /// Polls `handle`, a future of the connection's handle, and drives the connection until that is
    /// ready. Otherwise the task is woken when the connection can go on.
    pub(crate) fn poll_with<T>(
        &mut self,
        cx: &Context<'_>,
        mut handle: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let mut noop = Context::from_waker(Waker::noop());
        self.bell.mute();
        for _ in 0..TURNS {
            if let Poll::Ready(ready) = handle(&mut noop) {
                return Poll::Ready(ready);
            }
            // At the end of a task's turn, tokio's channels are pending whatever is in them, and wake
            // whom they were polled by: nobody, here.
            if !has_budget_remaining() {
                break;
            }
            if !self.drive() && self.bell.wait(cx) {
                return Poll::Pending;
            }
        }
        // Its turn is over, or the connection rings itself because it has much to do.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets the connection go on, if anything has happened to it. Its error reaches whoever waits
    /// for the answer.
    fn drive(&mut self) -> bool {
        if self.closed || !self.bell.was_rung() {
            return false;
        }
        let mut cx = Context::from_waker(self.bell.waker());
        if let Poll::Ready(result) = self.conn.as_mut().poll(&mut cx) {
            self.closed = true;
            if let Err(error) = result {
                tracing::debug!(%error, "connection to a backend ended");
            }
        }
        true
    }

    /// A request has been handed to `send`. The connection must be told: if its last poll fell on
    /// the end of a task's turn, it left no waker there.
    pub(crate) fn sent(&self) {
        self.bell.ring();
    }

    /// Whether it can take a request now, after whatever has happened to it since it was used.
    pub(crate) fn is_ready(&mut self) -> bool {
        self.bell.mute();
        self.drive();
        !self.closed && self.send.is_ready()
    }

    /// Whether it has done all that the last request wanted of it, and can take another one.
    ///
    /// Mostly so as soon as the answer is over. Then what rang since is the end of that answer, and
    /// polling for it would find nothing to do. What this forgets at worst is that the backend has
    /// just closed; the next request will find out.
    pub(crate) fn is_done(&mut self) -> bool {
        if self.closed || !self.send.is_ready() {
            return self.is_ready();
        }
        self.bell.mute();
        self.bell.was_rung();
        true
    }

    /// Closes a connection that nothing is under way on, in its own way: TLS says goodbye.
    ///
    /// Without waiting, since a socket that nothing is written to takes the little there is to say.
    /// A backend that takes not even that will not miss it.
    pub(crate) fn close(self) {
        let Self { send, mut conn, closed, .. } = self;
        // It ends when nobody can send a request any more.
        drop(send);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..if closed { 0 } else { TURNS } {
            // Constrained, it would do nothing at the end of a task's turn.
            if pin!(unconstrained(conn.as_mut())).poll(&mut cx).is_ready() {
                return;
            }
        }
    }

    /// Expires when the backend was silent for too long, not counting waits for the client.
    pub(crate) fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.silence.poll_expired(cx).is_ready() {
            let now = Instant::now();
            let waiting = self.link.is_waiting_for_client();
            let due = if waiting { now } else { self.link.last_io() } + self.silence.limit();
            if due <= now {
                return Poll::Ready(());
            }
            self.silence.expire_at(due);
        }
        Poll::Pending
    }
}

pub(crate) async fn start<IO, B>(
    io: IO,
    validity: Validity,
    settings: &Settings,
) -> Result<Box<Entry<B>>, BoxError>
where
    IO: DialledStream,
    B: Body<Data: Send, Error: Into<BoxError>> + Unpin + Send + 'static,
{
    let link = Arc::new(Link::new());
    let io = LinkIo { io, link: Arc::clone(&link) };
    let (send, conn) = http1::Builder::new().handshake(TokioIo::new(io)).await?;
    let silence = IdleTimer::new(settings.response_timeout);
    // Boxed once, because it is handed on many times.
    Ok(Box::new(Entry {
        send,
        link,
        silence,
        validity,
        conn: Box::pin(conn),
        bell: Bell::new(),
        closed: false,
    }))
}

/// An answer needs two. A connection that always has more to do must not keep the thread.
const TURNS: usize = 4;
