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

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, RsaKeySize, SanType,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A root or intermediate authority with a P-256 key, valid from 1975 to 4096.
#[derive(Debug)]
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    cert: Certificate,
    /// This authority and those above it up to, but without, the root. Empty for the root.
    intermediates: Vec<Certificate>,
    root: CertificateDer<'static>,
}

impl TestCa {
    /// A new self-signed root named `common_name`.
    ///
    /// Two roots of the same name are still two: each has its own key.
    pub fn new(common_name: &str) -> Self {
        let params = ca_params(common_name);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self {
            root: cert.der().clone(),
            issuer: Issuer::new(params, key),
            cert,
            intermediates: Vec::new(),
        }
    }

    /// A new authority named `common_name` under this one.
    ///
    /// What it issues carries it in its chain; what it trusts is the root above it.
    pub fn intermediate(&self, common_name: &str) -> Self {
        let params = ca_params(common_name);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let mut intermediates = vec![cert.clone()];
        intermediates.extend(self.intermediates.iter().cloned());
        Self { issuer: Issuer::new(params, key), cert, intermediates, root: self.root.clone() }
    }

    /// Issues a certificate, with a new key.
    ///
    /// # Panics
    ///
    /// If a name in `leaf` is not ASCII.
    pub fn issue(&self, leaf: Leaf) -> Minted {
        let key = leaf.key.generate();
        let cert = leaf.params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![cert];
        chain.extend(self.intermediates.iter().cloned());
        Minted { chain, key }
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

/// What a certificate is to say. Default: P-256, valid from 1975 to 4096.
#[derive(Clone, Debug)]
#[must_use = "pass it to `TestCa::issue`"]
pub struct Leaf {
    params: CertificateParams,
    key: KeyType,
}

impl Leaf {
    /// A certificate without names other than its common name, and good for nothing yet: add
    /// names with [`dns`](Self::dns), [`ip`](Self::ip) or [`uri`](Self::uri), and a use with
    /// [`for_servers`](Self::for_servers) or [`for_clients`](Self::for_clients).
    ///
    /// Without a use it has no extended key usage at all, which most software takes for any use.
    pub fn new(common_name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        Self { params, key: KeyType::P256 }
    }

    /// A server's certificate for one host: `name` is its common name and its DNS name, or its
    /// address if it reads as one.
    pub fn server(name: &str) -> Self {
        let leaf = Self::new(name).for_servers();
        match name.parse::<IpAddr>() {
            Ok(ip) => leaf.ip(ip),
            Err(_) => leaf.dns(name),
        }
    }

    /// A client's certificate: a common name, and no other.
    pub fn client(common_name: &str) -> Self {
        Self::new(common_name).for_clients()
    }

    /// Adds a DNS name, which may start with `*.`.
    ///
    /// # Panics
    ///
    /// If it is not ASCII.
    pub fn dns(self, name: &str) -> Self {
        self.name(SanType::DnsName(name.try_into().unwrap()))
    }

    /// Adds an IP address.
    pub fn ip(self, addr: impl Into<IpAddr>) -> Self {
        self.name(SanType::IpAddress(addr.into()))
    }

    /// Adds a URI, such as a SPIFFE ID.
    ///
    /// # Panics
    ///
    /// If it is not ASCII.
    pub fn uri(self, uri: &str) -> Self {
        self.name(SanType::URI(uri.try_into().unwrap()))
    }

    /// Sets the kind of key.
    pub fn key(self, key: KeyType) -> Self {
        Self { key, ..self }
    }

    /// Sets the first moment at which it is valid, to the second.
    ///
    /// # Panics
    ///
    /// If it is before 1970.
    pub fn not_before(mut self, time: SystemTime) -> Self {
        self.params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(time);
        self
    }

    /// Sets the last moment at which it is valid, to the second.
    ///
    /// # Panics
    ///
    /// If it is before 1970.
    pub fn not_after(mut self, time: SystemTime) -> Self {
        self.params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(time);
        self
    }

    /// Good for servers (EKU `serverAuth`), beside what it is already good for.
    pub fn for_servers(self) -> Self {
        self.usage(ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Good for clients (EKU `clientAuth`), beside what it is already good for.
    pub fn for_clients(self) -> Self {
        self.usage(ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn name(mut self, name: SanType) -> Self {
        self.params.subject_alt_names.push(name);
        self
    }

    fn usage(mut self, usage: ExtendedKeyUsagePurpose) -> Self {
        self.params.insert_extended_key_usage(usage);
        self
    }
}

/// The kind of a leaf's key.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyType {
    /// ECDSA on P-256: the default, and the fastest to mint.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with 2048 bits. Takes up to a second to mint in an unoptimised build.
    Rsa2048,
}

impl KeyType {
    fn generate(self) -> KeyPair {
        match self {
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .unwrap()
    }
}

/// An issued certificate with its key, and the intermediates between it and the root.
#[derive(Debug)]
pub struct Minted {
    /// The leaf, then the intermediates upwards. The root is not in it.
    chain: Vec<Certificate>,
    key: KeyPair,
}

impl Minted {
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
