//! PROXY headers in front of dialled connections.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::{fmt, io};

use bytes::{Buf, Bytes};
use pin_project_lite::pin_project;
use tokio::io::AsyncWrite;
use tower_layer::Layer;
use tower_service::Service;

use super::SendProxy;
use crate::{BoxError, Target};

/// Writes one and the same PROXY header on every connection that is dialled, before TLS or anything
/// else.
///
/// For health checks ([`local`](Self::local)), and for stacks that one client alone uses. Where
/// connections are pooled the header has to be part of what they are pooled by, or one client's
/// requests go under another one's name.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing before it is put around a service"]
pub struct SendProxyLayer {
    header: Bytes,
}

impl SendProxyLayer {
    /// Writes these bytes, e.g. of [`SendProxy::header_for`].
    pub fn new(header: Bytes) -> Self {
        Self { header }
    }

    /// Says that connections are the balancer's own.
    pub fn local(send: &SendProxy) -> Self {
        Self::new(send.local())
    }
}

impl<D> Layer<D> for SendProxyLayer {
    type Service = SendProxyHeader<D>;

    fn layer(&self, dial: D) -> Self::Service {
        SendProxyHeader { header: self.header.clone(), dial }
    }
}

/// A dial service: dials with `D`, then writes a PROXY header. Made by [`SendProxyLayer`].
///
/// It answers with the stream once the header has been written whole and flushed. It has no
/// deadline of its own.
#[derive(Clone, Debug)]
pub struct SendProxyHeader<D> {
    header: Bytes,
    dial: D,
}

impl<T, D> Service<T> for SendProxyHeader<D>
where
    T: Target,
    D: Service<T>,
    D::Response: AsyncWrite + Unpin,
    D::Error: Into<BoxError>,
{
    type Response = D::Response;
    type Error = SendProxyError;
    type Future = SendProxyFuture<D::Future, D::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendProxyError>> {
        self.dial.poll_ready(cx).map_err(|e| SendProxyError::Dial(e.into()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        let dialling = self.dial.call(target);
        SendProxyFuture { dialling, stream: None, header: self.header.clone() }
    }
}

pin_project! {
    /// A dial under way, and the header after it.
    ///
    /// Cancel safe: dropping it closes what it had begun.
    #[must_use = "futures do nothing unless polled"]
    pub struct SendProxyFuture<F, IO> {
        #[pin]
        dialling: F,
        // There as soon as `dialling` is done, until all is.
        stream: Option<IO>,
        header: Bytes,
    }
}

impl<F, IO> fmt::Debug for SendProxyFuture<F, IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendProxyFuture").finish_non_exhaustive()
    }
}

impl<F, IO, E> Future for SendProxyFuture<F, IO>
where
    F: Future<Output = Result<IO, E>>,
    IO: AsyncWrite + Unpin,
    E: Into<BoxError>,
{
    type Output = Result<IO, SendProxyError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut stream = match this.stream.take() {
            Some(stream) => stream,
            None => ready!(this.dialling.as_mut().poll(cx))
                .map_err(|error| SendProxyError::Dial(error.into()))?,
        };
        match poll_write_all(&mut stream, this.header, cx) {
            Poll::Ready(done) => Poll::Ready(done.map(|()| stream).map_err(SendProxyError::Write)),
            Poll::Pending => {
                *this.stream = Some(stream);
                Poll::Pending
            }
        }
    }
}

fn poll_write_all<IO: AsyncWrite + Unpin>(
    stream: &mut IO,
    header: &mut Bytes,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while !header.is_empty() {
        let written = ready!(Pin::new(&mut *stream).poll_write(cx, header))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        header.advance(written);
    }
    Pin::new(stream).poll_flush(cx)
}

/// Why a [`SendProxyHeader`] failed.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum SendProxyError {
    /// The dial service failed; its error has the details.
    #[error("cannot dial")]
    Dial(#[source] BoxError),

    /// The connection was made, and failed before it had taken the header.
    #[error("cannot write the PROXY header")]
    Write(#[source] io::Error),
}

#[cfg(test)]
mod tests;
