//! TLVs (type, length, value) in version 2 of the PROXY protocol.

use super::ProxyHeaderError;

/// One TLV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyTlv<'a> {
    /// What it is.
    pub kind: u8,
    /// What is in it.
    pub value: &'a [u8],
}

impl<'a> ProxyTlv<'a> {
    /// A TLV of any kind.
    pub fn new(kind: u8, value: &'a [u8]) -> Self {
        Self { kind, value }
    }

    /// The application protocol agreed on.
    pub const ALPN: u8 = 0x01;
    /// The host name that the client asked for.
    pub const AUTHORITY: u8 = 0x02;
    /// The checksum of the header.
    pub const CRC32C: u8 = 0x03;
    /// Nothing, to pad with.
    pub const NOOP: u8 = 0x04;
    /// An opaque name of the connection.
    pub const UNIQUE_ID: u8 = 0x05;
    /// The client's TLS connection; its value is read by [`ProxySsl`].
    pub const SSL: u8 = 0x20;
    /// In [`SSL`](Self::SSL): the version, e.g. `TLSv1.3`.
    pub const SSL_VERSION: u8 = 0x21;
    /// In [`SSL`](Self::SSL): the common name in the client's certificate.
    pub const SSL_CN: u8 = 0x22;
    /// In [`SSL`](Self::SSL): the cipher.
    pub const SSL_CIPHER: u8 = 0x23;
    /// In [`SSL`](Self::SSL): the algorithm that the server's certificate is signed with.
    pub const SSL_SIG_ALG: u8 = 0x24;
    /// In [`SSL`](Self::SSL): the algorithm of the key of the server's certificate.
    pub const SSL_KEY_ALG: u8 = 0x25;
    /// In [`SSL`](Self::SSL): the key exchange group.
    pub const SSL_GROUP: u8 = 0x26;
    /// In [`SSL`](Self::SSL): the signature scheme of the handshake.
    pub const SSL_SIG_SCHEME: u8 = 0x27;
    /// In [`SSL`](Self::SSL): the client's certificate, DER.
    pub const SSL_CLIENT_CERT: u8 = 0x28;
    /// The network namespace.
    pub const NETNS: u8 = 0x30;
}

/// The TLVs of a header, or of one that has others in it.
#[derive(Clone, Debug)]
pub struct ProxyTlvs<'a> {
    rest: &'a [u8],
}

impl<'a> ProxyTlvs<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest }
    }
}

impl<'a> Iterator for ProxyTlvs<'a> {
    type Item = ProxyTlv<'a>;

    fn next(&mut self) -> Option<ProxyTlv<'a>> {
        let (tlv, rest) = split(self.rest)?;
        self.rest = rest;
        Some(tlv)
    }
}

/// What a proxy tells about the TLS connection of its client. Texts that are not UTF-8 are `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxySsl<'a> {
    client: u8,
    verify: u32,
    subs: &'a [u8],
}

impl<'a> ProxySsl<'a> {
    /// `None` if the value is too short to be one.
    pub(super) fn new(value: &'a [u8]) -> Option<Self> {
        let (start, subs) = value.split_first_chunk::<SSL_START_LENGTH>()?;
        let [client, verify @ ..] = *start;
        Some(Self { client, verify: u32::from_be_bytes(verify), subs })
    }

    /// All bits about the client, those that nobody has defined among them.
    pub fn client(&self) -> u8 {
        self.client
    }

    /// Whether the client came over TLS.
    pub fn is_tls(&self) -> bool {
        self.client & Self::CLIENT_SSL != 0
    }

    /// Whether the client showed a certificate over this very connection.
    pub fn has_cert_conn(&self) -> bool {
        self.client & Self::CERT_CONN != 0
    }

    /// Whether the client showed a certificate at least once in the TLS session.
    pub fn has_cert_session(&self) -> bool {
        self.client & Self::CERT_SESS != 0
    }

    /// What the verification of the client's certificate came to; 0 is good.
    ///
    /// HAProxy sends 0 of clients that showed none as well: see [`is_verified`](Self::is_verified).
    pub fn verify(&self) -> u32 {
        self.verify
    }

    /// Whether the client showed a certificate, now or earlier in the session, that is good.
    pub fn is_verified(&self) -> bool {
        self.verify == 0 && self.is_tls() && (self.has_cert_conn() || self.has_cert_session())
    }

