//! What a store is made of: sources, rules, settings.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bartizan_net::clock::{Clock, SystemClock};
use bartizan_net::{BadHostPattern, HostPattern};
use zeroize::Zeroizing;

use super::CertStore;
use super::error::StoreError;
use super::files::{Place, Source};
use super::settings::TlsSettings;
use super::withdrawal::Withdrawal;
use crate::tickets::TicketKeys;
use crate::{ClientAuth, Identity, TicketKeyError};

/// Everything that a store was told. It does not change; the files that it names do.
pub(crate) struct Config {
    pub(crate) sources: Vec<Source>,
    pub(crate) strict_sni: bool,
    pub(crate) settings: TlsSettings,
    pub(crate) client_auth: ClientAuth,
    pub(crate) hosts: Vec<Host>,
    pub(crate) tickets: TicketSource,
    pub(crate) staple: bool,
    pub(crate) withdrawal: Withdrawal,
    pub(crate) clock: Arc<dyn Clock>,
}

pub(crate) struct Host {
    pub(crate) name: HostPattern,
    pub(crate) rules: HostRules,
}

/// What is different for some host names. What is not said is as for all.
#[derive(Clone, Debug, Default)]
#[must_use = "give it to `CertStoreBuilder::host`"]
pub struct HostRules {
    pub(crate) client_auth: Option<ClientAuth>,
    pub(crate) alpn: Option<Vec<Vec<u8>>>,
}

impl HostRules {
    /// Nothing different.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks clients of these hosts for certificates in another way.
    ///
    /// Serve such hosts behind a `HostGuard` (`bartizan-http`): a client names the host a second
    /// time in its requests, and may name another one there.
    pub fn client_auth(self, client_auth: ClientAuth) -> Self {
        Self { client_auth: Some(client_auth), ..self }
    }

    /// Agrees on other application protocols with clients of these hosts.
    pub fn alpn<P: AsRef<[u8]>>(self, protocols: impl IntoIterator<Item = P>) -> Self {
        let protocols = protocols.into_iter().map(|p| p.as_ref().to_vec()).collect();
        Self { alpn: Some(protocols), ..self }
    }
}

/// Where the keys of session tickets come from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TicketSource {
    /// These, whatever is loaded again.
    Keys(TicketKeys),
    /// Derived from the secret in this file and the time, see [`TicketKeys::derived`].
    SecretFile(PathBuf),
    /// HAProxy's `tls-ticket-keys`, see [`TicketKeys::from_haproxy_file`].
    HaproxyFile(PathBuf),
    /// nginx's `ssl_session_ticket_key`, see [`TicketKeys::from_nginx_files`].
    NginxFiles(Vec<PathBuf>),
}

impl TicketSource {
    pub(crate) fn load(&self) -> Result<TicketKeys, TicketKeyError> {
        match self {
            Self::Keys(keys) => Ok(keys.clone()),
            Self::SecretFile(path) => TicketKeys::from_secret_file(path),
            Self::HaproxyFile(path) => TicketKeys::from_haproxy_file(path),
            Self::NginxFiles(paths) => TicketKeys::from_nginx_files(paths),
        }
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::Keys(_) => Vec::new(),
            Self::SecretFile(path) | Self::HaproxyFile(path) => vec![path.clone()],
            Self::NginxFiles(paths) => paths.clone(),
        }
    }
}

impl From<TicketKeys> for TicketSource {
    fn from(keys: TicketKeys) -> Self {
        Self::Keys(keys)
    }
}

impl Config {
    pub(crate) fn new() -> Self {
        Self {
            sources: Vec::new(),
            strict_sni: false,
            settings: TlsSettings::new(),
            client_auth: ClientAuth::off(),
            hosts: Vec::new(),
            tickets: TicketSource::Keys(TicketKeys::random()),
            staple: true,
            withdrawal: Withdrawal::default(),
            clock: Arc::new(SystemClock),
        }
    }

    /// Where certificates are looked for.
    pub(crate) fn places(&self) -> Vec<PathBuf> {
        let path = |source: &Source| match &source.place {
            Place::Path(path) => Some(path.clone()),
            _ => None,
        };
        self.sources.iter().filter_map(path).collect()
    }

    /// Every file and directory that a generation is made of.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let hosts = self.hosts.iter().filter_map(|host| host.rules.client_auth.as_ref());
        let trust = std::iter::once(&self.client_auth).chain(hosts).flat_map(ClientAuth::paths);
        let mut paths = self.places();
        paths.extend(trust.map(|path| path.to_path_buf()));
        paths.extend(self.tickets.paths());
        paths
    }
}

/// Says what a [`CertStore`] serves and how. See [`CertStore::builder`].
#[must_use = "nothing is loaded before `build` or `watch`"]
pub struct CertStoreBuilder {
    config: Config,
    bad: Option<BadHostPattern>,
}

impl CertStoreBuilder {
    pub(crate) fn new() -> Self {
        Self { config: Config::new(), bad: None }
    }

    /// Adds a file or a directory. The first certificate of all is the default.
    ///
    /// A **file** is PEM: leaf, chain and key in any order. If it holds no key, the key is in
    /// `X.key` or `X.pem.key` beside `X.pem`. Where there is no `X`, but `X.ecdsa` or `X.rsa`,
    /// these are loaded.
    ///
    /// A **directory** is loaded in alphabetical order of its file names. Names that begin with a
    /// dot or end with `.key`, `.issuer`, `.ocsp` or `.sctl` are no certificates, and
    /// subdirectories are passed over. What else is in it must be one.
    ///
    /// Beside either, `X.pem.ocsp` or `X.ocsp` holds an OCSP response (DER) to be stapled, and
    /// `X.pem.issuer` or `X.issuer` the issuer, if the chain lacks it.
    pub fn path(self, path: impl Into<PathBuf>) -> Self {
        self.source(Place::Path(path.into()), None)
    }

