//! The verifier of server certificates.

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use webpki::EndEntityCert;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::Pin;
use super::names::Names;
use super::presented::PresentedCertificate;
use super::refusal::{Refused, clear, leave};
use super::spiffe::SpiffeIds;
use crate::CertificateProblem;
use crate::certificate_problem::MOST_NAMES;
use crate::der::wall;
use crate::fingerprint::Fingerprint;
use crate::trust::{Chain, Peer, Root, rustls_error, unix};

/// Verifies the certificates of servers, and leaves a record of each that it refuses.
pub(super) struct Verifier {
    judge: Judge,
    pins: Vec<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// What there is to verify beside pins.
pub(super) enum Judge {
    /// The chain and the name.
    Chain(Chain, Names),
    /// The dates alone.
    Dates,
    /// Nothing.
    Nobody,
}

/// Why a certificate is refused: for people, and for the alert.
type Refusal = Box<(CertificateProblem, Error)>;

impl Verifier {
    pub(super) fn new(judge: Judge, pins: Vec<Pin>) -> Self {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Self { judge, pins, algorithms }
    }

    fn verify(
        &self,
        der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        // Read whatever is asked of it: the key that it holds has to be proven.
        let leaf = EndEntityCert::try_from(der)
            .map_err(|error| refusal_of(rustls_error(Peer::Server, error)))?;
        match &self.judge {
            Judge::Chain(chain, names) => {
                verify_chain(chain, &leaf, der, intermediates, now)?;
                match names {
                    Names::Asked => verify_name(&leaf, std::slice::from_ref(asked), der)?,
                    Names::These(names) => verify_name(&leaf, names, der)?,
                    Names::Spiffe(ids) => verify_spiffe(ids, der)?,
                }
            }
            Judge::Dates => verify_dates(&parse(der)?, now)?,
            Judge::Nobody => {}
        }
        self.verify_pins(&leaf, der)
    }

    fn verify_pins(&self, leaf: &EndEntityCert<'_>, der: &[u8]) -> Result<(), Refusal> {
        if self.pins.is_empty() {
            return Ok(());
        }
        // The key that webpki sees, since it is the one that webpki verifies the handshake with.
        let spki = Pin::of_spki(Fingerprint::of(&leaf.subject_public_key_info()));
        let whole = Pin::of_certificate(Fingerprint::of(der));
        if self.pins.contains(&spki) || self.pins.contains(&whole) {
            return Ok(());
        }
        let presented = if self.pins.iter().all(Pin::is_of_certificate) { whole } else { spki };
        let expected = self.pins.iter().take(MOST_NAMES).copied().collect();
        let problem = CertificateProblem::PinMismatch { presented, expected };
        Err(refusal(problem, CertificateError::ApplicationVerificationFailure))
    }

