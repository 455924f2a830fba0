//! Checking how long certificates of backends are still good.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bartizan_net::clock::{Clock, SystemClock};
use bartizan_net::{BoxError, DialledStream, PeerIdentity};
use tower_service::Service;

use super::ProbeRun;
use super::dialler::{Dialler, dialled};
use crate::{Backend, BackendId, Verdict};

/// A probe out of a dial service with TLS: passes if the handshake does, and looks at the certificate
/// that the backend has shown.
///
/// What is left of it is kept for status pages: see [`certificates`](Self::certificates). If that is
/// little, it is told (tracing, target `bartizan_balance`, warn), once per backend and certificate;
/// if it is less than [required](Self::require_days), the check fails.
///
/// ```
/// use bartizan_balance::{CertificateProbe, Checks};
/// # use bartizan_net::TcpDial as TlsStack;
///
/// // `TlsStack` stands for a dial service with TLS in it.
/// let probe = CertificateProbe::new(TlsStack::new()).warn_days(21).require_days(1);
/// let certificates = probe.certificates();
/// let checks = Checks::new(probe);
/// for life in certificates.all() {
///     println!("{life}");
/// }
/// ```
///
/// A stack without TLS, or one that does not tell whom it has met
/// ([`DialledStream::peer_identity`]), shows no certificate: that passes unless days are required, and
/// is told once.
#[derive(Clone, Debug)]
pub struct CertificateProbe<D, C = SystemClock> {
    dial: Dialler<D>,
    clock: C,
    warn: i64,
    require: Option<i64>,
    seen: Certificates,
}

impl<D> CertificateProbe<D> {
    /// Dials with `dial`, by the system's clock.
    pub fn new(dial: D) -> Self {
        let (dial, seen) = (Dialler::new(dial), Certificates::default());
        Self { dial, clock: SystemClock, warn: WARN_DAYS, require: None, seen }
    }
}

impl<D, C> CertificateProbe<D, C> {
    /// Tells of certificates that have fewer days left. Default: 14. With 0, only of those that have
    /// expired.
    pub fn warn_days(self, days: u32) -> Self {
        Self { warn: days.into(), ..self }
    }

    /// Fails backends whose certificate has fewer days left, or which show none. Default: whatever
    /// passes the handshake passes.
    pub fn require_days(self, days: u32) -> Self {
        Self { require: Some(days.into()), ..self }
    }

    /// Goes by another clock.
    pub fn clock<C2: Clock>(self, clock: C2) -> CertificateProbe<D, C2> {
        let Self { dial, warn, require, seen, .. } = self;
        CertificateProbe { dial, clock, warn, require, seen }
    }

    /// What it has seen, and will see. Clones of the probe share it.
    pub fn certificates(&self) -> Certificates {
        self.seen.clone()
    }
}

impl<D, C> Service<Arc<Backend>> for CertificateProbe<D, C>
where
    D: Service<Arc<Backend>, Error: Into<BoxError>>,
    D::Response: DialledStream,
    D::Future: Send + 'static,
    C: Clock + Clone + 'static,
{
    type Response = Verdict;
    type Error = Infallible;
    type Future = ProbeRun;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.dial.poll_ready(cx).map(Ok)
    }

    fn call(&mut self, backend: Arc<Backend>) -> ProbeRun {
        let dial = self.dial.call(Arc::clone(&backend));
        let look = Look { warn: self.warn, require: self.require, seen: self.seen.clone() };
        let clock = self.clock.clone();
        Box::pin(async move {
            Ok(match dialled(dial).await {
                Ok(io) => look.at(&backend, io.peer_identity(), clock.now()),
                Err(verdict) => verdict,
            })
        })
    }
}

/// The certificate that a backend has shown last, and how much of it is left. Its text is a sentence.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateLife {
    /// The backend's name.
    pub backend: Arc<str>,
    /// Until when the certificate is valid.
    pub not_after: SystemTime,
    /// Whole days that were left when it was seen; below 0 once it has expired.
    pub days_left: i64,
    /// When it was seen.
    pub seen: SystemTime,
    /// SHA-256 of the certificate.
    pub leaf_sha256: [u8; 32],
}

impl fmt::Display for CertificateLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, not_after, days_left, .. } = self;
        let until = httpdate::fmt_http_date(*not_after);
        write!(f, "the certificate of {backend} is good until {until}: {days_left} days")
    }
}

