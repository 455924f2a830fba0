//! What a TLS handshake established, in plain types.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::ClientIdentity;

/// What a TLS handshake with a client established.
///
/// Plain types, so that whoever reads it needs no TLS library. `bartizan-tls` fills it in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsInfo {
    /// The server name that the client asked for (SNI), lower case, if it named one.
    pub sni: Option<Arc<str>>,
    /// The application protocol agreed on, e.g. `h2`.
    pub alpn: Option<Arc<[u8]>>,
    /// The protocol version by its name, e.g. `TLSv1.3`.
    pub version: Option<&'static str>,
    /// The cipher suite by its IANA name, e.g. `TLS13_AES_256_GCM_SHA384`.
    pub cipher: Option<&'static str>,
    /// The key exchange group by its name, e.g. `X25519MLKEM768`. `None` when resumed without one.
    pub group: Option<&'static str>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// How long the handshake took, from the first byte waited for.
    pub handshake: Duration,
    /// The certificate that was served, when it came out of a store.
    pub served: Option<Arc<ServedCertificate>>,
    /// Who the client has proven to be; `None` if it showed no certificate.
    pub client: Option<Arc<ClientIdentity>>,
}

impl TlsInfo {
    /// Whether HTTP/2 was agreed on.
    pub fn is_h2(&self) -> bool {
        self.alpn.as_deref() == Some(b"h2")
    }
}

/// Which certificate a handshake served, and under which rules.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServedCertificate {
    /// The file, or the name that it was given, which the certificate came from.
    pub source: Arc<str>,
    /// Until when the certificate is valid.
    pub not_after: SystemTime,
    /// The generation of the store that governed all of the handshake, counted from 1.
    pub generation: u64,
    /// When that generation was loaded.
    pub loaded_at: SystemTime,
    /// The policy on client certificates that applied to the server name.
    pub client_auth: ClientAuthMode,
}

impl ServedCertificate {
    /// A certificate from `source`, served without asking for one of the client's.
    pub fn new(
        source: Arc<str>,
        not_after: SystemTime,
        generation: u64,
        loaded_at: SystemTime,
    ) -> Self {
        Self { source, not_after, generation, loaded_at, client_auth: ClientAuthMode::Off }
    }

    /// Records the policy on client certificates.
    pub fn with_client_auth(self, client_auth: ClientAuthMode) -> Self {
        Self { client_auth, ..self }
    }
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ClientAuthMode {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked, and served without one as well. One that is shown must be good.
    Optional,
    /// They are asked, and not served without a good one.
    Required,
}
