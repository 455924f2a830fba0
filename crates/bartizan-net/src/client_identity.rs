//! Who a client has proven to be.

use std::fmt;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

/// The identity in a client's certificate, which a TLS handshake has verified.
///
/// Names are as the certificate has them; a field that it lacks is empty. `bartizan-tls` fills it
/// in.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct ClientIdentity {
    /// The subject's common name (the last one, if there are several).
    pub common_name: Option<String>,
    /// DNS names (subject alternative names), lower case.
    pub dns: Vec<String>,
    /// URIs (subject alternative names), a SPIFFE ID among them.
    pub uris: Vec<String>,
    /// E-mail addresses (subject alternative names).
    pub emails: Vec<String>,
    /// IP addresses (subject alternative names).
    pub ips: Vec<IpAddr>,
    /// The serial number, as the big-endian bytes of the certificate, without leading zeros.
    pub serial: Vec<u8>,
    /// SHA-256 of the leaf.
    pub sha256: [u8; 32],
    /// From when on the leaf is valid.
    pub not_before: Option<SystemTime>,
    /// Until when the leaf is valid.
    pub not_after: Option<SystemTime>,
    /// The chain that the client sent, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    common_name_field: OnceLock<Option<HeaderValue>>,
    leaf_field: OnceLock<HeaderValue>,
    chain_field: OnceLock<Option<HeaderValue>>,
}

impl ClientIdentity {
    /// An identity of which nothing is known but the chain, DER, leaf first.
    pub fn new(chain: Vec<Vec<u8>>) -> Self {
        Self { chain, ..Self::default() }
    }

    /// The first URI with the scheme `spiffe`.
    pub fn spiffe_id(&self) -> Option<&str> {
        let is_spiffe =
            |uri: &&String| uri.get(..9).is_some_and(|s| s.eq_ignore_ascii_case("spiffe://"));
        self.uris.iter().find(is_spiffe).map(String::as_str)
    }

    /// The serial number in hexadecimal digits, upper case.
    pub fn serial_hex(&self) -> String {
        hex(&self.serial).to_uppercase()
    }

    /// The common name as the value of a header field, in UTF-8. `None` if there is none, or if it
    /// could be read as another one there: if it is empty, has control characters, or begins or
    /// ends with white space, which recipients cut off. Made once per connection.
    pub fn common_name_field(&self) -> Option<&HeaderValue> {
        let is_plain = |name: &&String| {
            !name.is_empty() && name.trim().len() == name.len() && !name.contains(char::is_control)
        };
        let name = || self.common_name.as_ref().filter(is_plain);
        let made = || name().and_then(|name| HeaderValue::from_bytes(name.as_bytes()).ok());
        self.common_name_field.get_or_init(made).as_ref()
    }

    /// The value of the field `Client-Cert` (RFC 9440 §2.2): the leaf, as a byte sequence of
    /// structured fields. Made once per connection.
    pub fn client_cert_field(&self) -> &HeaderValue {
        self.leaf_field.get_or_init(|| {
            byte_sequences(self.chain.get(..1).unwrap_or_default())
                .unwrap_or_else(|| HeaderValue::from_static("::"))
        })
    }

    /// The value of the field `Client-Cert-Chain` (RFC 9440 §2.3): the rest of the chain; `None` if
    /// the client sent the leaf alone. Made once per connection.
    pub fn client_cert_chain_field(&self) -> Option<&HeaderValue> {
        let made = || byte_sequences(self.chain.get(1..).unwrap_or_default());
        self.chain_field.get_or_init(made).as_ref()
    }
}

impl PartialEq for ClientIdentity {
    /// Two are the same if the certificates are.
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain
    }
}

impl Eq for ClientIdentity {}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientIdentity")
            .field("common_name", &self.common_name)
            .field("dns", &self.dns)
            .field("uris", &self.uris)
            .field("emails", &self.emails)
            .field("serial", &self.serial_hex())
            .field("sha256", &hex(&self.sha256))
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// A list of byte sequences (RFC 8941 §3.3.5); `None` if it is empty.
fn byte_sequences(certs: &[Vec<u8>]) -> Option<HeaderValue> {
    let items: Vec<_> = certs.iter().map(|der| format!(":{}:", STANDARD.encode(der))).collect();
    if items.is_empty() {
        return None;
    }
    HeaderValue::try_from(items.join(", ")).ok()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spiffe_id_is_found_among_uris() {
        let mut identity = ClientIdentity::new(Vec::new());
        assert_eq!(identity.spiffe_id(), None);
        identity.uris = vec!["https://a.test/".into(), "spiffe://a.test/web".into()];
        assert_eq!(identity.spiffe_id(), Some("spiffe://a.test/web"));
    }

    #[test]
    fn a_common_name_is_a_field_only_if_it_reads_as_itself_there() {
        let field = |name: &str| {
            let mut identity = ClientIdentity::new(Vec::new());
            identity.common_name = Some(name.into());
            identity.common_name_field().map(|value| value.as_bytes().to_vec())
        };
        for name in ["web 1", "Jörg, \"the\" ☃"] {
            assert_eq!(field(name).unwrap(), name.as_bytes());
        }
        for name in ["", "a\tb", "a\r\nb: c", "a\0", "a\u{7f}", "a\u{85}b", " a", "a ", "a\u{a0}"] {
            assert_eq!(field(name), None, "{name:?}");
        }
        assert_eq!(ClientIdentity::new(Vec::new()).common_name_field(), None);
    }

    #[test]
    fn fields_are_byte_sequences_of_rfc_8941() {
        let leaf_alone = ClientIdentity::new(vec![vec![1, 2, 3]]);
        assert_eq!(leaf_alone.client_cert_field(), ":AQID:");
        assert_eq!(leaf_alone.client_cert_chain_field(), None);
        let chain = ClientIdentity::new(vec![vec![1], vec![2], vec![3, 4]]);
        assert_eq!(chain.client_cert_field(), ":AQ==:");
        assert_eq!(chain.client_cert_chain_field().unwrap(), ":Ag==:, :AwQ=:");
    }
}
