//! OCSP responses (RFC 6960), encoded by hand: nothing at hand signs them with an rcgen key.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rcgen::{KeyPair, SigningKey};

use super::{Minted, TestCa, since_epoch};

/// What an OCSP response is to say. Default: made on 2020-01-01, the next one comes in 4096, CertIDs
/// with SHA-1, signed by the authority itself.
#[derive(Clone, Debug)]
#[must_use = "pass it to `TestCa::ocsp`"]
pub struct Ocsp<'a> {
    status: Vec<u8>,
    this_update: SystemTime,
    next_update: Option<SystemTime>,
    hash: OcspHash,
    responder: Option<(&'a Minted, bool)>,
    beside: Vec<&'a Minted>,
    explicit_version: bool,
}

impl<'a> Ocsp<'a> {
    /// The certificate is good.
    pub fn good() -> Self {
        Self::status(tlv(0x80, &[]))
    }

    /// The certificate was revoked then.
    ///
    /// # Panics
    ///
    /// If it is before 1970.
    pub fn revoked(since: SystemTime) -> Self {
        Self::status(tlv(0xa1, &time(since)))
    }

    /// The responder does not know the certificate.
    pub fn unknown() -> Self {
        Self::status(tlv(0x82, &[]))
    }

    /// Sets when the status was known to be right, to the second.
    pub fn this_update(self, this_update: SystemTime) -> Self {
        Self { this_update, ..self }
    }

    /// Sets when the next response comes, to the second; `None` leaves it out.
    pub fn next_update(self, next_update: Option<SystemTime>) -> Self {
        Self { next_update, ..self }
    }

    /// Sets the hash that CertIDs are made with.
    pub fn hash(self, hash: OcspHash) -> Self {
        Self { hash, ..self }
    }

    /// Has `responder` sign it, whose certificate goes into the response.
    pub fn by(self, responder: &'a Minted) -> Self {
        Self { responder: Some((responder, true)), ..self }
    }

    /// Has `responder` sign it, whose certificate does not go into the response.
    pub fn by_unseen(self, responder: &'a Minted) -> Self {
        Self { responder: Some((responder, false)), ..self }
    }

    /// Speaks of another certificate too, after the first.
    pub fn beside(mut self, other: &'a Minted) -> Self {
        self.beside.push(other);
        self
    }

    /// Writes the version out, which DER leaves out since it is the default. Some responders do.
    pub fn explicit_version(self) -> Self {
        Self { explicit_version: true, ..self }
    }

    fn status(status: Vec<u8>) -> Self {
        Self {
            status,
            this_update: SystemTime::UNIX_EPOCH + Duration::from_secs(Y2020),
            next_update: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(Y4096)),
            hash: OcspHash::Sha1,
            responder: None,
            beside: Vec::new(),
            explicit_version: false,
        }
    }

    fn single(&self, ca: &TestCa, cert: &Minted) -> Vec<u8> {
        let id = ca.cert_id(cert, self.hash);
        let next = self.next_update.map_or_else(Vec::new, |next| tlv(0xa0, &time(next)));
        sequence(&[&id, &self.status, &time(self.this_update), &next])
    }
}

/// The hash that a CertID is made with.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OcspHash {
    /// SHA-1, which nearly all responders use.
    #[default]
    Sha1,
    /// SHA-256.
    Sha256,
}

impl OcspHash {
    fn of(self, data: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
        };
        digest::digest(algorithm, data).as_ref().to_vec()
    }

    fn oid(self) -> &'static [u8] {
        match self {
            Self::Sha1 => &[0x2b, 0x0e, 0x03, 0x02, 0x1a],
            Self::Sha256 => &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01],
        }
    }
}

impl TestCa {
    /// An OCSP response about `cert`, as DER.
    ///
    /// # Panics
    ///
    /// If a time is before 1970, or the responder's key is not P-256.
    pub fn ocsp(&self, cert: &Minted, ocsp: Ocsp<'_>) -> Vec<u8> {
        let signer: &KeyPair = ocsp.responder.map_or_else(|| self.issuer.key(), |(by, _)| &by.key);
        assert!(signer.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256), "sign with P-256");
        let version = if ocsp.explicit_version { tlv(0xa0, &tlv(0x02, &[0])) } else { Vec::new() };
        let key_hash = OcspHash::Sha1.of(signer.public_key_raw());
        let responder = tlv(0xa2, &tlv(0x04, &key_hash));
        let mut singles = ocsp.single(self, cert);
        for other in &ocsp.beside {
            singles.extend(ocsp.single(self, other));
        }
        let singles = tlv(0x30, &singles);
        let tbs = sequence(&[&version, &responder, &time(ocsp.this_update), &singles]);
        let mut signature = vec![0]; // No bit of the last byte is unused.
        signature.extend(signer.sign(&tbs).unwrap());
        let certs = match ocsp.responder {
            Some((minted, true)) => tlv(0xa0, &tlv(0x30, minted.cert_der())),
            _ => Vec::new(),
        };
        let algorithm = sequence(&[&tlv(0x06, ECDSA_WITH_SHA256)]);
        let basic = sequence(&[&tbs, &algorithm, &tlv(0x03, &signature), &certs]);
        let bytes = sequence(&[&tlv(0x06, ID_PKIX_OCSP_BASIC), &tlv(0x04, &basic)]);
        sequence(&[&tlv(0x0a, &[0]), &tlv(0xa0, &bytes)])
    }

    fn cert_id(&self, cert: &Minted, hash: OcspHash) -> Vec<u8> {
        let mut anchors = rustls::RootCertStore::empty();
        anchors.add(self.cert.der().clone()).unwrap();
        let name = tlv(0x30, &anchors.roots[0].subject);
        let mut serial = cert.serial();
        if serial[0] & 0x80 != 0 {
            serial.insert(0, 0); // An INTEGER is signed.
        }
        sequence(&[
            &sequence(&[&tlv(0x06, hash.oid()), &tlv(0x05, &[])]),
            &tlv(0x04, &hash.of(&name)),
            &tlv(0x04, &hash.of(self.issuer.key().public_key_raw())),
            &tlv(0x02, &serial),
        ])
    }
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// One element of DER.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        0x100..0x1_0000 => out.extend([0x82, (length >> 8) as u8, length as u8]),
        _ => panic!("{length} bytes in one element"),
    }
    out.extend(content);
    out
}

/// A GeneralizedTime.
fn time(at: SystemTime) -> Vec<u8> {
    let at = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(at);
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second) = at.to_hms();
    let text = format!("{year:04}{:02}{day:02}{hour:02}{minute:02}{second:02}Z", u8::from(month));
    tlv(0x18, text.as_bytes())
}

/// 1.2.840.10045.4.3.2
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// 1.3.6.1.5.5.7.48.1.1
const ID_PKIX_OCSP_BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// 2020-01-01.
const Y2020: u64 = 1_577_836_800;

/// 4096-01-01.
const Y4096: u64 = 67_090_118_400;
