//! What a backend presented, for people.

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::Pin;
use crate::certificate_problem::MOST_NAMES;
use crate::der::wall;
use crate::fingerprint::Fingerprint;
use crate::store::date;
use crate::trust::is_self_issued;

/// The certificate that a backend presented, as it was, trusted or not. For people who look for what
/// is wrong: none of it was verified, so nothing may be decided by it.
///
/// Texts are as the certificate has them, with control characters escaped and a mark where they are
/// cut after 256 characters. Of a certificate that cannot be read, the digest is known and the rest
/// is empty. Displays in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresentedCertificate {
    /// Its DNS names and IP addresses, sixteen at most.
    pub names: Vec<String>,
    /// Its URIs, sixteen at most.
    pub uris: Vec<String>,
    /// Who it is for, in its own words: `CN=web1`.
    pub subject: String,
    /// Who issued it, in its own words.
    pub issuer: String,
    /// Its serial number in hexadecimal digits.
    pub serial: String,
    /// The first moment at which it is valid.
    pub not_before: Option<SystemTime>,
    /// The last one.
    pub not_after: Option<SystemTime>,
    /// SHA-256 of its SubjectPublicKeyInfo, as pins have it (RFC 7469 §2.4).
    pub spki: Option<Fingerprint>,
    /// SHA-256 of all of it.
    pub leaf: Fingerprint,
    pub(super) is_self_issued: bool,
}

impl PresentedCertificate {
    pub(crate) fn read(leaf: &CertificateDer<'_>) -> Self {
        let mut presented = Self {
            names: Vec::new(),
            uris: Vec::new(),
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            not_before: None,
            not_after: None,
            spki: None,
            leaf: Fingerprint::of(leaf),
            is_self_issued: false,
        };
        if let Ok((&[], cert)) = X509Certificate::from_der(leaf) {
            presented.fill(&cert);
        }
        presented
    }

    fn fill(&mut self, cert: &X509Certificate<'_>) {
        self.subject = clean(&cert.subject().to_string());
        self.issuer = clean(&cert.issuer().to_string());
        let serial = cert.raw_serial().iter().take(LONGEST_SERIAL);
        self.serial = serial.map(|byte| format!("{byte:02x}")).collect();
        self.not_before = Some(wall(&cert.validity().not_before));
        self.not_after = Some(wall(&cert.validity().not_after));
        self.spki = Some(Fingerprint::of(cert.public_key().raw));
        self.is_self_issued = is_self_issued(cert);
        // An error is a second extension of this kind, which no verifier lets pass.
        let names = cert.subject_alternative_name().ok().flatten();
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(dns) => add(&mut self.names, || clean(dns)),
                GeneralName::IPAddress(ip) => add(&mut self.names, || address(ip)),
                GeneralName::URI(uri) => add(&mut self.uris, || clean(uri)),
                _ => {}
            }
        }
    }
}

impl fmt::Display for PresentedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(from), Some(until), Some(spki)) = (self.not_before, self.not_after, self.spki)
        else {
            return write!(f, "an unreadable certificate ({})", Pin::of_certificate(self.leaf));
        };
        let or_none = |text: &str| if text.is_empty() { "nobody" } else { text }.to_owned();
        write!(f, "{} issued by {}", or_none(&self.subject), or_none(&self.issuer))?;
        let names: Vec<_> = self.names.iter().chain(&self.uris).map(String::as_str).collect();
        write!(f, ", for {}", or_none(&names.join(" ")))?;
        write!(f, ", serial {}, valid from {} until {}", self.serial, date(from), date(until))?;
        write!(f, ", key {}", Pin::of_spki(spki))
    }
}

fn add(names: &mut Vec<String>, name: impl FnOnce() -> String) {
    if names.len() < MOST_NAMES {
        names.push(name());
    }
}

fn address(bytes: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| v6()).map_or_else(|_| "an unreadable address".to_owned(), |ip| ip.to_string())
}

/// Without anything that could end a line of a log, or turn the direction of writing.
fn clean(text: &str) -> String {
    let mut clean = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == LONGEST_TEXT {
            clean.push('…');
            break;
        }
        match c {
            '"' | '\'' => clean.push(c),
            c => clean.extend(c.escape_debug()),
        }
    }
    clean
}

/// DNS names have 253 at most, and nobody reads more.
const LONGEST_TEXT: usize = 256;

/// RFC 5280 §4.1.2.2 allows 20 bytes.
const LONGEST_SERIAL: usize = 32;

#[cfg(test)]
mod tests {
    use bartizan_testkit::{Leaf, TestCa};

    use super::*;

    #[test]
    fn tells_in_one_line_what_it_is() {
        let ca = TestCa::new("evil\nroot");
        let leaf =
            Leaf::server("a.test").ip([10, 0, 0, 1]).uri("spiffe://a.test/x").serial(&[7, 9]);
        let leaf = ca.issue(leaf);
        let presented = PresentedCertificate::read(leaf.cert_der());
        assert_eq!(presented.names, ["a.test", "10.0.0.1"]);
        assert_eq!(presented.uris, ["spiffe://a.test/x"]);
        assert_eq!((presented.subject.as_str(), presented.serial.as_str()), ("CN=a.test", "0709"));
        assert_eq!(presented.issuer, "CN=evil\\nroot");
        assert!(!presented.is_self_issued);
        let shown = presented.to_string();
        assert!(!shown.contains('\n'), "{shown}");
        assert!(
            shown.starts_with("CN=a.test issued by CN=evil\\nroot, for a.test 10.0.0.1 spiffe:")
        );
        assert!(shown.contains("key sha256:") && shown.contains("1975"), "{shown}");
    }

    #[test]
    fn of_many_names_and_long_ones_some_are_shown() {
        let mut leaf = Leaf::new(&"x".repeat(10_000));
        for n in 0..40 {
            leaf = leaf.dns(&format!("n{n}.test")).uri(&format!("u://{n}"));
        }
        let presented = PresentedCertificate::read(TestCa::new("root").issue(leaf).cert_der());
        assert_eq!((presented.names.len(), presented.uris.len()), (16, 16));
        assert_eq!(presented.subject.chars().count(), LONGEST_TEXT + 1);
    }

    #[test]
    fn what_is_no_certificate_has_its_digest() {
        for bytes in [&b""[..], b"x", &[0x30, 0x82]] {
            let presented = PresentedCertificate::read(&CertificateDer::from(bytes));
            assert_eq!(presented.leaf, Fingerprint::of(bytes));
            assert!(presented.to_string().contains("unreadable"), "{presented}");
        }
    }
}
