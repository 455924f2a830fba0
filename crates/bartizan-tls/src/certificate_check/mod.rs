//! Checking the certificate that a server presents, from outside.
//!
//! Where TLS passes through closed, clients see the backends' own certificates. A
//! [`CertificateCheck`] under the balancer's checks sees them first.

mod answer;
mod error;
mod handshake;
mod reminder;
mod same;
mod verifier;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_net::clock::SystemClock;
use bartizan_net::{Address, BoxError, Target};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;

use self::handshake::Name;
use self::reminder::Reminder;
use crate::server_trust::ServerTrust;
use crate::{CertificateProblem, Clock, store};

pub use self::answer::CheckedCertificate;
pub use self::error::CertificateCheckError;
pub use self::same::SameCertificate;

/// Makes a [`CertificateCheck`] of a dial service.
///
/// ```
/// # fn run(dial: bartizan_net::TcpDial) -> Result<(), Box<dyn std::error::Error>> {
/// use bartizan_tls::{CertificateCheckLayer, SameCertificate, ServerRoots};
/// use tower_layer::Layer;
///
/// let check = CertificateCheckLayer::new(ServerRoots::system()?)
///     .name("shop.example.com")
///     .same_certificate(SameCertificate::enforce())
///     .layer(dial);
/// # drop(check); Ok(()) }
/// ```
///
/// Beneath a `DialProbe` of `bartizan-balance`, with an `init_state` of down, a backend whose
/// certificate is wrong is never picked.
#[derive(Clone, Debug)]
pub struct CertificateCheckLayer {
    settings: Settings,
}

#[derive(Clone, Debug)]
struct Settings {
    // Without, whatever is presented is accepted.
    trust: Option<ServerTrust>,
    name: Option<Arc<str>>,
    alpn: Vec<Vec<u8>>,
    clock: Arc<dyn Clock>,
    min_days_left: u64,
    warn_days: u64,
    same: Option<SameCertificate>,
    // Shared by clones, so that these together tell once a day.
    reminder: Arc<Reminder>,
}

impl CertificateCheckLayer {
    /// Accepts certificates that `trust` vouches for: [`ServerRoots`](crate::ServerRoots) that stay as
    /// they are, or a [`ServerTrust`] that is watched, with all that it asks for.
    pub fn new(trust: impl Into<ServerTrust>) -> Self {
        Self::with(Some(trust.into()))
    }

    /// Accepts any certificate, from any authority, for any name and at any time: to look at what
    /// is presented, and never to judge by. That the server has the key is still checked.
    pub fn dangerous_accepting_any() -> Self {
        Self::with(None)
    }

    fn with(trust: Option<ServerTrust>) -> Self {
        let settings = Settings {
            trust,
            name: None,
            alpn: [b"h2".as_slice(), b"http/1.1"].map(<[u8]>::to_vec).into(),
            clock: Arc::new(SystemClock),
            min_days_left: 0,
            warn_days: WARN_DAYS,
            same: None,
            reminder: Arc::default(),
        };
        Self { settings }
    }

    /// The name that the certificate has to be for, a host name or an IP address; a host name is
    /// sent as SNI as well. Default: the server name of each target.
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// The application protocols to offer, in this order. Default: `h2`, `http/1.1`, as browsers
    /// do. None: the extension is left out.
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        let protocols = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec());
        self.settings.alpn = protocols.collect();
        self
    }

    /// Where the time comes from that certificates are valid at. Default: the system's clock.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.settings.clock = Arc::new(clock);
        self
    }

    /// Refuses a certificate with fewer whole days left. Default: 0, so that only one which has
    /// expired is refused.
    pub fn min_days_left(mut self, days: u64) -> Self {
        self.settings.min_days_left = days;
        self
    }

    /// Tells of a certificate with fewer whole days left, once a day and address, in a tracing event
    /// (target `bartizan_tls`, warn). Default: 14. With 0, never.
    pub fn warn_days(mut self, days: u64) -> Self {
        self.settings.warn_days = days;
        self
    }

    /// Compares the chains of all targets. Default: they are not compared.
    pub fn same_certificate(mut self, same: SameCertificate) -> Self {
        self.settings.same = Some(same);
        self
    }
}

impl<D> Layer<D> for CertificateCheckLayer {
    type Service = CertificateCheck<D>;

    fn layer(&self, dial: D) -> Self::Service {
        CertificateCheck { dial, settings: Arc::new(self.settings.clone()) }
    }
}

