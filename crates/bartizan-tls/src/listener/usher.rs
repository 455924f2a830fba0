//! From an accepted transport to a finished connection in the listener's queue.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bartizan_net::{BoxError, Conn};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::Sender;
use tokio_rustls::server::TlsStream;
use tower_layer::Layer;
use tower_service::Service;

use super::TlsConnection;
use super::tie::{Keeper, Tie};
use crate::{TerminateFuture, TlsTerminateLayer};

/// The connection service behind a listener: a handshake, then the queue.
///
/// Ready while the queue has room, and nothing is accepted otherwise. Room is not *reserved* before
/// the handshake, because clients that stall would fill the queue then.
pub(super) struct Usher<IO> {
    layer: TlsTerminateLayer,
    queue: Sender<TlsConnection<IO>>,
    room: Option<BoxFuture<Result<(), Gone>>>,
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<IO> Usher<IO> {
    pub(super) fn new(layer: TlsTerminateLayer, queue: Sender<TlsConnection<IO>>) -> Self {
        Self { layer, queue, room: None }
    }
}

impl<IO> Clone for Usher<IO> {
    fn clone(&self) -> Self {
        Self::new(self.layer.clone(), self.queue.clone())
    }
}

impl<IO> Service<Conn<IO>> for Usher<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Response = ();
    type Error = BoxError;
    type Future = Ushered<IO>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.queue.is_closed() {
            return Poll::Ready(Err(Gone.into()));
        }
        if self.queue.capacity() > 0 {
            self.room = None;
            return Poll::Ready(Ok(()));
        }
        let room = self.room.get_or_insert_with(|| {
            let queue = self.queue.clone();
            // In turn, after those that are finished already; then the room is given back.
            Box::pin(async move { queue.reserve().await.map(drop).map_err(|_| Gone) })
        });
        let room = ready!(room.as_mut().poll(cx));
        self.room = None;
        Poll::Ready(room.map_err(BoxError::from))
    }

    fn call(&mut self, conn: Conn<IO>) -> Ushered<IO> {
        let (queue, tie) = (self.queue.clone(), Arc::<Tie>::default());
        let hand_over = HandOver { queue: queue.clone(), tie: Arc::clone(&tie) };
        Ushered {
            // `HandOver` is always ready.
            served: self.layer.layer(hand_over).call(conn),
            gone: Some(Box::pin(async move { queue.closed().await })),
            tie,
        }
    }
}

pin_project! {
    /// A connection's whole life. Until it is handed over it ends with the listener, and after that
    /// with what was accepted.
    pub(super) struct Ushered<IO>
    where
        IO: Send,
        IO: 'static,
    {
        #[pin]
        served: TerminateFuture<IO, HandOver<IO>>,
        gone: Option<BoxFuture<()>>,
        tie: Arc<Tie>,
    }
}

impl<IO> Future for Ushered<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = Result<(), BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(done) = this.served.poll(cx) {
            return Poll::Ready(done.map_err(BoxError::from));
        }
        if this.tie.is_handed_over() {
            *this.gone = None;
        }
        let Some(gone) = this.gone else { return Poll::Pending };
        ready!(gone.as_mut().poll(cx));
        Poll::Ready(Err(Gone.into()))
    }
}

/// The service inside of TLS: puts the stream into the queue, and is done when whoever took it from
/// there has dropped it. As long as it is not, the connection can be withdrawn.
pub(super) struct HandOver<IO> {
    queue: Sender<TlsConnection<IO>>,
    tie: Arc<Tie>,
}

impl<IO> Clone for HandOver<IO> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), tie: Arc::clone(&self.tie) }
    }
}

impl<IO: Send + 'static> Service<Conn<TlsStream<IO>>> for HandOver<IO> {
    type Response = ();
    type Error = Gone;
    type Future = BoxFuture<Result<(), Gone>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, conn: Conn<TlsStream<IO>>) -> Self::Future {
        let Self { queue, tie } = self.clone();
        // In a box of its own: the room for a stream is given back once it is handed over.
        let handing_over = Box::pin(hand_over(queue, tie, conn));
        Box::pin(async move {
            let keeper = handing_over.await?;
            keeper.await;
            Ok(())
        })
    }
}

async fn hand_over<IO>(
    queue: Sender<TlsConnection<IO>>,
    tie: Arc<Tie>,
    conn: Conn<TlsStream<IO>>,
) -> Result<Keeper, Gone> {
    let place = queue.reserve().await.map_err(|_| Gone)?;
    let (keeper, holder) = tie.hand_over();
    place.send(TlsConnection::new(conn, holder));
    Ok(keeper)
}

/// Nobody accepts any more.
#[derive(Debug, thiserror::Error)]
#[error("the listener was dropped")]
pub(super) struct Gone;
