//! Pins: digests that a certificate or its key has to have.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

use crate::fingerprint::Fingerprint;

/// The SHA-256 digest of a public key, or of a whole certificate, that a backend has to present.
///
/// The pin of a key is over the SubjectPublicKeyInfo (RFC 7469 §2.4), so it outlives a renewal with
/// the same key. This prints it:
///
/// ```text
/// openssl x509 -in cert.pem -noout -pubkey | openssl pkey -pubin -outform der \
///     | openssl dgst -sha256 -binary | base64
/// ```
///
/// Displays as `sha256:BASE64` for a key and `cert-sha256:HEX` for a certificate, and is parsed
/// from either. The forms `sha256//BASE64` (curl) and `sha256/BASE64` are taken as well.
///
/// ```
/// use bartizan_tls::Pin;
///
/// let pin: Pin = "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".parse()?;
/// assert_eq!(pin, Pin::spki_sha256("47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")?);
/// # Ok::<_, bartizan_tls::PinError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin {
    kind: Kind,
    digest: Fingerprint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Spki,
    Certificate,
}

impl Pin {
    /// The pin of a public key: its digest in base64, with or without padding.
    ///
    /// # Errors
    ///
    /// [`PinError`], if that is not what it is.
    pub fn spki_sha256(base64: &str) -> Result<Self, PinError> {
        Ok(Self { kind: Kind::Spki, digest: from_base64(base64)? })
    }

    /// The pin of a certificate, which ends with its renewal: its digest in base64, or in
    /// hexadecimal digits with or without colons, as `openssl x509 -fingerprint -sha256` prints it.
    ///
    /// # Errors
    ///
    /// [`PinError`], if that is not what it is.
    pub fn certificate_sha256(digest: &str) -> Result<Self, PinError> {
        let digest = match from_hex(digest) {
            Some(digest) => digest,
            None => from_base64(digest)?,
        };
        Ok(Self { kind: Kind::Certificate, digest })
    }

    pub(super) fn of_spki(digest: Fingerprint) -> Self {
        Self { kind: Kind::Spki, digest }
    }

    pub(super) fn of_certificate(digest: Fingerprint) -> Self {
        Self { kind: Kind::Certificate, digest }
    }

    pub(super) fn is_of_certificate(&self) -> bool {
        self.kind == Kind::Certificate
    }

    /// For a digest of what decides.
    pub(super) fn bytes(&self) -> [u8; 33] {
        let mut bytes = [u8::from(self.is_of_certificate()); 33];
        bytes[1..].copy_from_slice(self.digest.as_bytes());
        bytes
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        if let Some(digest) = text.strip_prefix("cert-sha256:") {
            return Self::certificate_sha256(digest);
        }
        let forms = ["sha256:", "sha256//", "sha256/"];
        let digest = forms.iter().find_map(|form| text.strip_prefix(form));
        Self::spki_sha256(digest.ok_or(PinError::Kind)?)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Spki => write!(f, "sha256:{}", STANDARD.encode(self.digest.as_bytes())),
            Kind::Certificate => write!(f, "cert-sha256:{}", self.digest),
        }
    }
}

/// A pin cannot be read. The operator's fault.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// It does not say what it is a digest of.
    #[error("a pin starts with `sha256:` (of a public key) or `cert-sha256:` (of a certificate)")]
    Kind,

    /// It is not written as a digest is.
    #[error(
        "the digest of a pin is neither base64 nor, for a certificate, hexadecimal digits; copy it \
         whole and without spaces"
    )]
    Encoding,

    /// It is the digest of another algorithm, or cut.
    #[error("the digest of a pin has {0} bytes, but those of SHA-256 have 32")]
    Length(usize),
}

fn from_base64(text: &str) -> Result<Fingerprint, PinError> {
    if text.len() > LONGEST {
        return Err(PinError::Encoding);
    }
    let bytes = LENIENT.decode(text).map_err(|_| PinError::Encoding)?;
    let digest: [u8; 32] =
        bytes.as_slice().try_into().map_err(|_| PinError::Length(bytes.len()))?;
    Ok(Fingerprint::new(&digest))
}

/// `None` unless it is exactly a digest: 64 digits are no base64 of 32 bytes, so there is no doubt.
fn from_hex(text: &str) -> Option<Fingerprint> {
    let digits: Vec<u8> = match text.len() {
        64 => text.bytes().collect(),
        95 if text.bytes().skip(2).step_by(3).all(|b| b == b':') => {
            text.bytes().enumerate().filter(|(at, _)| at % 3 != 2).map(|(_, b)| b).collect()
        }
        _ => return None,
    };
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [char::from(pair[0]).to_digit(16)?, char::from(pair[1]).to_digit(16)?];
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(Fingerprint::new(&digest))
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// More than any digest takes, so that a file which is taken for a pin is not decoded.
const LONGEST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const BASE64: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn every_form_is_the_same_digest() {
        let spki = Pin::of_spki(Fingerprint::of(b""));
        for text in ["sha256:", "sha256//", "sha256/"] {
            assert_eq!(format!("{text}{BASE64}").parse(), Ok(spki));
        }
        assert_eq!(Pin::spki_sha256(BASE64.trim_end_matches('=')), Ok(spki));
        let cert = Pin::of_certificate(Fingerprint::of(b""));
        let pairs: Vec<_> = HEX.as_bytes().chunks(2).map(|p| String::from_utf8_lossy(p)).collect();
        let colons = pairs.join(":").to_uppercase();
        for text in [BASE64, HEX, &HEX.to_uppercase(), &colons] {
            assert_eq!(Pin::certificate_sha256(text), Ok(cert), "{text}");
        }
        for pin in [spki, cert] {
            assert_eq!(pin.to_string().parse(), Ok(pin));
        }
        assert_ne!(spki, cert);
        assert_ne!(spki.bytes(), cert.bytes());
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        assert_eq!(BASE64.parse::<Pin>(), Err(PinError::Kind));
        assert_eq!("sha1:AAAA".parse::<Pin>(), Err(PinError::Kind));
        assert_eq!("sha256:AAAA".parse::<Pin>(), Err(PinError::Length(3)));
        assert_eq!(format!("sha256:{HEX}").parse::<Pin>(), Err(PinError::Length(48)), "hex");
        for bad in ["", " ", "é", &format!(" {BASE64}"), &"A".repeat(300)] {
            assert!(Pin::spki_sha256(bad).is_err(), "{bad}");
            assert!(Pin::certificate_sha256(bad).is_err(), "{bad}");
        }
        let no_colons = HEX.as_bytes().chunks(2).map(|p| String::from_utf8_lossy(p));
        let dashes = no_colons.collect::<Vec<_>>().join("-");
        assert_eq!(Pin::certificate_sha256(&dashes), Err(PinError::Encoding));
        assert_eq!(Pin::certificate_sha256(&HEX.replace('e', "g")), Err(PinError::Length(48)));
    }
}
