//! What the benches share: directories full of certificates.

#![allow(clippy::unwrap_used, reason = "a bench that cannot set its scene has to stop")]

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, RsaKeySize};

/// The key of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "benches go through both")]
pub enum Key {
    /// ECDSA on P-256; each leaf has its own.
    P256,
    /// RSA with 2,048 bits. Making one takes a twentieth of a second, so leaves share 32 of them;
    /// each file has its own copy all the same.
    Rsa2048,
}

impl Key {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::P256, Self::Rsa2048];

    /// Its name, as the benches print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::Rsa2048 => "RSA-2048",
        }
    }

    fn pool(self) -> Vec<KeyPair> {
        match self {
            Self::P256 => Vec::new(),
            Self::Rsa2048 => {
                let make =
                    |_| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048);
                (0..32).map(|i: usize| make(i).unwrap()).collect()
            }
        }
    }
}

/// The name of leaf number `i`.
pub fn name(i: usize) -> String {
    format!("host-{i}.example.com")
}

/// Writes `count` bundles (leaf, intermediate, key) into `dir`, each leaf for a name of its own.
///
/// # Panics
///
/// If it cannot.
pub fn fill(dir: &Path, count: usize, key: Key) {
    let authority = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let intermediate = params.self_signed(&authority).unwrap().pem();
    let issuer = Issuer::new(params, authority);
    let pool = key.pool();
    for i in 0..count {
        let fresh = pool.is_empty().then(|| KeyPair::generate().unwrap());
        let key = fresh.as_ref().unwrap_or_else(|| &pool[i % pool.len()]);
        let mut leaf = CertificateParams::new(vec![name(i), format!("www.{}", name(i))]).unwrap();
        leaf.distinguished_name.push(DnType::CommonName, name(i));
        leaf.use_authority_key_identifier_extension = true;
        let leaf = leaf.signed_by(key, &issuer).unwrap().pem();
        let bundle = leaf + &intermediate + &key.serialize_pem();
        fs::write(dir.join(format!("{i:06}.pem")), bundle).unwrap();
    }
}
