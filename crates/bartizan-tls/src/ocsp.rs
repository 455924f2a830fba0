//! OCSP responses (RFC 6960) to staple: read, and checked before any client sees them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::der::{self, BadDer};
use crate::signature::BadSignature;
use response::{Response, Status};

mod response;

/// A response that was checked, to go with the certificate that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Staple {
    /// The response as it was given.
    pub(crate) der: Arc<[u8]>,
    /// When the status was known to be right.
    pub(crate) this_update: SystemTime,
    /// Until when it may be stapled: its nextUpdate, or the end of the certificate of the responder
    /// that signed it, whichever comes first.
    pub(crate) next_update: SystemTime,
}

/// Checks a response about `leaf`, which `issuer` has issued, at the time `now`.
///
/// It has to be what a client will accept: about this certificate (others may be in it as well),
/// status good, in date, and signed by the issuer or by a responder that the issuer has certified
/// for this (RFC 6960 §4.2.2.2), whose own revocation is not looked up. What proxies staple beyond
/// that, such as HAProxy a status of revoked, makes clients break off.
///
/// # Errors
///
/// [`StapleProblem`] says what is wrong. Serve the certificate without a staple then.
pub(crate) fn check(
    response_der: &[u8],
    leaf: &CertificateDer<'_>,
    issuer: Option<&CertificateDer<'_>>,
    now: SystemTime,
) -> Result<Staple, StapleProblem> {
    let issuer = issuer.ok_or(StapleProblem::IssuerMissing)?;
    let leaf = certificate(leaf)?;
    let issuer = certificate(issuer)?;
    if leaf.issuer().as_raw() != issuer.subject().as_raw() {
        return Err(StapleProblem::NotTheIssuer {
            subject: issuer.subject().to_string(),
            wanted: leaf.issuer().to_string(),
        });
    }
    let response = Response::read(response_der)?;
    let answer = response.answer_about(&leaf, &issuer)?;
    let responder_ends = response.verify(&issuer, now)?;
    match answer.status {
        Status::Good => {}
        Status::Revoked(since) => {
            return Err(StapleProblem::Revoked { since: since.to_string() });
        }
        Status::Unknown => return Err(StapleProblem::Unknown),
    }
    let next_update = answer.next_update.ok_or(StapleProblem::NoNextUpdate)?;
    let (this, next) = (der::wall(&answer.this_update), der::wall(&next_update));
    if this > now + SKEW {
        return Err(StapleProblem::NotYetValid { until: answer.this_update.to_string() });
    }
    if next <= this || next <= now {
        return Err(StapleProblem::Expired { since: next_update.to_string() });
    }
    let next = responder_ends.map_or(next, |ends| ends.min(next));
    Ok(Staple { der: response_der.into(), this_update: this, next_update: next })
}

fn certificate<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, StapleProblem> {
    match X509Certificate::from_der(der) {
        Ok((&[], cert)) => Ok(cert),
        _ => Err(StapleProblem::BadCertificate),
    }
}

/// Why a response is not stapled. The certificate is served without it.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StapleProblem {
    /// It cannot be checked without the certificate's issuer.
    #[error(
        "the certificate's issuer is missing; append it to the chain, or put it into a file named \
         as the certificate's with `.issuer` added"
    )]
    IssuerMissing,

    /// The certificate given as the issuer is another's.
    #[error("the issuer given is {subject}, but the certificate's is {wanted}")]
    NotTheIssuer {
        /// Whose certificate was given.
        subject: String,
        /// Who issued the certificate.
        wanted: String,
    },

    /// The certificate or its issuer cannot be read.
    #[error("the certificate or its issuer's is not X.509")]
    BadCertificate,

    /// It is not an OCSP response.
    #[error("is not an OCSP response in DER; fetch it with `openssl ocsp -respout FILE`")]
    Malformed,

    /// The responder refused to answer.
    #[error("the responder did not answer but said `{status}`; fetch the response again")]
    Unsuccessful {
        /// What it said.
        status: &'static str,
    },

    /// It is of a kind other than the basic one.
    #[error("is an OCSP response of an unknown kind; only basic ones are supported")]
    NotBasic,

    /// None of its answers is about this certificate.
    #[error("is about another certificate; fetch the one for this certificate and issuer")]
    OtherCertificate,

    /// More than one of its answers is about this certificate.
    #[error("answers more than once about the certificate")]
    SeveralAnswers,

    /// The signature is wrong.
    #[error("its signature is wrong")]
    BadSignature,

    /// The signature is of a kind that is not supported, SHA-1 for one.
    #[error("its signature is of a kind that is not supported")]
    UnsupportedSignature,

    /// Neither the issuer nor a certificate in the response is the one of who signed.
    #[error("the issuer did not sign it, and the certificate of who did is not in it")]
    ResponderMissing,

    /// Who signed must not.
    #[error("who signed it must not answer for the issuer: {0}")]
    ResponderNotAuthorized(&'static str),

    /// The certificate is revoked.
    #[error("the certificate was revoked on {since}; replace it")]
    Revoked {
        /// The date.
        since: String,
    },

    /// The responder does not know the certificate.
    #[error("the responder does not know the certificate")]
    Unknown,

    /// There is no end to its validity.
    #[error("does not say until when it is valid (nextUpdate)")]
    NoNextUpdate,

    /// It is not valid yet.
    #[error("is not valid before {until}; check the clock")]
    NotYetValid {
        /// Its thisUpdate date.
        until: String,
    },

    /// It is out of date.
    #[error("expired on {since}; fetch a new one")]
    Expired {
        /// Its nextUpdate date.
        since: String,
    },
}

impl From<BadDer> for StapleProblem {
    fn from(_: BadDer) -> Self {
        Self::Malformed
    }
}

impl From<BadSignature> for StapleProblem {
    fn from(bad: BadSignature) -> Self {
        match bad {
            BadSignature::Algorithm => Self::UnsupportedSignature,
            BadSignature::Signature => Self::BadSignature,
        }
    }
}

/// How far the responder's clock may be ahead, as in HAProxy: a fresh response is no error.
const SKEW: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests;
