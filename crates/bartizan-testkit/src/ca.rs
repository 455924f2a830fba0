//! A certificate authority that lives as long as the test.
//!
//! ```
//! use bartizan_testkit::{Leaf, TestCa};
//!
//! let ca = TestCa::new("test root");
//! let site = ca.issue(Leaf::server("localhost").ip([127, 0, 0, 1]));
//!
//! let server = site.server_config(&["h2", "http/1.1"]);
//! let client = ca.client_config(&["h2"]);
//! # let _ = (server, client, site.bundle_pem());
//! ```
//!
//! Every rustls config names the aws-lc-rs provider. None uses the default of the process, which is
//! missing as soon as another crate of the same build turns a second provider on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

mod crl;
mod leaf;
mod ocsp;

pub use crl::Crl;
pub use leaf::{KeyType, Leaf};
pub use ocsp::{Ocsp, OcspHash};

/// A root or intermediate authority with a P-256 key, valid from 1975 to 4096 unless it was made
/// with [`lasting`](Self::lasting).
#[derive(Debug)]
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    cert: Certificate,
    /// This authority and those above it up to, but without, the root. Empty for the root.
    intermediates: Vec<Certificate>,
    root: CertificateDer<'static>,
    serial: SerialNumber,
}

impl TestCa {
    /// A new self-signed root named `common_name`.
    ///
    /// Two roots of the same name are still two: each has its own key.
    pub fn new(common_name: &str) -> Self {
        Self::root(ca_params(common_name), KeyPair::generate().unwrap())
    }

    /// A new self-signed root that is valid until `not_after`, to the second.
    ///
    /// # Panics
    ///
    /// If it is before 1970.
    pub fn lasting(common_name: &str, not_after: SystemTime) -> Self {
        let mut params = ca_params(common_name);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(not_after);
        Self::root(params, KeyPair::generate().unwrap())
    }

    /// A new self-signed certificate that issues others although it is not marked as an authority's:
    /// what it issues may not be believed.
    pub fn pretender(common_name: &str) -> Self {
        let mut params = ca_params(common_name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Self::root(params, KeyPair::generate().unwrap())
    }

    /// The same root with the same key, renewed: valid until `not_after`, to the second.
    ///
    /// # Panics
    ///
    /// If it is before 1970, or if this authority is no root.
    pub fn renewed(&self, common_name: &str, not_after: SystemTime) -> Self {
        assert!(self.intermediates.is_empty(), "an intermediate is renewed by its root");
        let mut params = ca_params(common_name);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(not_after);
        let key = self.issuer.key().serialize_der();
        Self::root(params, KeyPair::try_from(key.as_slice()).unwrap())
    }

    fn root(mut params: CertificateParams, key: KeyPair) -> Self {
        let serial = serial_of(&key);
        params.serial_number = Some(serial.clone());
        let cert = params.self_signed(&key).unwrap();
        Self {
            root: cert.der().clone(),
            issuer: Issuer::new(params, key),
            cert,
            intermediates: Vec::new(),
            serial,
        }
    }

    /// A new authority named `common_name` under this one.
    ///
    /// What it issues carries it in its chain; what it trusts is the root above it.
    pub fn intermediate(&self, common_name: &str) -> Self {
        self.below(ca_params(common_name))
    }

    fn below(&self, mut params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let serial = serial_of(&key);
        params.serial_number = Some(serial.clone());
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let mut intermediates = vec![cert.clone()];
        intermediates.extend(self.intermediates.iter().cloned());
        let (issuer, root) = (Issuer::new(params, key), self.root.clone());
        Self { issuer, cert, intermediates, root, serial }
    }

    /// A new authority under this one, as [`intermediate`](Self::intermediate) makes it, that is
    /// valid until `not_after`, to the second.
    ///
    /// # Panics
    ///
    /// If it is before 1970.
    pub fn intermediate_lasting(&self, common_name: &str, not_after: SystemTime) -> Self {
        let mut params = ca_params(common_name);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(not_after);
        self.below(params)
    }

    /// Issues a certificate, with a new key.
    ///
    /// # Panics
    ///
    /// If a name in `leaf` is not ASCII.
    pub fn issue(&self, leaf: Leaf) -> Minted {
        let key = leaf.key.generate();
        self.certify(leaf, key)
    }

    /// Issues a certificate for the key of another: a renewal that keeps it. The kind of key in
    /// `leaf` does not count.
    pub fn issue_with_key_of(&self, leaf: Leaf, other: &Minted) -> Minted {
        let key = KeyPair::try_from(other.key.serialize_der().as_slice()).unwrap();
        self.certify(leaf, key)
    }

    fn certify(&self, leaf: Leaf, key: KeyPair) -> Minted {
        let mut params = leaf.params;
        let serial = params.serial_number.get_or_insert_with(|| serial_of(&key)).clone();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![cert];
        chain.extend(self.intermediates.iter().cloned());
        Minted { chain, key, serial }
    }

    /// This authority's own certificate as PEM.
    pub fn cert_pem(&self) -> String {
        self.cert.pem()
    }

    /// This authority's own certificate as DER.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        self.cert.der()
    }

