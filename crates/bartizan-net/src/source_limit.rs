//! How fast one source may open connections.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::{BoxError, Conn};

mod bucket;
mod table;

pub use bucket::BadRate;

use bucket::Bucket;
use table::{Source, Table};

/// Closes connections of sources that open them too fast.
///
/// Each source has a token bucket: it holds `burst` connections and fills with `rate` of them per
/// second. A source is an IPv4 address, or an IPv6 network of 64 bits, which is what one customer
/// has. It is the [`peer`](crate::ConnInfo::peer): behind a layer that reads PROXY headers, the
/// client and not the balancer before it.
///
/// Before `TlsTerminate`, this is a limit on handshakes: a refused connection costs none. It is
/// closed without an answer, most often by a reset.
///
/// Memory is fixed: 1 MiB for 65,536 sources by default. Of more than that, those are forgotten whose
/// buckets are the fullest, which is the least that can be lost. Clones share the buckets, so all
/// workers count together.
///
/// Refusals are counted ([`refused`](Self::refused)) and told of at debug level, and at most every
/// 10 s at info level with their number (target `bartizan_net`).
#[derive(Clone, Debug)]
pub struct SourceLimitLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bucket: Bucket,
    table: Table,
    // What the table's times count from.
    start: Instant,
    refused: AtomicU64,
    told_at: AtomicU64,
    told: AtomicU64,
}

impl SourceLimitLayer {
    /// Allows `rate` new connections per second and source, and `burst` at once.
    ///
    /// # Errors
    ///
    /// [`BadRate`] if one of them is not above zero, or the rate is above a thousand million.
    pub fn new(rate: f64, burst: u32) -> Result<Self, BadRate> {
        Self::with_sources(rate, burst, SOURCES)
    }

    /// As [`new`](Self::new), and remembers so many sources (at least 1,024) at 16 bytes each.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_sources(rate: f64, burst: u32, sources: usize) -> Result<Self, BadRate> {
        let shared = Shared {
            bucket: Bucket::new(rate, burst)?,
            table: Table::new(sources.max(FEWEST_SOURCES)),
            start: Instant::now(),
            refused: AtomicU64::new(0),
            told_at: AtomicU64::new(0),
            told: AtomicU64::new(0),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How many connections were refused.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl<S> Layer<S> for SourceLimitLayer {
    type Service = SourceLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SourceLimit { inner, shared: Arc::clone(&self.shared) }
    }
}

/// Closes connections of sources that open them too fast. See [`SourceLimitLayer`].
#[derive(Clone, Debug)]
pub struct SourceLimit<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, IO> Service<Conn<IO>> for SourceLimit<S>
where
    S: Service<Conn<IO>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = SourceLimitError;
    type Future = SourceLimitFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SourceLimitError>> {
        self.inner.poll_ready(cx).map_err(|error| SourceLimitError::Inner(error.into()))
    }

    fn call(&mut self, conn: Conn<IO>) -> Self::Future {
        let peer = conn.info().peer().ip();
        let refused = !self.shared.admits(peer);
        SourceLimitFuture { peer, inner: if refused { None } else { Some(self.inner.call(conn)) } }
    }
}

impl Shared {
    fn admits(&self, peer: IpAddr) -> bool {
        let now = self.start.elapsed().as_nanos() as u64;
        let admitted = self.table.update(Source::of(peer), now, |due| self.bucket.take(due, now));
        if !admitted {
            let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::debug!(%peer, "connection refused: its source opens them too fast");
            self.tell(refused, now);
        }
        admitted
    }

    fn tell(&self, refused: u64, now: u64) {
        let at = self.told_at.load(Ordering::Relaxed);
        let due = at == 0 || now.saturating_sub(at) >= TELL_EVERY.as_nanos() as u64;
        let won = due
            && self
                .told_at
                .compare_exchange(at, now.max(1), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if won {
            let before = self.told.swap(refused, Ordering::Relaxed);
            let count = refused.saturating_sub(before);
            tracing::info!(count, "connections refused: their sources open them too fast");
        }
    }
}

pin_project! {
    /// Resolves to what the inner service answers, or at once to a refusal.
    #[must_use = "futures do nothing unless polled"]
    #[derive(Debug)]
    pub struct SourceLimitFuture<F> {
        peer: IpAddr,
        #[pin]
        inner: Option<F>,
    }
}

impl<F, T, E> Future for SourceLimitFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, SourceLimitError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(Err(SourceLimitError::TooFast { peer: *this.peer }));
        };
        let answer = ready!(inner.poll(cx));
        Poll::Ready(answer.map_err(|error| SourceLimitError::Inner(error.into())))
    }
}

/// Why a connection behind a [`SourceLimitLayer`] ended with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceLimitError {
    /// Its source opens connections too fast.
    #[error("{peer} opens connections too fast")]
    TooFast {
        /// The client's address.
        peer: IpAddr,
    },
    /// The inner service failed.
    #[error(transparent)]
    Inner(BoxError),
}

/// A busy site's clients of some minutes.
const SOURCES: usize = 65_536;

/// Fewer save nothing, and a few clients more would make each other forgotten.
const FEWEST_SOURCES: usize = 1_024;

/// An attack must not fill the log.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