/// A dial service: dials with `D`, makes a TLS handshake, verifies the certificate that is
/// presented, closes, and answers with the [`CheckedCertificate`].
///
/// The handshake is always a full one, in TLS 1.2 or 1.3: in a resumed one no certificate is
/// presented. An error that is about the certificate has
/// [`WrongIdentity`](bartizan_net::WrongIdentity) behind it; others are those of any dial. A
/// backend that asks for a certificate of the client's gets none. If it breaks off for that, its own
/// has been presented and verified already, and has passed.
///
/// It has no deadline of its own: the caller's is over all of it. At the end it waits up to 100 ms
/// for the other side to close as well. Cancel safe: dropping the future closes the connection.
#[derive(Clone, Debug)]
pub struct CertificateCheck<D> {
    dial: D,
    settings: Arc<Settings>,
}

impl<D, T> Service<T> for CertificateCheck<D>
where
    T: Target,
    D: Service<T>,
    D::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    D::Error: Into<BoxError>,
    D::Future: Send + 'static,
{
    type Response = CheckedCertificate;
    type Error = CertificateCheckError;
    type Future = CertificateCheckFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CertificateCheckError>> {
        self.dial.poll_ready(cx).map_err(|error| CertificateCheckError::Dial(error.into()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        let address = target.address().clone();
        let name = match self.settings.name_of(&target) {
            Ok(name) => name,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let pending = Pending::new(&self.settings, &address);
        let dial = self.dial.call(target);
        let settings = Arc::clone(&self.settings);
        Box::pin(async move {
            let io = dial.await.map_err(|error| CertificateCheckError::Dial(error.into()))?;
            let (found, open) = handshake::run(&settings, name, io).await?;
            settings.judge(&found, pending)?;
            if let Some(tls) = open {
                handshake::close(tls).await;
            }
            Ok(found)
        })
    }
}

/// A check under way. Boxed: once per check that costs nothing.
pub type CertificateCheckFuture =
    Pin<Box<dyn Future<Output = Result<CheckedCertificate, CertificateCheckError>> + Send>>;

impl Settings {
    fn name_of(&self, target: &impl Target) -> Result<Name, CertificateCheckError> {
        let Some(name) = self.name.as_deref().or_else(|| target.server_name()) else {
            return Err(CertificateCheckError::NoName { address: target.address().clone() });
        };
        let bare = name.strip_suffix('.').unwrap_or(name);
        let server = ServerName::try_from(bare.to_owned())
            .map_err(|_| CertificateCheckError::BadName { name: name.to_owned() })?;
        Ok(Name { text: bare.to_owned(), server })
    }

    /// What is asked of a certificate that is valid.
    fn judge(
        &self,
        found: &CheckedCertificate,
        pending: Pending,
    ) -> Result<(), CertificateProblem> {
        let left = found.days_left;
        if left < self.min_days_left {
            let (least, until) = (self.min_days_left, store::date(found.not_after));
            return Err(CertificateProblem::TooFewDays { left, least, until });
        }
        let now = tokio::time::Instant::now().into_std();
        let address = pending.address.clone();
        if self.reminder.is_due(&address, left < self.warn_days, now) {
            let not_after = store::date(found.not_after);
            tracing::warn!(%address, days_left = left, not_after, "a certificate expires soon");
        }
        match pending.compare(found, now) {
            same::Outcome::Same => Ok(()),
            same::Outcome::Tell(problem) => {
                tracing::warn!(%address, %problem, "a certificate chain differs from the others");
                Ok(())
            }
            same::Outcome::Fail(problem) => Err(problem),
        }
    }
}

/// A check that is not over. If it ends without a comparison, by an error or because the caller's
/// deadline dropped it, what its target presented earlier does not count any more.
#[derive(Debug)]
struct Pending {
    same: Option<SameCertificate>,
    address: Address,
}

impl Pending {
    fn new(settings: &Settings, address: &Address) -> Self {
        Self { same: settings.same.clone(), address: address.clone() }
    }

    fn compare(mut self, found: &CheckedCertificate, now: std::time::Instant) -> same::Outcome {
        let Some(same) = self.same.take() else { return same::Outcome::Same };
        let chain = same::Chain { fingerprint: found.chain, not_before: found.not_before };
        same.observe(&self.address, chain, now)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(same) = &self.same {
            same.forget(&self.address);
        }
    }
}

/// Time for people to act: certificates of 90 days are renewed after 60, so half of the rest is
/// gone.
const WARN_DAYS: u64 = 14;

#[cfg(test)]
mod tests;
