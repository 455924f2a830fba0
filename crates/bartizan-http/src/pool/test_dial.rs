//! A dial service for tests, whose streams tell what the test wants and note how they end.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_balance::Backend;
use bartizan_net::{DialledStream, Superseded, TcpDial, Validity};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::{Service, ServiceExt};

#[derive(Clone, Debug, Default)]
pub(crate) struct TestDial {
    pub(crate) alpn: Option<&'static [u8]>,
    pub(crate) noted: Arc<Noted>,
}

#[derive(Debug, Default)]
pub(crate) struct Noted {
    pub(crate) dialled: AtomicUsize,
    // Streams that were shut down, of those that are gone.
    shut: AtomicUsize,
    gone: AtomicUsize,
    identity: Mutex<Superseded>,
    // How many of the next dials end when their validity does.
    outdated: AtomicUsize,
}

impl TestDial {
    pub(crate) fn alpn(alpn: &'static [u8]) -> Self {
        Self { alpn: Some(alpn), ..Self::default() }
    }

    pub(crate) fn dialled(&self) -> usize {
        self.noted.dialled.load(Ordering::SeqCst)
    }

    /// Ends the validity of all streams so far.
    pub(crate) fn supersede(&self) {
        std::mem::take(&mut *self.noted.identity.lock().unwrap()).set();
    }

    /// Ends the validity of the next streams, so many of them, while they are dialled.
    pub(crate) fn supersede_next(&self, count: usize) {
        self.noted.outdated.store(count, Ordering::SeqCst);
    }

    /// Waits until so many streams are gone; returns how many of them were shut down before.
    pub(crate) async fn until_gone(&self, count: usize) -> usize {
        let gone = async {
            while self.noted.gone.load(Ordering::SeqCst) < count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("they stay");
        self.noted.shut.load(Ordering::SeqCst)
    }
}

impl Service<Arc<Backend>> for TestDial {
    type Response = TestStream;
    type Error = <TcpDial as Service<Arc<Backend>>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<TestStream, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        let (alpn, noted) = (self.alpn, Arc::clone(&self.noted));
        noted.dialled.fetch_add(1, Ordering::SeqCst);
        let validity = Validity::new(None, [noted.identity.lock().unwrap().clone()]);
        Box::pin(async move {
            let io = TcpDial::new().oneshot(backend).await?;
            let outdated = |left: usize| left.checked_sub(1);
            let order = Ordering::SeqCst;
            if noted.outdated.fetch_update(order, order, outdated).is_ok() {
                std::mem::take(&mut *noted.identity.lock().unwrap()).set();
            }
            Ok(TestStream { io, alpn, validity, noted, shut: false })
        })
    }
}

#[derive(Debug)]
pub(crate) struct TestStream {
    io: TcpStream,
    alpn: Option<&'static [u8]>,
    validity: Validity,
    noted: Arc<Noted>,
    shut: bool,
}

impl Drop for TestStream {
    fn drop(&mut self) {
        self.noted.shut.fetch_add(usize::from(self.shut), Ordering::SeqCst);
        self.noted.gone.fetch_add(1, Ordering::SeqCst);
    }
}

impl DialledStream for TestStream {
    fn alpn(&self) -> Option<&[u8]> {
        self.alpn
    }

    fn validity(&self) -> Validity {
        self.validity.clone()
    }
}

impl AsyncRead for TestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for TestStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
