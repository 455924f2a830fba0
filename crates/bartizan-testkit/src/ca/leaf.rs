//! What certificates are to say.

use std::net::IpAddr;
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, RsaKeySize, SanType, SerialNumber,
};

use super::{Minted, serial_of, since_epoch};

/// What a certificate is to say. Default: P-256, valid from 1975 to 4096.
#[derive(Clone, Debug)]
#[must_use = "pass it to `TestCa::issue`"]
pub struct Leaf {
    pub(super) params: CertificateParams,
    pub(super) key: KeyType,
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

    /// Adds a second common name, behind the first.
    pub fn second_common_name(mut self, common_name: &str) -> Self {
        // By its OID: of each kind that has a name, rcgen keeps one.
        let kind = DnType::CustomDnType(vec![2, 5, 4, 3]);
        self.params.distinguished_name.push(kind, common_name);
        self
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

    /// Adds an e-mail address.
    ///
    /// # Panics
    ///
    /// If it is not ASCII.
    pub fn email(self, address: &str) -> Self {
        self.name(SanType::Rfc822Name(address.try_into().unwrap()))
    }

    /// Sets the serial number, big-endian. Default: made from the key.
    pub fn serial(mut self, serial: &[u8]) -> Self {
        self.params.serial_number = Some(SerialNumber::from_slice(serial));
        self
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

    /// Marks it as an authority's, as `openssl req -x509` does with what it signs itself.
    pub fn marked_as_authority(mut self) -> Self {
        self.params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        self
    }

    /// Signs it with its own, new key, so that nobody but itself has issued it.
    pub fn self_signed(self) -> Minted {
        let key = self.key.generate();
        let mut params = self.params;
        let serial = params.serial_number.get_or_insert_with(|| serial_of(&key)).clone();
        let cert = params.self_signed(&key).unwrap();
        Minted { chain: vec![cert], key, serial }
    }

    /// Good for servers (EKU `serverAuth`), beside what it is already good for.
    pub fn for_servers(self) -> Self {
        self.usage(ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Good for clients (EKU `clientAuth`), beside what it is already good for.
    pub fn for_clients(self) -> Self {
        self.usage(ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Good for signing OCSP responses (EKU `OCSPSigning`), beside what it is already good for.
    pub fn for_ocsp(self) -> Self {
        self.usage(ExtendedKeyUsagePurpose::OcspSigning)
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
    /// ECDSA on P-521.
    P521,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits. Takes up to a second to mint in an unoptimised build.
    Rsa2048,
}

impl KeyType {
    pub(super) fn generate(self) -> KeyPair {
        match self {
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            Self::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            Self::P521 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519),
            Self::Rsa2048 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .unwrap()
    }
}
