//! TLS towards backends.

mod configs;
mod credentials;
mod error;
mod expiry;
mod handshake;
mod peer;
mod sessions;
mod stream;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bartizan_net::clock::{Clock, SystemClock};
use bartizan_net::{Address, BoxError, Target};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;

use crate::{HandshakeRuntime, ServerTrust};
use configs::{Configs, Prepared};

pub use credentials::ClientCredentials;
pub use error::OriginateError;
pub use expiry::ConnectionExpiry;
pub use stream::{CertificateEnded, OriginatedStream};

/// Puts TLS over a dial service of streams.
///
/// The chain and the name of each backend are verified; a [`ServerTrust`] says against what. There
/// is no switch that turns this off, only a type that has to be named
/// ([`DangerousNoVerify`](crate::DangerousNoVerify)).
///
/// ```
/// # fn run(dial: bartizan_net::TcpDial) -> Result<(), Box<dyn std::error::Error>> {
/// use bartizan_tls::{ClientCredentials, ServerTrust, TlsOriginateLayer};
/// use tower_layer::Layer;
///
/// let trust = ServerTrust::builder().roots("/etc/bartizan/backends-ca.pem").watch()?;
/// let identity = ClientCredentials::watch_pem_file("/etc/bartizan/proxy.pem")?;
/// let dial = TlsOriginateLayer::new(trust)
///     .server_name("web.internal")
///     .client_credentials(identity)
///     .layer(dial);
/// # drop(dial); Ok(()) }
/// ```
///
/// # Names
///
/// A backend has to prove its server name: its own, or the host name of its address, or else its IP
/// address. A name is sent as SNI, an address is not (RFC 6066 §3). [`server_name`](Self::server_name)
/// sets one for all.
///
/// # Sessions
///
/// Sessions are resumed, with client certificates as well. They are kept apart by address, name,
/// generation of trust, generation of identity and protocols, so none made with an identity that was
/// replaced is used again. In a resumed handshake a backend shows no certificate: the chain that the
/// session was begun with is verified once more, as of then. Clones of this layer, and services that
/// they make, share the sessions.
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing before it is put over a dial service"]
pub struct TlsOriginateLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    configs: Configs,
}

#[derive(Clone, Debug)]
struct Settings {
    trust: ServerTrust,
    name: Option<Arc<str>>,
    credentials: Option<ClientCredentials>,
    credentials_of: HashMap<Address, ClientCredentials>,
    alpn: Vec<Vec<u8>>,
    handshake_timeout: Duration,
    expiry: ConnectionExpiry,
    resume: bool,
    tls13_only: bool,
    clock: Arc<dyn Clock>,
    runtime: HandshakeRuntime,
}

impl TlsOriginateLayer {
    /// Verifies backends by `trust`.
    pub fn new(trust: impl Into<ServerTrust>) -> Self {
        Self::with(Settings {
            trust: trust.into(),
            name: None,
            credentials: None,
            credentials_of: HashMap::new(),
            alpn: Vec::new(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            expiry: ConnectionExpiry::default(),
            resume: true,
            tls13_only: false,
            clock: Arc::new(SystemClock),
            runtime: HandshakeRuntime::new(),
        })
    }

    /// The name that every backend has to prove, and that is sent as SNI. Default: that of each.
    pub fn server_name(self, name: impl Into<Arc<str>>) -> Self {
        self.change(|settings| settings.name = Some(name.into()))
    }

    /// What is shown to backends that ask for a certificate. Default: nothing.
    pub fn client_credentials(self, credentials: impl Into<ClientCredentials>) -> Self {
        self.change(|settings| settings.credentials = Some(credentials.into()))
    }

    /// What is shown to the backend at `address`, instead of what is shown to the others.
    pub fn client_credentials_of(
        self,
        address: Address,
        credentials: impl Into<ClientCredentials>,
    ) -> Self {
        self.change(|settings| {
            settings.credentials_of.insert(address, credentials.into());
        })
    }

    /// The application protocols to offer, the preferred one first, such as `h2` and `http/1.1`.
    /// Default: none, and the extension is left out.
    pub fn alpn<P: AsRef<[u8]>>(self, protocols: impl IntoIterator<Item = P>) -> Self {
        let protocols = protocols.into_iter().map(|protocol| protocol.as_ref().to_vec());
        self.change(|settings| settings.alpn = protocols.collect())
    }

    /// Gives up on a handshake after `limit`; the time to dial is not in it. Default: 5 s.
    pub fn handshake_timeout(self, limit: Duration) -> Self {
        self.change(|settings| settings.handshake_timeout = limit)
    }

    /// When connections end because a certificate does. Default: see [`ConnectionExpiry`].
    pub fn expiry(self, expiry: ConnectionExpiry) -> Self {
        self.change(|settings| settings.expiry = expiry)
    }

    /// Whether sessions are resumed. Default: yes.
    ///
    /// In a resumed handshake a backend shows no certificate: checks of backends that are to find a
    /// wrong one have to go without.
    pub fn resume(self, resumes: bool) -> Self {
        self.change(|settings| settings.resume = resumes)
    }

    /// Does without TLS 1.2. Default: versions 1.2 and 1.3.
    pub fn tls13_only(self) -> Self {
        self.change(|settings| settings.tls13_only = true)
    }

    /// Where the time comes from that certificates are valid at. Default: the system's clock.
    pub fn clock(self, clock: impl Clock + 'static) -> Self {
        self.change(|settings| settings.clock = Arc::new(clock))
    }

    /// Where handshakes run whose client certificate has a key that signs elsewhere. Default: one of
    /// its own.
    pub fn handshake_runtime(self, runtime: HandshakeRuntime) -> Self {
        self.change(|settings| settings.runtime = runtime)
    }

    fn with(settings: Settings) -> Self {
        Self { shared: Arc::new(Shared { settings, configs: Configs::default() }) }
    }

    /// With other settings, sessions are others as well.
    fn change(self, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.shared.settings.clone();
        change(&mut settings);
        Self::with(settings)
    }
}

impl Settings {
    fn credentials_for(&self, address: &Address) -> Option<&ClientCredentials> {
        self.credentials_of.get(address).or(self.credentials.as_ref())
    }

