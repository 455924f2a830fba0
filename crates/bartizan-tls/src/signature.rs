//! Signatures of issuers over what is no certificate: OCSP responses and revocation lists.

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use webpki::RawPublicKeyEntity;

/// What is signed, as it stands in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    /// The signed bytes.
    pub(crate) message: &'a [u8],
    /// The content of the AlgorithmIdentifier.
    pub(crate) algorithm: &'a [u8],
    /// The bytes of the BIT STRING.
    pub(crate) signature: &'a [u8],
}

impl Signed<'_> {
    /// Verifies it with a public key, a SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    ///
    /// `Algorithm`, when the provider does not take signatures of this kind (those with SHA-1 are
    /// one), or not with such a key; `Signature`, when the key did not make this one.
    pub(crate) fn verify(&self, spki: &[u8]) -> Result<(), BadSignature> {
        let spki = SubjectPublicKeyInfoDer::from(spki);
        let key = RawPublicKeyEntity::try_from(&spki).map_err(|_| BadSignature::Algorithm)?;
        let all = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        // One identifier may stand for several: ECDSA with SHA-256 is told apart by the key's curve.
        let fits = all.iter().filter(|a| a.signature_alg_id().as_ref() == self.algorithm);
        let mut outcome = Err(BadSignature::Algorithm);
        for algorithm in fits {
            match key.verify_signature(*algorithm, self.message, self.signature) {
                Ok(()) => return Ok(()),
                Err(webpki::Error::InvalidSignatureForPublicKey) => {
                    outcome = Err(BadSignature::Signature);
                }
                Err(_) => {}
            }
        }
        outcome
    }
}

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadSignature {
    /// It is of a kind that is not supported, or not with this key.
    Algorithm,
    /// The key did not make it.
    Signature,
}
