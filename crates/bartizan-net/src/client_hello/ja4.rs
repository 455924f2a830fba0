//! The JA4 fingerprint of a TLS client, after FoxIO's "JA4: TLS Client Fingerprinting".

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::hello::{ClientHello, TlsCodes, is_grease};
use super::parse::{ALPN, SERVER_NAME};

/// Always over TCP: DTLS and QUIC carry their hellos in other ways.
pub(super) fn fingerprint(hello: &ClientHello) -> String {
    let mut suites = known(hello.cipher_suites());
    let mut extensions = known(hello.extensions());
    // What the client says counts, also if it is an address and no name.
    let named = if extensions.contains(&SERVER_NAME) { 'd' } else { 'i' };
    let (first, last) = alpn_ends(hello.alpn().next().unwrap_or_default());
    let prefix = format!(
        "t{}{named}{:02}{:02}{first}{last}",
        version(known(hello.versions()).into_iter().max()),
        suites.len().min(MAX_COUNT),
        extensions.len().min(MAX_COUNT),
    );

    suites.sort_unstable();
    extensions.retain(|extension| ![SERVER_NAME, ALPN].contains(extension));
    extensions.sort_unstable();
    let mut offers = hex_list(&extensions);
    let schemes = hex_list(&known(hello.signature_schemes()));
    if !schemes.is_empty() {
        offers.push('_');
        offers.push_str(&schemes);
    }
    let offers = if extensions.is_empty() { "" } else { &*offers };
    format!("{prefix}_{}_{}", hash(&hex_list(&suites)), hash(offers))
}

fn known(codes: TlsCodes<'_>) -> Vec<u16> {
    codes.filter(|code| !is_grease(*code)).collect()
}

fn version(highest: Option<u16>) -> &'static str {
    match highest {
        Some(0x0304) => "13",
        Some(0x0303) => "12",
        Some(0x0302) => "11",
        Some(0x0301) => "10",
        Some(0x0300) => "s3",
        Some(0x0002) => "s2",
        _ => "00",
    }
}

/// The first and the last character of a protocol's name, or of its bytes in hexadecimal where one
/// of the two is no letter and no digit.
fn alpn_ends(name: &[u8]) -> (char, char) {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return ('0', '0') };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return ((*first).into(), (*last).into());
    }
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    (digit(first >> 4), digit(last & 0x0f))
}

fn hex_list(codes: &[u16]) -> String {
    let mut list = String::with_capacity(5 * codes.len());
    for code in codes {
        let comma = if list.is_empty() { "" } else { "," };
        // Writing to a string does not fail.
        let _ = write!(list, "{comma}{code:04x}");
    }
    list
}

/// The first 12 hexadecimal digits of the hash, or zeros for nothing.
fn hash(text: &str) -> String {
    let digest = if text.is_empty() { Default::default() } else { Sha256::digest(text) };
    let mut hex = String::with_capacity(2 * HASH_BYTES);
    for byte in &digest[..HASH_BYTES] {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Counts have two digits.
const MAX_COUNT: usize = 99;

const HASH_BYTES: usize = 6;
