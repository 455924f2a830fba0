//! How TLS is spoken: versions, cipher suites, key exchange groups, ALPN.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, KeyLog, SupportedCipherSuite, SupportedProtocolVersion};

/// How TLS is spoken with clients. The default is right for nearly everybody.
///
/// | setting | default |
/// | --- | --- |
/// | versions | TLS 1.2 and 1.3 |
/// | cipher suites | AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305; with ECDHE in TLS 1.2 |
/// | whose order | the server's; but a client that puts ChaCha20 first, for want of hardware for AES, gets it |
/// | groups | X25519MLKEM768, X25519, P-256, P-384 |
/// | ALPN | `h2`, `http/1.1` |
/// | early data (0-RTT) | never: it can be replayed |
/// | renegotiation, compression, RSA key exchange, CBC | rustls has none of them |
/// | key log | none |
#[derive(Clone)]
#[must_use = "give it to `CertStoreBuilder::settings`"]
pub struct TlsSettings {
    provider: Arc<CryptoProvider>,
    versions: &'static [&'static SupportedProtocolVersion],
    client_order: bool,
    alpn: Vec<Vec<u8>>,
    key_log: Option<Arc<dyn KeyLog>>,
}

impl TlsSettings {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            provider: Arc::new(default_provider()),
            versions: &BOTH,
            client_order: false,
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            key_log: None,
        }
    }

    /// Speaks TLS 1.3 alone.
    pub fn tls13_only(self) -> Self {
        Self { versions: &TLS13, ..self }
    }

    /// Speaks TLS 1.2 alone.
    pub fn tls12_only(self) -> Self {
        Self { versions: &TLS12, ..self }
    }

    /// Allows these cipher suites and no others, the preferred one first, by their IANA names, e.g.
    /// `TLS13_AES_128_GCM_SHA256`, `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`.
    ///
    /// # Errors
    ///
    /// A name is not known; the error lists those that are.
    pub fn cipher_suites<N: AsRef<str>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, SettingsError> {
        let all = aws_lc_rs::ALL_CIPHER_SUITES;
        let name_of = |suite: &SupportedCipherSuite| suite.suite().as_str().unwrap_or("");
        let suites = chosen(names, all, name_of, SettingsError::cipher_suite)?;
        Arc::make_mut(&mut self.provider).cipher_suites = suites;
        Ok(self)
    }

    /// Allows these groups for the key exchange and no others, the preferred one first, by their
    /// names: `X25519MLKEM768`, `X25519`, `secp256r1`, `secp384r1`, `SECP256R1MLKEM768`, `MLKEM768`.
    ///
    /// # Errors
    ///
    /// A name is not known; the error lists those that are.
    pub fn groups<N: AsRef<str>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, SettingsError> {
        let all = aws_lc_rs::ALL_KX_GROUPS;
        let groups = chosen(names, all, |g| g.name().as_str().unwrap_or(""), SettingsError::group)?;
        Arc::make_mut(&mut self.provider).kx_groups = groups;
        Ok(self)
    }

    /// Follows the client's order of cipher suites instead of the server's.
    pub fn client_order(self) -> Self {
        Self { client_order: true, ..self }
    }

    /// Agrees on one of these protocols, the preferred one first. Hosts can have their own, see
    /// [`HostRules`](crate::HostRules).
    ///
    /// A client that offers only others is refused (RFC 7301 §3.2); one that offers none is served.
    pub fn alpn<P: AsRef<[u8]>>(self, protocols: impl IntoIterator<Item = P>) -> Self {
        Self { alpn: protocols.into_iter().map(|p| p.as_ref().to_vec()).collect(), ..self }
    }

    /// Gives the secrets of every connection to `log`, so that somebody who has recorded the
    /// traffic can read it. For the search of faults only.
    ///
    /// Nothing else turns this on; the environment variable `SSLKEYLOGFILE` does not, unless `log`
    /// is rustls' `KeyLogFile`.
    pub fn dangerous_key_log(self, log: Arc<dyn KeyLog>) -> Self {
        Self { key_log: Some(log), ..self }
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    pub(crate) fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        self.versions
    }

    /// The cipher suites of the versions that are spoken.
    pub(crate) fn suites(&self) -> Vec<CipherSuite> {
        let spoken = |suite: &&SupportedCipherSuite| {
            self.versions.iter().any(|version| version.version == suite.version().version)
        };
        self.provider.cipher_suites.iter().filter(spoken).map(|suite| suite.suite()).collect()
    }

    pub(crate) fn protocols(&self) -> &[Vec<u8>] {
        &self.alpn
    }

    pub(crate) fn is_client_order(&self) -> bool {
        self.client_order
    }

    pub(crate) fn key_log(&self) -> Option<&Arc<dyn KeyLog>> {
        self.key_log.as_ref()
    }
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("versions", &self.versions)
            .field("key_log", &self.key_log.is_some())
            .finish_non_exhaustive()
    }
}

