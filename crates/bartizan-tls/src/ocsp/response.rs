//! The parts of an OCSP response, who signed it and whether they may.

use std::time::SystemTime;

use aws_lc_rs::digest::{self, digest};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::StapleProblem;
use crate::der::{self, BadDer, Elements};
use crate::signature::Signed;

/// A BasicOCSPResponse in its parts.
pub(super) struct Response<'a> {
    signed: Signed<'a>,
    responder: Responder<'a>,
    answers: Elements<'a>,
    /// Certificates that the responder has sent along, DER.
    certs: Vec<&'a [u8]>,
}

/// Who says to have signed.
enum Responder<'a> {
    /// The name, DER.
    Name(&'a [u8]),
    /// SHA-1 of the public key.
    Key(&'a [u8]),
}

/// A SingleResponse.
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) this_update: ASN1Time,
    pub(super) next_update: Option<ASN1Time>,
}

pub(super) enum Status {
    Good,
    Revoked(ASN1Time),
    Unknown,
}

impl<'a> Response<'a> {
    pub(super) fn read(response: &'a [u8]) -> Result<Self, StapleProblem> {
        let mut response = Elements::of_sequence(response)?;
        match response.expect(der::ENUMERATED)?.content {
            [0] => {}
            [code] => return Err(StapleProblem::Unsuccessful { status: status_name(*code) }),
            _ => return Err(StapleProblem::Malformed),
        }
        let mut explicit = Elements::new(response.expect(der::CONTEXT_0)?.content);
        let mut bytes = explicit.sequence()?;
        explicit.end()?;
        response.end()?;
        if bytes.expect(der::OID)?.content != ID_PKIX_OCSP_BASIC {
            return Err(StapleProblem::NotBasic);
        }
        let basic = bytes.expect(der::OCTET_STRING)?.content;
        bytes.end()?;
        Ok(Self::read_basic(basic)?)
    }

    fn read_basic(basic: &'a [u8]) -> Result<Self, BadDer> {
        let mut basic = Elements::of_sequence(basic)?;
        let tbs = basic.expect(der::SEQUENCE)?;
        let algorithm = basic.expect(der::SEQUENCE)?.content;
        let signature = basic.bits()?;
        let mut certs = Vec::new();
        if let Some(explicit) = basic.optional(der::CONTEXT_0)? {
            let mut list = Elements::of_sequence(explicit.content)?;
            while !list.is_empty() {
                certs.push(list.expect(der::SEQUENCE)?.raw);
            }
        }
        basic.end()?;

        let mut data = Elements::new(tbs.content);
        if let Some(version) = data.optional(der::CONTEXT_0)? {
            // v1 is the default, and the only one. DER leaves it out; some responders do not.
            if version.content != [der::INTEGER, 1, 0] {
                return Err(BadDer);
            }
        }
        let responder = if let Some(name) = data.optional(der::CONTEXT_1)? {
            Responder::Name(name.content)
        } else {
            let mut key = Elements::new(data.expect(der::CONTEXT_2)?.content);
            let hash = key.expect(der::OCTET_STRING)?.content;
            key.end()?;
            Responder::Key(hash)
        };
        data.time()?; // producedAt
        let answers = data.sequence()?;
        data.optional(der::CONTEXT_1)?; // Extensions, a nonce for one: none matters here.
        data.end()?;
        Ok(Self {
            signed: Signed { message: tbs.raw, algorithm, signature },
            responder,
            answers,
            certs,
        })
    }

    /// The one answer that is about `leaf`.
    pub(super) fn answer_about(
        &self,
        leaf: &X509Certificate<'_>,
        issuer: &X509Certificate<'_>,
    ) -> Result<Answer, StapleProblem> {
        let (mut found, mut answers) = (None, self.answers);
        while !answers.is_empty() {
            let mut single = answers.sequence()?;
            if !is_about(single.sequence()?, leaf, issuer)? {
                continue;
            }
            if found.is_some() {
                return Err(StapleProblem::SeveralAnswers);
            }
            found = Some(Answer::read(single)?);
        }
        found.ok_or(StapleProblem::OtherCertificate)
    }

    /// Verifies the signature. Returns the end of the responder's certificate, if it was not the
    /// issuer itself that signed.
    pub(super) fn verify(
        &self,
        issuer: &X509Certificate<'_>,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, StapleProblem> {
        let mut problem = StapleProblem::ResponderMissing;
        if self.responder.is(issuer) {
            match self.signed.verify(issuer.public_key().raw) {
                Ok(()) => return Ok(None),
                Err(bad) => problem = bad.into(),
            }
        }
        for cert in self.certs.iter().take(MOST_CERTS) {
            let Ok((&[], cert)) = X509Certificate::from_der(cert) else { continue };
            if !self.responder.is(&cert) || cert.public_key().raw == issuer.public_key().raw {
                continue;
            }
            match authorized(&cert, issuer, now)
                .and_then(|ends| Ok(self.signed.verify(cert.public_key().raw).map(|()| ends)?))
            {
                Ok(ends) => return Ok(Some(ends)),
                Err(bad) => problem = bad,
            }
        }
        Err(problem)
    }
}