    fn note(
        &self,
        proof: Result<HandshakeSignatureValid, Error>,
        cert: &CertificateDer<'_>,
    ) -> Result<HandshakeSignatureValid, Error> {
        proof.inspect_err(|error| {
            let what = format!("the handshake is not signed with its key ({error})");
            let problem = CertificateProblem::Unacceptable(what);
            leave(Refused { problem, presented: PresentedCertificate::read(cert) });
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        clear();
        match self.verify(leaf, intermediates, name, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(why) => {
                let (problem, error) = *why;
                let presented = PresentedCertificate::read(leaf);
                leave(Refused { problem, presented });
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(verify_tls12_signature(message, cert, dss, &self.algorithms), cert)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.note(verify_tls13_signature(message, cert, dss, &self.algorithms), cert)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let judge = match &self.judge {
            Judge::Chain(chain, names) => {
                return f
                    .debug_struct("Verifier")
                    .field("chain", chain)
                    .field("names", names)
                    .field("pins", &self.pins)
                    .finish_non_exhaustive();
            }
            Judge::Dates => "pins and dates",
            Judge::Nobody => "nothing",
        };
        let mut f = f.debug_struct("Verifier");
        f.field("verifies", &judge).field("pins", &self.pins).finish_non_exhaustive()
    }
}

fn verify_chain(
    chain: &Chain,
    leaf: &EndEntityCert<'_>,
    der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<(), Refusal> {
    if let Some(own) = own_root(chain, der) {
        return verify_own(own, &parse(der)?, now);
    }
    let Err(error) = chain.verify(leaf, intermediates, now) else { return Ok(()) };
    use webpki::Error as E;
    let is_self_issued = || PresentedCertificate::read(der).is_self_issued;
    Err(match error {
        // The second is an authority of the right name with another key, the third an authority
        // that serves for itself.
        E::UnknownIssuer | E::InvalidSignatureForPublicKey | E::CaUsedAsEndEntity
            if is_self_issued() =>
        {
            refusal(CertificateProblem::SelfSigned, CertificateError::UnknownIssuer)
        }
        E::InvalidSignatureForPublicKey => {
            refusal(CertificateProblem::Untrusted, CertificateError::UnknownIssuer)
        }
        // A list that cannot be applied tells nothing.
        E::IssuerNotCrlSigner | E::InvalidCrlSignatureForPublicKey => {
            refusal_of(CertificateError::UnknownRevocationStatus)
        }
        error => refusal_of(rustls_error(Peer::Server, error)),
    })
}

/// The root that a server presents as its own certificate, byte for byte.
fn own_root<'a>(chain: &'a Chain, der: &[u8]) -> Option<&'a Root> {
    let mut own = chain.roots().iter().filter(|root| root.is_self_issued).peekable();
    own.peek()?;
    let digest = Fingerprint::of(der);
    own.find(|root| root.sha256 == *digest.as_bytes())
}

/// Nobody stands above it, so there is no signature to verify and no list to look it up in.
fn verify_own(own: &Root, cert: &X509Certificate<'_>, time: UnixTime) -> Result<(), Refusal> {
    check_dates(own.not_before, own.not_after, time)?;
    let fits = match cert.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.server_auth || usage.value.any,
        Err(_) => false,
    };
    if fits {
        return Ok(());
    }
    Err(refusal_of(CertificateError::InvalidPurpose))
}

fn verify_dates(cert: &X509Certificate<'_>, time: UnixTime) -> Result<(), Refusal> {
    let validity = cert.validity();
    check_dates(unix(wall(&validity.not_before)), unix(wall(&validity.not_after)), time)
}

fn check_dates(not_before: UnixTime, not_after: UnixTime, time: UnixTime) -> Result<(), Refusal> {
    let error = if time > not_after {
        CertificateError::ExpiredContext { time, not_after }
    } else if time < not_before {
        CertificateError::NotValidYetContext { time, not_before }
    } else {
        return Ok(());
    };
    Err(refusal_of(error))
}

/// Whether it is for one of the names (RFC 9525, by alternative names alone).
fn verify_name(
    leaf: &EndEntityCert<'_>,
    names: &[ServerName<'_>],
    der: &CertificateDer<'_>,
) -> Result<(), Refusal> {
    if names.iter().any(|name| leaf.verify_is_valid_for_subject_name(name).is_ok()) {
        return Ok(());
    }
    let shown = names.iter().take(MOST_NAMES);
    let expected = shown.map(|name| name.to_str().into_owned()).collect::<Vec<_>>().join(" or ");
    let names = PresentedCertificate::read(der).names;
    let problem = CertificateProblem::WrongName { expected, names };
    Err(refusal(problem, CertificateError::NotValidForName))
}

fn verify_spiffe(ids: &SpiffeIds, der: &CertificateDer<'_>) -> Result<(), Refusal> {
    let cert = parse(der)?;
    let names = cert.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|extension| &extension.value.general_names);
    let uris: Vec<_> = names
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    if ids.accept(&uris) {
        return Ok(());
    }
    let expected = ids.texts().take(MOST_NAMES).collect();
    let presented = PresentedCertificate::read(der).uris;
    let problem = CertificateProblem::WrongSpiffeId { expected, presented };
    Err(refusal(problem, CertificateError::NotValidForName))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Refusal> {
    let bad = |what| refusal(CertificateProblem::Malformed(what), CertificateError::BadEncoding);
    match X509Certificate::from_der(der) {
        Ok((&[], cert)) => Ok(cert),
        Ok(_) => Err(bad("there is more behind the certificate".to_owned())),
        Err(error) => Err(bad(error.to_string())),
    }
}

fn refusal(problem: CertificateProblem, error: impl Into<Error>) -> Refusal {
    Box::new((problem, error.into()))
}

/// The error says it all. Names are looked at elsewhere, so there is none to expect.
fn refusal_of(error: impl Into<Error>) -> Refusal {
    let error = error.into();
    let problem = CertificateProblem::of(&error, "")
        .unwrap_or_else(|| CertificateProblem::Unacceptable(error.to_string()));
    refusal(problem, error)
}