    /// [`path`](Self::path), but under these names instead of the certificates' own.
    ///
    /// They may be wildcards for one label (`*.example.com`) and internationalised.
    pub fn path_as<N: AsRef<str>>(
        mut self,
        path: impl Into<PathBuf>,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        let names = self.patterns(names);
        self.source(Place::Path(path.into()), Some(names.into()))
    }

    /// Adds leaf, chain and key as PEM text. `name` stands for the file in errors and in
    /// [`ServedCertificate`](bartizan_net::ServedCertificate).
    pub fn pem(self, name: &str, pem: impl Into<Vec<u8>>) -> Self {
        let pem = Arc::new(Zeroizing::new(pem.into()));
        self.source(Place::Memory { name: name.into(), pem, made: OnceLock::new() }, None)
    }

    /// Adds a certificate that is loaded already.
    pub fn identity(self, identity: &Identity) -> Self {
        self.source(Place::Ready(Arc::clone(identity.entry())), None)
    }

    /// Refuses clients that ask for a name without a certificate of its own, or for none, with the
    /// alert `unrecognized_name`. Default: they get the default certificate.
    ///
    /// A store without any certificate can be built then.
    pub fn strict_sni(mut self, strict: bool) -> Self {
        self.config.strict_sni = strict;
        self
    }

    /// How TLS is spoken. Default: [`TlsSettings::new`].
    pub fn settings(mut self, settings: TlsSettings) -> Self {
        self.config.settings = settings;
        self
    }

    /// The application protocols of [`settings`](Self::settings), the preferred one first.
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.config.settings = self.config.settings.alpn(protocols);
        self
    }

    /// Whether clients are asked for certificates. Default: [`ClientAuth::off`].
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.config.client_auth = client_auth;
        self
    }

    /// What is different for these names, which may be wildcards for one label and
    /// internationalised.
    ///
    /// The rules of an exact name come before those of a wildcard; what they do not say is as the
    /// wildcard's rules say. Two rules for the same name are an error.
    pub fn host<N: AsRef<str>>(
        mut self,
        names: impl IntoIterator<Item = N>,
        rules: HostRules,
    ) -> Self {
        let names = self.patterns(names);
        let host = |name| Host { name, rules: rules.clone() };
        self.config.hosts.extend(names.into_iter().map(host));
        self
    }

    /// The keys of session tickets. Default: [`TicketKeys::random`].
    pub fn tickets(mut self, tickets: impl Into<TicketSource>) -> Self {
        self.config.tickets = tickets.into();
        self
    }

    /// Whether OCSP responses in files beside certificates are stapled. Default: yes.
    ///
    /// One that is not for the certificate, not signed by its issuer, not good or not in date is
    /// left out, which is a [`Notice`](crate::Notice).
    pub fn staple_files(mut self, staple: bool) -> Self {
        self.config.staple = staple;
        self
    }

    /// When open connections end because a certificate is good no more. Default:
    /// [`Withdrawal::default`].
    pub fn withdrawal(mut self, withdrawal: Withdrawal) -> Self {
        self.config.withdrawal = withdrawal;
        self
    }

    /// The clock that dates are judged by. Default: the system's.
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.config.clock = Arc::new(clock);
        self
    }

    /// Loads the first generation.
    ///
    /// # Errors
    ///
    /// [`StoreError`] says what cannot be loaded, and why.
    pub fn build(self) -> Result<CertStore, StoreError> {
        CertStore::load(self.finish()?)
    }

    /// Loads the first generation, and watches the files for changes: [`build`](Self::build), then
    /// [`CertStore::watch_files`].
    ///
    /// # Errors
    ///
    /// [`StoreError`] says what cannot be loaded or watched, and why.
    pub fn watch(self) -> Result<CertStore, StoreError> {
        CertStore::load_and_watch(self.finish()?)
    }

    fn finish(self) -> Result<Config, StoreError> {
        if let Some(bad) = self.bad {
            return Err(bad.into());
        }
        let mut config = self.config;
        let mut by_name: HashMap<HostPattern, HostRules> = HashMap::new();
        for Host { name, rules } in &config.hosts {
            if by_name.insert(name.clone(), rules.clone()).is_some() {
                return Err(StoreError::TwoRules { name: name.to_string() });
            }
        }
        for Host { name, rules } in &mut config.hosts {
            if let Some(wider) = name.wider().and_then(|wider| by_name.get(&wider)) {
                rules.client_auth = rules.client_auth.take().or_else(|| wider.client_auth.clone());
                rules.alpn = rules.alpn.take().or_else(|| wider.alpn.clone());
            }
        }
        Ok(config)
    }

    fn source(mut self, place: Place, names: Option<Arc<[HostPattern]>>) -> Self {
        self.config.sources.push(Source { place, names });
        self
    }

    /// Keeps the first name that is none for `build` to tell.
    fn patterns<N: AsRef<str>>(&mut self, names: impl IntoIterator<Item = N>) -> Vec<HostPattern> {
        let mut patterns = Vec::new();
        for name in names {
            match HostPattern::parse(name.as_ref()) {
                Ok(pattern) => patterns.push(pattern),
                Err(bad) => _ = self.bad.get_or_insert(bad),
            }
        }
        patterns
    }
}

impl fmt::Debug for CertStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertStoreBuilder")
            .field("places", &self.config.places())
            .finish_non_exhaustive()
    }
}