    /// The root above this authority (itself, if it is one) as the only trust anchor.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        roots
    }

    /// A client that trusts the root, offers `alpn` in this order and has no certificate.
    pub fn client_config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut config =
            client_builder().with_root_certificates(self.roots()).with_no_client_auth();
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }

    /// A client as [`client_config`](Self::client_config) makes it, which shows `identity` to a
    /// server that asks for a certificate.
    pub fn client_config_as(&self, identity: &Minted, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut config = client_builder()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(identity.chain_der(), identity.key_der())
            .unwrap();
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }
}

/// An issued certificate with its key, and the intermediates between it and the root.
#[derive(Debug)]
pub struct Minted {
    /// The leaf, then the intermediates upwards. The root is not in it.
    chain: Vec<Certificate>,
    key: KeyPair,
    serial: SerialNumber,
}

impl Minted {
    /// The serial number, big-endian, as it was given to [`Leaf::serial`].
    pub fn serial(&self) -> Vec<u8> {
        self.serial.to_bytes()
    }

    /// The leaf alone as PEM.
    pub fn cert_pem(&self) -> String {
        self.chain[0].pem()
    }

    /// The key as PEM (PKCS#8, unencrypted).
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The leaf and the intermediates upwards as PEM. The root is not in it.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(Certificate::pem).collect()
    }

    /// The chain and the key in one PEM file.
    pub fn bundle_pem(&self) -> String {
        self.chain_pem() + &self.key_pem()
    }

    /// The leaf alone as DER.
    pub fn cert_der(&self) -> &CertificateDer<'static> {
        self.chain[0].der()
    }

    /// The leaf and the intermediates upwards as DER. The root is not in it.
    pub fn chain_der(&self) -> Vec<CertificateDer<'static>> {
        self.chain.iter().map(|cert| cert.der().clone()).collect()
    }

    /// The key as DER (PKCS#8).
    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    /// The public key as DER (SubjectPublicKeyInfo), which pins are digests of.
    pub fn spki_der(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(&self.key)
    }

    /// A server that shows this chain, speaks TLS 1.2 and 1.3, chooses from `alpn` in its own
    /// order and asks for no client certificate.
    pub fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain_der(), self.key_der())
            .unwrap();
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    params
}

/// A positive number of 16 bytes that is another for each key: a part of the public key.
fn serial_of(key: &KeyPair) -> SerialNumber {
    let public = key.public_key_raw();
    let mut serial = public[public.len() - 16..].to_vec();
    serial[0] = 0x40 | serial[0] & 0x3f;
    SerialNumber::from_slice(&serial)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).expect("validity starts and ends after 1970")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn client_builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap()
}

fn protocols(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect()
}

#[cfg(test)]
mod tests;