/// A setting cannot be had. The programmer's or the operator's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A cipher suite is not known.
    #[error("`{name}` is no cipher suite here; there are {}", known.join(", "))]
    CipherSuite {
        /// What was asked for; empty if nothing was.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// A key exchange group is not known.
    #[error("`{name}` is no key exchange group here; there are {}", known.join(", "))]
    Group {
        /// What was asked for; empty if nothing was.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// The versions and the cipher suites do not go together.
    #[error("the cipher suites and groups that are allowed fit none of the TLS versions: {0}")]
    Unfit(String),
}

impl SettingsError {
    fn cipher_suite(name: String, known: Vec<&'static str>) -> Self {
        Self::CipherSuite { name, known }
    }

    fn group(name: String, known: Vec<&'static str>) -> Self {
        Self::Group { name, known }
    }
}

/// As rustls has it, but AES-128 before AES-256, which is slower and no safer in practice.
fn default_provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_aes_256 = |suite: &SupportedCipherSuite| {
        suite.suite().as_str().is_some_and(|name| name.contains("AES_256"))
    };
    let is_chacha = |suite: &SupportedCipherSuite| is_chacha(suite.suite());
    // Stable, so within each the order of rustls stays.
    provider.cipher_suites.sort_by_key(|s| (is_chacha(s), is_aes_256(s)));
    provider
}

/// Whether a suite is one of ChaCha20's.
pub(crate) fn is_chacha(suite: CipherSuite) -> bool {
    suite.as_str().is_some_and(|name| name.contains("CHACHA20"))
}

/// Of `all`, those with these names, in the order of the names.
fn chosen<T: Copy, N: AsRef<str>>(
    names: impl IntoIterator<Item = N>,
    all: &[T],
    name_of: impl Fn(&T) -> &'static str,
    error: impl Fn(String, Vec<&'static str>) -> SettingsError,
) -> Result<Vec<T>, SettingsError> {
    let unknown = |name: &str| error(name.to_owned(), all.iter().map(&name_of).collect());
    let mut found = Vec::new();
    for name in names {
        let name = name.as_ref();
        let same = |item: &&T| name_of(item).eq_ignore_ascii_case(name);
        found.push(*all.iter().find(same).ok_or_else(|| unknown(name))?);
    }
    if found.is_empty() { Err(unknown("")) } else { Ok(found) }
}

static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
static TLS13: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
static TLS12: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS12];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_prefers_post_quantum_key_exchange() {
        let groups = &TlsSettings::new().provider.kx_groups;
        assert_eq!(groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn the_default_prefers_aes_128_and_has_chacha_last() {
        let suites = &TlsSettings::new().provider.cipher_suites;
        let names: Vec<_> = suites.iter().map(|s| s.suite().as_str().unwrap()).collect();
        assert_eq!(names[0], "TLS13_AES_128_GCM_SHA256");
        assert!(names[..3].iter().all(|name| name.contains("AES_128")), "{names:?}");
        assert!(names[6..].iter().all(|name| name.contains("CHACHA20")), "{names:?}");
        assert_eq!(names.len(), 9);
    }

    #[test]
    fn what_is_named_is_what_is_allowed() {
        let settings = TlsSettings::new()
            .cipher_suites(["tls13_aes_128_gcm_sha256"])
            .and_then(|s| s.groups(["secp256r1", "X25519"]))
            .unwrap();
        let suites: Vec<_> =
            settings.provider.cipher_suites.iter().map(|s| s.suite().as_str().unwrap()).collect();
        assert_eq!(suites, ["TLS13_AES_128_GCM_SHA256"]);
        let groups: Vec<_> =
            settings.provider.kx_groups.iter().map(|g| g.name().as_str().unwrap()).collect();
        assert_eq!(groups, ["secp256r1", "X25519"]);
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        let error = TlsSettings::new().cipher_suites(["RC4-MD5"]).unwrap_err().to_string();
        assert!(
            error.starts_with("`RC4-MD5` is no cipher suite here; there are TLS13_"),
            "{error}"
        );
        let error = TlsSettings::new().groups(["P-256"]).unwrap_err().to_string();
        assert!(error.contains("secp256r1"), "{error}");
        assert!(TlsSettings::new().groups::<&str>([]).is_err());
    }
}
