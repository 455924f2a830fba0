//! From a client's certificate to its identity in plain types.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use bartizan_net::ClientIdentity;
use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::Tag;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

use crate::der;

/// The identity in a chain that was verified, leaf first.
///
/// A name with control characters is left out, one with NUL above all: software in C would read
/// `admin\0.example.test` as `admin`, and a line end would split a log or a header. So is an
/// alternative name that is empty or not ASCII, as its type (IA5String) demands. Whatever the chain
/// holds, this does not fail: of a leaf that is no certificate, the chain and the digest are known.
pub(crate) fn client_identity(chain: &[CertificateDer<'_>]) -> ClientIdentity {
    let mut identity = ClientIdentity::new(chain.iter().map(|cert| cert.to_vec()).collect());
    let Some(leaf) = chain.first() else { return identity };
    identity.sha256.copy_from_slice(digest(&SHA256, leaf).as_ref());
    let Ok((&[], cert)) = X509Certificate::from_der(leaf) else { return identity };

    // The last common name alone: an earlier one must not stand in for one that is refused.
    identity.common_name = cert.subject().iter_common_name().last().and_then(text);
    identity.serial = significant(cert.raw_serial()).to_vec();
    identity.not_before = Some(der::wall(&cert.validity().not_before));
    identity.not_after = Some(der::wall(&cert.validity().not_after));
    // An error here is a second extension of this kind, which no verifier lets pass.
    let names = cert.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(dns) if is_clean(dns) => {
                identity.dns.push(dns.to_ascii_lowercase());
            }
            GeneralName::URI(uri) if is_clean(uri) => identity.uris.push((*uri).to_owned()),
            GeneralName::RFC822Name(mail) if is_clean(mail) => {
                identity.emails.push((*mail).to_owned());
            }
            GeneralName::IPAddress(ip) => identity.ips.extend(address(ip)),
            _ => {}
        }
    }
    identity
}

fn is_clean(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}

/// The serial number zero keeps one byte.
fn significant(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|b| **b == 0).count();
    &serial[zeros.min(serial.len().saturating_sub(1))..]
}

/// A name of the subject in any of the string types that certificates use.
fn text(name: &AttributeTypeAndValue<'_>) -> Option<String> {
    let value = name.attr_value();
    let bytes = value.data;
    let text = match value.tag() {
        Tag::Utf8String
        | Tag::PrintableString
        | Tag::NumericString
        | Tag::Ia5String
        | Tag::VisibleString => String::from_utf8(bytes.to_vec()).ok()?,
        // Latin-1, as everyone writes it, instead of what the standard says.
        Tag::TeletexString => bytes.iter().map(|b| char::from(*b)).collect(),
        Tag::BmpString => {
            let (units, []) = bytes.as_chunks::<2>() else { return None };
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            String::from_utf16(&units).ok()?
        }
        Tag::UniversalString => {
            let (units, []) = bytes.as_chunks::<4>() else { return None };
            let chars = units.iter().map(|unit| char::from_u32(u32::from_be_bytes(*unit)));
            chars.collect::<Option<_>>()?
        }
        _ => return None,
    };
    (!text.is_empty() && !text.contains(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests;