    /// The name that `target` has to prove.
    fn name_of(&self, target: &impl Target) -> Result<ServerName<'static>, OriginateError> {
        let address = target.address();
        let name = match (self.name.as_deref().or_else(|| target.server_name()), address) {
            (Some(name), _) => name,
            (None, Address::Socket(addr)) => return Ok(ServerName::from(addr.ip())),
            (None, other) => return Err(bad_name(other, "")),
        };
        let bare = name.strip_suffix('.').unwrap_or(name);
        ServerName::try_from(bare.to_owned()).map_err(|_| bad_name(address, name))
    }
}

fn bad_name(address: &Address, name: &str) -> OriginateError {
    OriginateError::BadName { address: address.clone(), name: name.to_owned() }
}

impl<D> Layer<D> for TlsOriginateLayer {
    type Service = TlsOriginate<D>;

    fn layer(&self, dial: D) -> Self::Service {
        TlsOriginate { dial, shared: Arc::clone(&self.shared) }
    }
}

/// A dial service: dials with `D`, and answers with a TLS stream whose other side has been verified.
///
/// In TLS 1.3 with a client certificate that was asked for, it also waits for the backend's word on
/// it: a refusal is a failed dial, not a failed request. A backend that says nothing (no session
/// tickets) is waited for 300 ms each of the
/// first three times.
///
/// # Errors
///
/// An [`OriginateError`]. One about the backend's certificate has
/// [`WrongIdentity`](bartizan_net::WrongIdentity) behind it.
///
/// Cancel safe: dropping the future closes the connection.
#[derive(Clone, Debug)]
pub struct TlsOriginate<D> {
    dial: D,
    shared: Arc<Shared>,
}

impl<D, T> Service<T> for TlsOriginate<D>
where
    T: Target,
    D: Service<T>,
    D::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    D::Error: Into<BoxError>,
    D::Future: Send + 'static,
{
    type Response = OriginatedStream<D::Response>;
    type Error = OriginateError;
    type Future = OriginateFuture<D::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), OriginateError>> {
        // What is dialled is not known yet, and so the error names nobody.
        self.dial.poll_ready(cx).map_err(|error| OriginateError::NotReady { source: error.into() })
    }

    fn call(&mut self, target: T) -> Self::Future {
        let address = target.address().clone();
        let name = match self.shared.settings.name_of(&target) {
            Ok(name) => name,
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let dial = self.dial.call(target);
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let io = dial.await.map_err(|error| OriginateError::Dial {
                address: address.clone(),
                source: error.into(),
            })?;
            // Not before: trust and identity may change while it is dialled.
            let prepared = shared.prepared(&address, &name)?;
            handshake::run(&shared.settings, prepared, &address, &name.to_str(), io).await
        })
    }
}

/// A dial under way. Boxed: once per connection that costs nothing.
pub type OriginateFuture<IO> =
    Pin<Box<dyn Future<Output = Result<OriginatedStream<IO>, OriginateError>> + Send>>;

impl Shared {
    fn prepared(
        &self,
        address: &Address,
        name: &ServerName<'static>,
    ) -> Result<Arc<Prepared>, OriginateError> {
        self.configs.get(&self.settings, address, name).map_err(|error| OriginateError::Config {
            address: address.clone(),
            source: error.into(),
        })
    }
}

/// HAProxy's `timeout connect` covers TLS as well, and 5 s are usual there.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