/// The certificates that a [`CertificateProbe`] has seen last. Clones share them.
///
/// Holds no more than one for each backend that there still is.
#[derive(Clone, Debug, Default)]
pub struct Certificates(Arc<Mutex<HashMap<BackendId, Seen>>>);

#[derive(Debug)]
struct Seen {
    backend: Weak<Backend>,
    life: Option<CertificateLife>,
    told: Told,
}

/// What was told of last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    NoCertificate,
    NearEnd([u8; 32]),
}

impl Certificates {
    /// Of one backend. `None` if it has not been seen yet, or shows none.
    pub fn of(&self, backend: &Backend) -> Option<CertificateLife> {
        self.lock().get(&backend.id())?.life.clone()
    }

    /// Of all backends that there still are, those that expire first at the beginning.
    pub fn all(&self) -> Vec<CertificateLife> {
        let seen = self.lock();
        let stays = seen.values().filter(|seen| seen.backend.strong_count() > 0);
        let mut all: Vec<_> = stays.filter_map(|seen| seen.life.clone()).collect();
        drop(seen);
        all.sort_by(|a, b| (a.not_after, &a.backend).cmp(&(b.not_after, &b.backend)));
        all
    }

    /// Keeps what was seen. Returns whether `told` is news.
    fn keep(&self, backend: &Arc<Backend>, life: Option<CertificateLife>, told: Told) -> bool {
        let mut seen = self.lock();
        match seen.entry(backend.id()) {
            Entry::Occupied(mut entry) => {
                let entry = entry.get_mut();
                let was = std::mem::replace(&mut entry.told, told);
                entry.life = life;
                told != Told::Nothing && told != was
            }
            Entry::Vacant(entry) => {
                entry.insert(Seen { backend: Arc::downgrade(backend), life, told });
                seen.retain(|_, seen| seen.backend.strong_count() > 0);
                told != Told::Nothing
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BackendId, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look at what a backend has shown.
struct Look {
    warn: i64,
    require: Option<i64>,
    seen: Certificates,
}

impl Look {
    fn at(&self, backend: &Arc<Backend>, peer: Option<&PeerIdentity>, now: SystemTime) -> Verdict {
        let life = peer.and_then(|peer| life(backend, peer, now));
        let told = match &life {
            None => Told::NoCertificate,
            Some(life) if life.days_left < self.warn => Told::NearEnd(life.leaf_sha256),
            Some(_) => Told::Nothing,
        };
        if self.seen.keep(backend, life.clone(), told) {
            tell(backend, life.as_ref());
        }
        match (self.require, life) {
            (None, _) => Verdict::Pass,
            (Some(_), None) => Verdict::fail("it shows no certificate; is there TLS in the stack?"),
            (Some(days), Some(life)) if life.days_left < days => {
                Verdict::fail(format_args!("{life}, where {days} are required"))
            }
            (Some(_), Some(_)) => Verdict::Pass,
        }
    }
}

fn tell(backend: &Backend, life: Option<&CertificateLife>) {
    let backend = backend.name();
    match life {
        None => tracing::warn!(%backend, "no certificate is shown; is there TLS in the stack?"),
        Some(life) => {
            let (days, until) = (life.days_left, httpdate::fmt_http_date(life.not_after));
            tracing::warn!(%backend, days, until, "the certificate of a backend expires soon");
        }
    }
}

fn life(backend: &Backend, peer: &PeerIdentity, now: SystemTime) -> Option<CertificateLife> {
    let not_after = peer.not_after.map(|not_after| not_after.min(latest()))?;
    let days_left = days_between(now, not_after);
    let (backend, leaf_sha256) = (Arc::clone(backend.name()), peer.leaf_sha256);
    Some(CertificateLife { backend, not_after, days_left, seen: now, leaf_sha256 })
}

/// Whole days, rounded down: an hour before the end it is 0, an hour after it -1.
fn days_between(now: SystemTime, end: SystemTime) -> i64 {
    match end.duration_since(now) {
        Ok(left) => (left.as_secs() / DAY) as i64,
        Err(over) => -1 - (over.duration().as_secs() / DAY) as i64,
    }
}

/// The last second of the year 9999: RFC 5280 has no later one, and nor has a date of HTTP.
fn latest() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799)
}

const DAY: u64 = 86_400;

/// As `CertificateCheck` of `bartizan-tls`: enough for whoever renews by hand.
const WARN_DAYS: i64 = 14;

#[cfg(test)]
mod tests;
