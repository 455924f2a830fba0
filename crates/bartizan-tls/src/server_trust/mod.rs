//! Whom a backend has to prove to be.

mod dangerous;
mod names;
mod pin;
mod presented;
mod refusal;
mod source;
mod spiffe;
mod verifier;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bartizan_net::clock::SystemClock;

use self::source::{ChainConfig, Config, RootSource, TrustSource};
use self::verifier::Judge;
use crate::Clock;
use crate::generations::{Generation, Generations, Source as _, SourceError};
use crate::pem_source::PemSource;
use crate::server_roots::ServerRoots;
use crate::trust::{CrlDepth, CrlExpiry, TrustNotice, UnknownRevocation};

pub use self::dangerous::DangerousNoVerify;
pub use self::pin::{Pin, PinError};
pub use self::presented::PresentedCertificate;
pub(crate) use self::refusal::{Refused, observe};
pub(crate) use self::source::TrustValue;
pub use self::spiffe::BadSpiffeId;

/// Whom a backend has to prove to be: which authorities vouch for it, which keys it may have, and
/// what its certificate has to be for. Clones are handles on the same.
///
/// ```no_run
/// use bartizan_tls::ServerTrust;
///
/// let trust = ServerTrust::builder()
///     .roots("/etc/bartizan/backends-ca.pem")
///     .crl("/etc/bartizan/backends.crl")
///     .accept_names(["backend.internal"])
///     .watch()?;
/// # Ok::<_, bartizan_tls::SourceError>(())
/// ```
///
/// # Roots
///
/// A backend's chain has to lead to one of the roots, all of it and the root in date, and good for
/// servers (EKU `serverAuth`, or no EKU). Each certificate of an authority is trusted for itself, an
/// intermediate one as well as a root.
///
/// A server's own certificate may stand among them, if nobody issued it but itself: it vouches for
/// itself alone, when it is presented byte for byte, be it marked as an authority or not (`openssl
/// req -x509` marks it so). Its dates, its name and its use are verified like those of others;
/// revocation lists say nothing of it. Certificates that are neither are passed over with a notice.
///
/// # Names
///
/// What is dialled has to be among the alternative names of the certificate (RFC 9525: a common name
/// never counts, a wildcard stands for one whole label), unless other names or SPIFFE IDs are set.
///
/// # Revocation
///
/// As with [`ClientAuth`](crate::ClientAuth): without a list nothing is looked up, with lists every
/// certificate below the trusted one needs one of its issuer that is in date.
#[derive(Clone)]
pub struct ServerTrust {
    generations: Generations<TrustSource>,
}

impl ServerTrust {
    /// To verify chains. It takes roots at least.
    pub fn builder() -> ServerTrustBuilder {
        ServerTrustBuilder { config: ChainConfig::default(), clock: Arc::new(SystemClock) }
    }

    /// Roots from one file or from memory, with all else by default. Reads it at once, and does not
    /// watch it.
    ///
    /// # Errors
    ///
    /// As [`ServerTrustBuilder::load`].
    pub fn from_pem(roots: impl Into<PemSource>) -> Result<Self, SourceError> {
        Self::builder().roots(roots).load()
    }

    /// The roots of the operating system, with all else by default.
    ///
    /// # Errors
    ///
    /// As [`ServerTrustBuilder::load`].
    pub fn system() -> Result<Self, SourceError> {
        Self::builder().system_roots().load()
    }

    /// To go by pins alone: a backend has to have one of these keys, or certificates, and has to
    /// prove that it has. Its dates are verified; **neither its chain nor its name is**, so two
    /// backends with the same key can stand in for each other, and nothing is revoked but by taking
    /// its pin away.
    ///
    /// # Errors
    ///
    /// [`SourceError::NoPins`], if there is none.
    pub fn pinned_only(pins: impl IntoIterator<Item = Pin>) -> Result<Self, SourceError> {
        let config = Config::PinnedOnly(pins.into_iter().collect());
        Generations::load(TrustSource::fixed(config)).map(|generations| Self { generations })
    }

    /// To verify nothing, as `decision` says, and to warn of it.
    pub fn dangerous(decision: DangerousNoVerify) -> Self {
        decision.tell();
        let value = TrustValue::of_pins(Judge::Nobody, &decision.pins);
        let source = TrustSource::fixed(Config::Dangerous(decision));
        Self { generations: Generations::starting_with(value, source) }
    }

    /// Reads the files again, and the roots of the system if these count. If they mean the same as
    /// before, the generation stays. Its number is returned.
    ///
    /// Blocks while it reads. New handshakes go by the new generation at once; to connections that
    /// are established nothing happens here.
    ///
    /// # Errors
    ///
    /// [`SourceError`]. The last good generation stays in force.
    pub fn reload(&self) -> Result<u64, SourceError> {
        self.generations.reload()
    }

    /// The number of the generation in force, from 1.
    pub fn generation(&self) -> u64 {
        self.current().number
    }

    /// Remarks on the files of the generation in force: they are in use, but perhaps not as they
    /// were meant. Each is also told in a tracing event (target `bartizan_tls`, warn) when it is new.
    pub fn notices(&self) -> Vec<TrustNotice> {
        self.current().value.notices.clone()
    }

