//! Private keys as files hold them, and what they tell of their public half.

use std::fmt;
use std::sync::Arc;

use pkcs1::RsaPrivateKey;
use pkcs8::der::Decode;
use pkcs8::{ObjectIdentifier, PrivateKeyInfo};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use rustls::sign::SigningKey;
use sec1::EcPrivateKey;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroizing;

use crate::store::KeyKind;

/// A private key, DER, overwritten when it is dropped. Never shows in `Debug`.
pub(crate) struct KeyDer {
    format: Format,
    der: Zeroizing<Box<[u8]>>,
}

#[derive(Clone, Copy)]
pub(crate) enum Format {
    /// RFC 5958.
    Pkcs8,
    /// RFC 8017, RSA.
    Pkcs1,
    /// RFC 5915, elliptic curves.
    Sec1,
}

impl KeyDer {
    pub(crate) fn new(format: Format, der: Vec<u8>) -> Self {
        // Without spare room, so that no copy is made and left behind.
        debug_assert_eq!(der.len(), der.capacity());
        Self { format, der: Zeroizing::new(der.into_boxed_slice()) }
    }

    #[cfg(fuzzing)]
    pub(crate) fn parts(&self) -> (Format, &[u8]) {
        (self.format, &self.der)
    }

    /// Builds the key that signs. Costly: crypto is checked here.
    pub(crate) fn signer(&self) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        let der = match self.format {
            Format::Pkcs8 => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(&**self.der)),
            Format::Pkcs1 => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(&**self.der)),
            Format::Sec1 => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(&**self.der)),
        };
        aws_lc_rs::sign::any_supported_type(&der)
    }

    /// Whether the public half that the file itself tells is that of `spki`. `None` if it tells
    /// none, or tells it in a way that cannot be compared: then the key has to be built.
    pub(crate) fn belongs_to(&self, spki: &SubjectPublicKeyInfo<'_>) -> Option<bool> {
        match self.format {
            Format::Pkcs1 => rsa_matches(&self.der, spki),
            Format::Sec1 => ec_matches(&self.der, None, spki),
            Format::Pkcs8 => {
                let info = PrivateKeyInfo::try_from(&**self.der).ok()?;
                match info.algorithm.oid {
                    RSA => rsa_matches(info.private_key, spki),
                    EC => ec_matches(info.private_key, info.algorithm.parameters_oid().ok(), spki),
                    // Ed25519 in its usual form tells none.
                    other => {
                        let public = info.public_key?;
                        Some(is(other, spki) && public == &*spki.subject_public_key.data)
                    }
                }
            }
        }
    }
}

impl fmt::Debug for KeyDer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDer(..)")
    }
}

fn rsa_matches(der: &[u8], spki: &SubjectPublicKeyInfo<'_>) -> Option<bool> {
    let key = RsaPrivateKey::from_der(der).ok()?;
    if !is(RSA, spki) {
        return Some(false);
    }
    let public = pkcs1::RsaPublicKey::from_der(&spki.subject_public_key.data).ok()?;
    Some(key.public_key() == public)
}

fn ec_matches(
    der: &[u8],
    curve: Option<ObjectIdentifier>,
    spki: &SubjectPublicKeyInfo<'_>,
) -> Option<bool> {
    let key = EcPrivateKey::from_der(der).ok()?;
    let curve = curve.or_else(|| key.parameters?.named_curve())?;
    if !is_on(curve, spki) {
        return Some(false);
    }
    let public = key.public_key?;
    let other = &*spki.subject_public_key.data;
    // A point has a short form, too; the two cannot be compared without arithmetic.
    (public.len() == other.len()).then(|| public == other)
}

/// The kind of a certificate's key; `None` if it is none that is supported.
pub(crate) fn kind_of(spki: &SubjectPublicKeyInfo<'_>) -> Option<KeyKind> {
    if is(RSA, spki) {
        return Some(KeyKind::Rsa);
    }
    if is(ED25519, spki) {
        return Some(KeyKind::Ed25519);
    }
    CURVES.into_iter().find(|(curve, _)| is_on(*curve, spki)).map(|(_, kind)| kind)
}

fn is(algorithm: ObjectIdentifier, spki: &SubjectPublicKeyInfo<'_>) -> bool {
    spki.algorithm.algorithm.as_bytes() == algorithm.as_bytes()
}

fn is_on(curve: ObjectIdentifier, spki: &SubjectPublicKeyInfo<'_>) -> bool {
    let named = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    is(EC, spki) && named.is_some_and(|named| named.as_bytes() == curve.as_bytes())
}

/// RFC 8017 appendix C.
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

/// RFC 5480 §2.1.1.
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// RFC 8410 §3.
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// RFC 5480 §2.1.1.1.
const CURVES: [(ObjectIdentifier, KeyKind); 3] = [
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), KeyKind::P256),
    (ObjectIdentifier::new_unwrap("1.3.132.0.34"), KeyKind::P384),
    (ObjectIdentifier::new_unwrap("1.3.132.0.35"), KeyKind::P521),
];
