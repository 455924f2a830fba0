//! What the targets share.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The time in all targets, 2026-01-01: what a seed does must not depend on the day.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

/// Minted once, with the seeds.
pub mod fixtures {
    /// The authority of all that follows, as DER and as PEM.
    pub const CA: &[u8] = include_bytes!("../fixtures/ca.der");
    pub const CA_PEM: &[u8] = include_bytes!("../fixtures/ca.pem");
    /// Certificates of the keys among the seeds.
    pub const P256: &[u8] = include_bytes!("../fixtures/p256.der");
    pub const P384: &[u8] = include_bytes!("../fixtures/p384.der");
    pub const RSA: &[u8] = include_bytes!("../fixtures/rsa.der");
    /// With keys, for `a.test`, for `*.b.test` and again for `a.test`.
    pub const BUNDLES: [(&str, &[u8]); 3] = [
        ("a-p256", include_bytes!("../fixtures/a-p256.pem")),
        ("b-p256", include_bytes!("../fixtures/b-p256.pem")),
        ("a-rsa", include_bytes!("../fixtures/a-rsa.pem")),
    ];
    /// What ticket keys are derived from.
    pub const TICKET_SECRET: &[u8] = b"a secret of the fuzz targets alone";
}

/// A PEM section with the usual line length.
pub fn to_pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|b| char::from(*b)));
        pem.push('\n');
    }
    pem + &format!("-----END {label}-----\n")
}

/// Panics if `message` holds 16 characters in a row out of what could be a key in `input`: base64,
/// with a lower-case letter, for a label has none.
pub fn assert_cites_nothing(message: &str, input: &[u8]) {
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
    for run in message.as_bytes().split(|b| !is_base64(b)) {
        for part in run.windows(16).filter(|part| part.iter().any(u8::is_ascii_lowercase)) {
            let cited = input.windows(16).any(|window| window == part);
            assert!(!cited, "cites its input: {message}");
        }
    }
}
