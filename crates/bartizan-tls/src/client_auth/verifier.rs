//! The verifier of client certificates.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::EndEntityCert;

use crate::trust::{Chain, Peer, rustls_error};

/// Verifies the chains of clients.
#[derive(Debug)]
pub(super) struct Verifier {
    mandatory: bool,
    chain: Chain,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(mandatory: bool, chain: Chain) -> Self {
        let mut hints = chain.names();
        if !can_be_named(&hints) {
            hints.clear();
        }
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Self { mandatory, chain, hints, algorithms }
    }

    /// Whether the authorities' names are sent to clients.
    pub(super) fn names_authorities(&self) -> bool {
        !self.hints.is_empty()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verdict = EndEntityCert::try_from(end_entity)
            .and_then(|leaf| self.chain.verify(&leaf, intermediates, now));
        match verdict {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(error) => Err(rustls_error(Peer::Client, error)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The names share one field of 16 bits length with little else.
fn can_be_named(hints: &[DistinguishedName]) -> bool {
    hints.iter().map(|name| name.as_ref().len() + 2).sum::<usize>() <= MOST_HINT_BYTES
}

/// A CertificateRequest of more than this would not be encoded right. (It would be a burden for
/// each handshake long before.)
const MOST_HINT_BYTES: usize = 60_000;