    /// The TLS version, e.g. `TLSv1.3`.
    pub fn version(&self) -> Option<&'a str> {
        self.text(ProxyTlv::SSL_VERSION)
    }

    /// The common name in the client's certificate.
    pub fn common_name(&self) -> Option<&'a str> {
        self.text(ProxyTlv::SSL_CN)
    }

    /// The cipher, by whichever name the proxy knows it.
    pub fn cipher(&self) -> Option<&'a str> {
        self.text(ProxyTlv::SSL_CIPHER)
    }

    /// The algorithm that the server's certificate is signed with, e.g. `SHA256`.
    pub fn signature_algorithm(&self) -> Option<&'a str> {
        self.text(ProxyTlv::SSL_SIG_ALG)
    }

    /// The algorithm of the key of the server's certificate, e.g. `RSA2048`.
    pub fn key_algorithm(&self) -> Option<&'a str> {
        self.text(ProxyTlv::SSL_KEY_ALG)
    }

    /// The key exchange group, e.g. `X25519MLKEM768`.
    pub fn group(&self) -> Option<&'a str> {
        self.text(ProxyTlv::SSL_GROUP)
    }

    /// The signature scheme of the handshake.
    pub fn signature_scheme(&self) -> Option<&'a str> {
        self.text(ProxyTlv::SSL_SIG_SCHEME)
    }

    /// The client's certificate, DER.
    pub fn client_certificate(&self) -> Option<&'a [u8]> {
        find(self.tlvs(), ProxyTlv::SSL_CLIENT_CERT)
    }

    /// All sub-TLVs in their order.
    pub fn tlvs(&self) -> ProxyTlvs<'a> {
        ProxyTlvs::new(self.subs)
    }

    fn text(&self, kind: u8) -> Option<&'a str> {
        str::from_utf8(find(self.tlvs(), kind)?).ok()
    }

    /// The client came over TLS.
    pub const CLIENT_SSL: u8 = 1;
    /// The client showed a certificate over this connection.
    pub const CERT_CONN: u8 = 2;
    /// The client showed a certificate in the TLS session.
    pub const CERT_SESS: u8 = 4;
}

pub(super) fn find<'a>(mut tlvs: ProxyTlvs<'a>, kind: u8) -> Option<&'a [u8]> {
    tlvs.find(|tlv| tlv.kind == kind).map(|tlv| tlv.value)
}

/// The first TLV and what follows it; `None` if it is cut off, or if there is none.
pub(super) fn split(bytes: &[u8]) -> Option<(ProxyTlv<'_>, &[u8])> {
    let (&[kind, high, low], rest) = bytes.split_first_chunk::<HEAD_LENGTH>()?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
    Some((ProxyTlv { kind, value }, rest))
}

/// Whether a value is one of its kind, so that whoever reads it later need not ask.
pub(super) fn check(kind: u8, value: &[u8]) -> Result<(), ProxyHeaderError> {
    let length = value.len();
    let fits = match kind {
        ProxyTlv::UNIQUE_ID => length <= UNIQUE_ID_LENGTH,
        ProxyTlv::SSL => length >= SSL_START_LENGTH,
        _ => true,
    };
    if !fits {
        return Err(ProxyHeaderError::TlvLength { kind, length });
    }
    if kind == ProxyTlv::SSL {
        let mut rest = &value[SSL_START_LENGTH..];
        while !rest.is_empty() {
            rest = split(rest).ok_or(ProxyHeaderError::CutTlv)?.1;
        }
    }
    Ok(())
}

pub(super) fn write(out: &mut Vec<u8>, kind: u8, value: &[u8]) -> Result<(), ProxyHeaderError> {
    let length = u16::try_from(value.len())
        .map_err(|_| ProxyHeaderError::TlvLength { kind, length: value.len() })?;
    out.push(kind);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

/// The value of an SSL TLV up to its sub-TLVs.
pub(super) fn ssl_start(client: u8, verify: u32) -> Vec<u8> {
    let mut value = vec![client];
    value.extend_from_slice(&verify.to_be_bytes());
    value
}

/// Kind and length.
pub(super) const HEAD_LENGTH: usize = 3;

/// A whole CRC32C TLV.
pub(super) const CRC32C_LENGTH: usize = HEAD_LENGTH + 4;

/// The bits about the client and the result of the verification.
const SSL_START_LENGTH: usize = 5;

/// By the specification, so that receivers can do with fixed buffers.
pub(super) const UNIQUE_ID_LENGTH: usize = 128;
