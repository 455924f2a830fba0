//! What a dialled stream tells of itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::Replay;

/// A stream that a dial service answers with, and what whoever uses it may want to know.
///
/// All of it has a default: for a stream of one's own, `impl DialledStream for MyStream {}` will do.
pub trait DialledStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The application protocol that was agreed on by ALPN (RFC 7301), such as `h2`.
    fn alpn(&self) -> Option<&[u8]> {
        None
    }

    /// Who the other side has proven to be.
    fn peer_identity(&self) -> Option<&PeerIdentity> {
        None
    }

    /// Until when it may be given new work. What is kept apart from the stream goes on to tell.
    fn validity(&self) -> Validity {
        Validity::default()
    }
}

impl DialledStream for TcpStream {}

#[cfg(unix)]
impl DialledStream for UnixStream {}

impl DialledStream for DuplexStream {}

impl<IO: DialledStream> DialledStream for Replay<IO> {
    fn alpn(&self) -> Option<&[u8]> {
        self.io().alpn()
    }

    fn peer_identity(&self) -> Option<&PeerIdentity> {
        self.io().peer_identity()
    }

    fn validity(&self) -> Validity {
        self.io().validity()
    }
}

/// Who the other side of a TLS connection has proven to be.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Until when its certificate is valid.
    pub not_after: Option<SystemTime>,
    /// SHA-256 of the certificate's SubjectPublicKeyInfo, which is what pins are made of.
    pub spki_sha256: [u8; 32],
    /// SHA-256 of the certificate.
    pub leaf_sha256: [u8; 32],
}

impl PeerIdentity {
    /// An identity by its digests.
    pub fn new(spki_sha256: [u8; 32], leaf_sha256: [u8; 32]) -> Self {
        Self { not_after: None, spki_sha256, leaf_sha256 }
    }
}

/// How long a connection may be given new work. Clones tell of the same connection.
///
/// What it rests on may be superseded (an identity, a set of authorities), or run out (a
/// certificate). Work that is under way then goes on; the connection takes no more, and closes.
#[derive(Clone, Debug, Default)]
pub struct Validity {
    // Most streams have none.
    limits: Option<Arc<Limits>>,
}

#[derive(Debug)]
struct Limits {
    until: Option<Instant>,
    rests_on: Box<[Superseded]>,
}

impl Validity {
    /// Over at `until`, or as soon as something that it rests on is superseded.
    pub fn new(until: Option<Instant>, rests_on: impl IntoIterator<Item = Superseded>) -> Self {
        let rests_on: Box<[_]> = rests_on.into_iter().collect();
        let unlimited = until.is_none() && rests_on.is_empty();
        Self { limits: (!unlimited).then(|| Arc::new(Limits { until, rests_on })) }
    }

    /// Over as well as soon as `flag` is set.
    pub fn resting_on(&self, flag: Superseded) -> Self {
        let limits = self.limits.as_deref();
        let others = limits.map_or(&[][..], |limits| &limits.rests_on).iter().cloned();
        Self::new(limits.and_then(|limits| limits.until), others.chain([flag]))
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        let Some(limits) = &self.limits else { return false };
        limits.rests_on.iter().any(Superseded::is_set)
            || limits.until.is_some_and(|until| until <= Instant::now())
    }
}

/// A flag that is set once, when there is something newer. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Superseded(Arc<AtomicBool>);

impl Superseded {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_valid_until_its_time_or_until_it_is_superseded() {
        assert!(!Validity::default().is_over());
        let (roots, identity) = (Superseded::new(), Superseded::new());
        let soon = Instant::now() + Duration::from_secs(5);
        let timed = Validity::new(Some(soon), []);
        let both = Validity::new(None, [roots, identity.clone()]);
        let copy = both.clone();
        assert!(!timed.is_over() && !copy.is_over());
        identity.set();
        assert!(copy.is_over() && both.is_over());
        let flag = Superseded::new();
        let more = [timed.resting_on(flag.clone()), both.resting_on(flag.clone())];
        assert_eq!(more.each_ref().map(Validity::is_over), [false, true]);
        let last = timed.resting_on(Superseded::new());
        flag.set();
        assert!(more[0].is_over() && !timed.is_over() && !last.is_over());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(timed.is_over() && last.is_over());
    }
}
