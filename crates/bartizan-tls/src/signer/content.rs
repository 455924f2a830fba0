//! What TLS signs, told apart from everything else.

/// What a message that is to be signed is: the forms that a TLS handshake has, and no others.
///
/// A key that signs whatever it is given lends its name to any protocol. One that looks first does
/// so for TLS handshakes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SignedContent {
    /// TLS 1.3, the server's CertificateVerify (RFC 8446 §4.4.3).
    Tls13Server,
    /// TLS 1.3, the client's CertificateVerify.
    Tls13Client,
    /// TLS 1.2, the parameters of a ServerKeyExchange with ECDHE (RFC 8422 §5.4).
    Tls12KeyExchange,
    /// TLS 1.2, the client's CertificateVerify: all handshake messages from the ClientHello on (RFC
    /// 5246 §7.4.8). Nothing but its beginning marks it.
    Tls12Transcript,
}

impl SignedContent {
    /// What `message` is; `None` if TLS signs no such thing.
    pub fn of(message: &[u8]) -> Option<Self> {
        if let Some(rest) = message.strip_prefix(&[0x20; 64]) {
            return tls13(rest);
        }
        if is_key_exchange(message) {
            return Some(Self::Tls12KeyExchange);
        }
        is_transcript(message).then_some(Self::Tls12Transcript)
    }

    /// Whether it is TLS 1.3, in which RSA is padded with PSS only (RFC 8446 §4.2.3).
    pub fn is_tls13(self) -> bool {
        matches!(self, Self::Tls13Server | Self::Tls13Client)
    }
}

fn tls13(rest: &[u8]) -> Option<SignedContent> {
    let (what, hash) = if let Some(hash) = rest.strip_prefix(SERVER_CONTEXT) {
        (SignedContent::Tls13Server, hash)
    } else {
        (SignedContent::Tls13Client, rest.strip_prefix(CLIENT_CONTEXT)?)
    };
    // SHA-256 or SHA-384: the cipher suites of TLS 1.3 have no others.
    matches!(hash.len(), 32 | 48).then_some(what)
}

/// client_random[32] server_random[32], then ServerECDHParams for a named curve, to the last byte.
fn is_key_exchange(message: &[u8]) -> bool {
    let Some((_, [NAMED_CURVE, high, low, len, point @ ..])) = message.split_at_checked(64) else {
        return false;
    };
    let group = u16::from_be_bytes([*high, *low]);
    let Some((_, size)) = GROUPS.into_iter().find(|(known, _)| *known == group) else {
        return false;
    };
    // Uncompressed is the only form of a point that RFC 8422 has left.
    let form = group == X25519 || point.first() == Some(&0x04);
    usize::from(*len) == size && point.len() == size && form
}

/// A ClientHello with the version of TLS 1.2, whole, and a ServerHello behind it.
fn is_transcript(message: &[u8]) -> bool {
    let [0x01, a, b, c, hello @ ..] = message else { return false };
    let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
    let Some((hello, rest)) = hello.split_at_checked(len) else { return false };
    hello.starts_with(&[0x03, 0x03]) && rest.first() == Some(&SERVER_HELLO)
}

const SERVER_CONTEXT: &[u8] = b"TLS 1.3, server CertificateVerify\0";
const CLIENT_CONTEXT: &[u8] = b"TLS 1.3, client CertificateVerify\0";

/// RFC 8422 §5.4, ECCurveType.
const NAMED_CURVE: u8 = 3;

const X25519: u16 = 0x001d;

/// Groups of TLS 1.2 with the sizes of their points: P-256, P-384, P-521, X25519.
const GROUPS: [(u16, usize); 4] = [(0x0017, 65), (0x0018, 97), (0x0019, 133), (X25519, 32)];

/// RFC 5246 §7.4.
const SERVER_HELLO: u8 = 2;

#[cfg(test)]
mod tests;
