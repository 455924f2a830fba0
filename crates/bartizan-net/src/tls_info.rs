//! What a TLS handshake established, in plain types.

use std::sync::Arc;
use std::time::Duration;

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
}

impl TlsInfo {
    /// Whether HTTP/2 was agreed on.
    pub fn is_h2(&self) -> bool {
        self.alpn.as_deref() == Some(b"h2")
    }
}