    /// The files that it is read from.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.generations.source().paths()
    }

    /// The generation in force, to stay with for a whole handshake.
    pub(crate) fn current(&self) -> Arc<Generation<TrustValue>> {
        self.generations.current()
    }
}

impl From<ServerRoots> for ServerTrust {
    /// With all else by default. Certificates that could vouch for nobody are passed over.
    fn from(roots: ServerRoots) -> Self {
        let value = TrustValue::of_roots(&roots);
        let roots = vec![RootSource::Ready(roots)];
        let source = TrustSource::fixed(Config::Chain(ChainConfig { roots, ..<_>::default() }));
        Self { generations: Generations::starting_with(value, source) }
    }
}

impl fmt::Debug for ServerTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current();
        f.debug_struct("ServerTrust")
            .field("generation", &current.number)
            .field("value", &current.value)
            .finish_non_exhaustive()
    }
}

/// Makes a [`ServerTrust`]. Files are named here, and read by [`load`](Self::load) or
/// [`watch`](Self::watch).
#[derive(Clone, Debug)]
#[must_use = "finish it with `load` or `watch`"]
pub struct ServerTrustBuilder {
    config: ChainConfig,
    clock: Arc<dyn Clock>,
}

impl ServerTrustBuilder {
    /// Adds roots: the certificates of a PEM file, or of PEM text in memory.
    pub fn roots(mut self, source: impl Into<PemSource>) -> Self {
        self.config.roots.push(RootSource::Pem(source.into()));
        self
    }

    /// Adds the roots of the operating system, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR`
    /// name. They are read again by a reload, but not watched.
    pub fn system_roots(mut self) -> Self {
        self.config.roots.push(RootSource::System);
        self
    }

    /// Adds revocation lists: a PEM file with any number of them (`X509 CRL`), or one list as DER.
    pub fn crl(mut self, source: impl Into<PemSource>) -> Self {
        self.config.crls.push(source.into());
        self
    }

    /// Sets what a revocation list means after its next update was due. Default:
    /// [`CrlExpiry::Enforce`].
    pub fn crl_expiry(mut self, expiry: CrlExpiry) -> Self {
        self.config.rules.expiry = expiry;
        self
    }

    /// Sets which certificates of a chain are looked up in the lists. Default: [`CrlDepth::Chain`].
    pub fn crl_depth(mut self, depth: CrlDepth) -> Self {
        self.config.rules.depth = depth;
        self
    }

    /// Sets what happens when there are lists, but none of an issuer in the chain. Default:
    /// [`UnknownRevocation::Deny`].
    pub fn unknown_revocation(mut self, unknown: UnknownRevocation) -> Self {
        self.config.rules.unknown = unknown;
        self
    }

    /// Adds a pin, which counts in addition to the chain and the name. With some, one of them has to
    /// match the certificate that is presented, or its key; those above it do not count.
    pub fn pin(mut self, pin: Pin) -> Self {
        self.config.pins.push(pin);
        self
    }

    /// Adds names (DNS names or IP addresses), one of which the certificate has to be for, **instead
    /// of** the name that is dialled. A backend is then believed to be any of those which share one.
    pub fn accept_names<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.config.names.names.extend(names.into_iter().map(Into::into));
        self
    }

    /// Adds a workload, `spiffe://trust-domain/path`, that a backend may be: its certificate has to
    /// be an X.509-SVID, whose only URI decides instead of the name.
    pub fn spiffe_id(mut self, id: impl Into<String>) -> Self {
        self.config.names.spiffe_ids.push(id.into());
        self
    }

    /// Adds all workloads of a trust domain (`example.org`). As [`spiffe_id`](Self::spiffe_id) else.
    ///
    /// The roots have to be those of that domain alone: nothing else keeps the authority of one
    /// domain from issuing the IDs of another.
    pub fn spiffe_trust_domain(mut self, domain: impl Into<String>) -> Self {
        self.config.names.spiffe_domains.push(domain.into());
        self
    }

    /// Where the time comes from that the files are remarked on by. Handshakes go by the clock of
    /// whoever makes them. Default: the system's clock.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Reads the files. Blocks while it does.
    ///
    /// # Errors
    ///
    /// [`SourceError`]: no roots are named, a file cannot be used, or a name is none.
    pub fn load(self) -> Result<ServerTrust, SourceError> {
        Generations::load(self.source()).map(|generations| ServerTrust { generations })
    }

    /// Reads the files, and reads them again whenever one changes, until the last handle is gone. A
    /// change counts as a whole or not at all: when a file is bad, the last good generation stays in
    /// force, with a tracing event (target `bartizan_tls`, error).
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load), and when changes cannot be noticed.
    pub fn watch(self) -> Result<ServerTrust, SourceError> {
        Generations::watch(self.source()).map(|generations| ServerTrust { generations })
    }

    fn source(self) -> TrustSource {
        TrustSource::new(Config::Chain(self.config), self.clock)
    }
}

#[cfg(test)]
mod tests;