impl Answer {
    /// Reads what follows the CertID.
    fn read(mut single: Elements<'_>) -> Result<Self, BadDer> {
        let status = if single.is(GOOD) {
            single.next()?;
            Status::Good
        } else if let Some(revoked) = single.optional(der::CONTEXT_1)? {
            Status::Revoked(Elements::new(revoked.content).time()?)
        } else {
            single.expect(UNKNOWN)?;
            Status::Unknown
        };
        let this_update = single.time()?;
        let next_update = match single.optional(der::CONTEXT_0)? {
            Some(explicit) => {
                let mut explicit = Elements::new(explicit.content);
                let time = explicit.time()?;
                explicit.end()?;
                Some(time)
            }
            None => None,
        };
        single.optional(der::CONTEXT_1)?; // Extensions.
        single.end()?;
        Ok(Self { status, this_update, next_update })
    }
}

impl Responder<'_> {
    fn is(&self, cert: &X509Certificate<'_>) -> bool {
        match self {
            Self::Name(name) => *name == cert.subject().as_raw(),
            Self::Key(hash) => {
                digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key_bits(cert)).as_ref() == *hash
            }
        }
    }
}

/// Whether a CertID names `leaf`.
fn is_about(
    mut id: Elements<'_>,
    leaf: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
) -> Result<bool, BadDer> {
    let mut algorithm = id.sequence()?;
    let algorithm = match algorithm.expect(der::OID)?.content {
        SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        SHA256 => &digest::SHA256,
        SHA384 => &digest::SHA384,
        SHA512 => &digest::SHA512,
        _ => return Ok(false),
    };
    let name = id.expect(der::OCTET_STRING)?.content;
    let key = id.expect(der::OCTET_STRING)?.content;
    let serial = id.expect(der::INTEGER)?.content;
    id.end()?;
    Ok(serial == leaf.raw_serial()
        && name == digest(algorithm, issuer.subject().as_raw()).as_ref()
        && key == digest(algorithm, key_bits(issuer)).as_ref())
}

/// Whether the issuer lets `responder` sign responses about what it has issued, and until when.
fn authorized(
    responder: &X509Certificate<'_>,
    issuer: &X509Certificate<'_>,
    now: SystemTime,
) -> Result<SystemTime, StapleProblem> {
    let refused = |why| Err(StapleProblem::ResponderNotAuthorized(why));
    if responder.issuer().as_raw() != issuer.subject().as_raw() {
        return refused("the issuer of the certificate did not issue the responder's");
    }
    let signed = signed(responder)?;
    if signed.verify(issuer.public_key().raw).is_err() {
        return refused("the issuer's signature on the responder's certificate is wrong");
    }
    let usage = responder.extended_key_usage().ok().flatten();
    if !usage.is_some_and(|usage| usage.value.ocsp_signing) {
        return refused("the responder's certificate is not for OCSP signing");
    }
    let validity = responder.validity();
    let (begins, ends) = (der::wall(&validity.not_before), der::wall(&validity.not_after));
    if now < begins || now > ends {
        return refused("the responder's certificate is not in date");
    }
    Ok(ends)
}

/// A certificate as what its issuer has signed, read more strictly than x509-parser does.
fn signed<'a>(cert: &X509Certificate<'a>) -> Result<Signed<'a>, BadDer> {
    let mut cert = Elements::of_sequence(cert.as_raw())?;
    let message = cert.expect(der::SEQUENCE)?.raw;
    let algorithm = cert.expect(der::SEQUENCE)?.content;
    let signature = cert.bits()?;
    cert.end()?;
    Ok(Signed { message, algorithm, signature })
}

/// The bits that key hashes are made of: without algorithm, tag and length.
fn key_bits<'a>(cert: &'a X509Certificate<'_>) -> &'a [u8] {
    &cert.public_key().subject_public_key.data
}

/// OCSPResponseStatus, RFC 6960 §4.2.1.
fn status_name(code: u8) -> &'static str {
    match code {
        1 => "malformedRequest",
        2 => "internalError",
        3 => "tryLater",
        5 => "sigRequired",
        6 => "unauthorized",
        _ => "unknown status",
    }
}

/// One is the rule. Each costs two signatures to check, so a hostile response must not bring many.
const MOST_CERTS: usize = 8;

/// `good [0] IMPLICIT NULL` and `unknown [2] IMPLICIT NULL`.
const GOOD: u8 = 0x80;
const UNKNOWN: u8 = 0x82;

/// 1.3.6.1.5.5.7.48.1.1
const ID_PKIX_OCSP_BASIC: [u8; 9] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];

/// 1.3.14.3.2.26, and 2.16.840.1.101.3.4.2 with .1, .2, .3.
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03];
