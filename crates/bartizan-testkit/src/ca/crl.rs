//! Revocation lists.

use std::time::SystemTime;

use rcgen::{
    CertificateRevocationList, CertificateRevocationListParams, CrlDistributionPoint,
    CrlIssuingDistributionPoint, CrlScope, KeyIdMethod, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateRevocationListDer;

use super::{Minted, TestCa, since_epoch};

/// What a certificate revocation list is to say. Default: nothing is revoked, made in 1975, and the
/// next one comes in 4096.
#[derive(Clone, Debug)]
#[must_use = "pass it to `TestCa::crl`"]
pub struct Crl {
    params: CertificateRevocationListParams,
}

impl Crl {
    /// A list without entries.
    pub fn new() -> Self {
        Self {
            params: CertificateRevocationListParams {
                this_update: rcgen::date_time_ymd(1975, 1, 1),
                next_update: rcgen::date_time_ymd(4096, 1, 1),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: Vec::new(),
                key_identifier_method: KeyIdMethod::Sha256,
            },
        }
    }

    /// Adds a certificate.
    pub fn revoke(self, minted: &Minted) -> Self {
        self.serial(minted.serial.clone())
    }

    /// Adds an intermediate authority.
    pub fn revoke_ca(self, ca: &TestCa) -> Self {
        self.serial(ca.serial.clone())
    }

    /// Sets when the list was made, to the second.
    ///
    /// # Panics
    ///
    /// If it is before 1970.
    pub fn this_update(mut self, time: SystemTime) -> Self {
        self.params.this_update = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(time);
        self
    }

    /// Sets when the next one comes, to the second: the end of this one's life.
    ///
    /// # Panics
    ///
    /// If it is before 1970.
    pub fn next_update(mut self, time: SystemTime) -> Self {
        self.params.next_update = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(time);
        self
    }

    /// Says that the list is of authorities alone, and comes from `uri`.
    pub fn of_authorities(mut self, uri: &str) -> Self {
        self.params.issuing_distribution_point = Some(CrlIssuingDistributionPoint {
            distribution_point: CrlDistributionPoint { uris: vec![uri.to_owned()] },
            scope: Some(CrlScope::CaCertsOnly),
        });
        self
    }

    fn serial(mut self, serial_number: SerialNumber) -> Self {
        self.params.revoked_certs.push(RevokedCertParams {
            serial_number,
            revocation_time: rcgen::date_time_ymd(2000, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        self
    }
}

impl Default for Crl {
    fn default() -> Self {
        Self::new()
    }
}

impl TestCa {
    /// Signs a revocation list, as PEM (`X509 CRL`).
    ///
    /// # Panics
    ///
    /// If its end is not after its start.
    pub fn crl(&self, crl: Crl) -> String {
        self.sign(&crl).pem().unwrap()
    }

    /// Signs a revocation list, as DER.
    ///
    /// # Panics
    ///
    /// If its end is not after its start.
    pub fn crl_der(&self, crl: Crl) -> CertificateRevocationListDer<'static> {
        self.sign(&crl).into()
    }

    fn sign(&self, crl: &Crl) -> CertificateRevocationList {
        crl.params.signed_by(&self.issuer).unwrap()
    }
}
