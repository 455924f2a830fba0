//! The verifier of client certificates.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{
    WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertRevocationListError, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    ExtendedKeyPurpose, OtherError, RootCertStore, SignatureScheme,
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::crl::{self, Crl};
use super::roots::Root;
use super::{CrlDepth, CrlExpiry, CrlRules, UnknownRevocation};

/// Verifies the chains of clients.
///
/// rustls' own verifier would do, if it did not trust an authority beyond its not-after date, and
/// take the first revocation list of a name for the right one.
pub(super) struct Verifier {
    mandatory: bool,
    anchors: Vec<TrustAnchor<'static>>,
    roots: Vec<Root>,
    hints: Vec<DistinguishedName>,
    crls: Vec<CertRevocationList<'static>>,
    orders: Vec<Vec<usize>>,
    rules: CrlRules,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(mandatory: bool, roots: Vec<Root>, crls: Vec<Crl>, rules: CrlRules) -> Self {
        let anchors: Vec<_> = roots.iter().map(|root| root.anchor.clone()).collect();
        let mut named = anchors.clone();
        named.sort_by(|a, b| a.subject.cmp(&b.subject));
        named.dedup_by(|a, b| a.subject == b.subject);
        let mut hints = RootCertStore { roots: named }.subjects();
        if !can_be_named(&hints) {
            hints.clear();
        }
        let orders = crl::orders(&crls);
        let crls = crls.into_iter().map(|crl| crl.list).collect();
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Self { mandatory, anchors, roots, hints, crls, orders, rules, algorithms }
    }

    /// Whether the authorities' names are sent to clients.
    pub(super) fn names_authorities(&self) -> bool {
        !self.hints.is_empty()
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let leaf = EndEntityCert::try_from(leaf)?;
        let verify = |revocation: Option<RevocationOptions<'_>>| {
            let in_date = |path: &VerifiedPath<'_>| self.check_dates(path.anchor(), now);
            let usage = KeyUsage::client_auth();
            let algorithms = self.algorithms.all;
            leaf.verify_for_usage(
                algorithms,
                &self.anchors,
                intermediates,
                now,
                usage,
                revocation,
                Some(&in_date),
            )
            .map(drop)
        };
        let mut problem = None;
        for order in &self.orders {
            let crls: Vec<_> = order.iter().map(|i| &self.crls[*i]).collect();
            match verify(Some(self.revocation(&crls)?)) {
                Ok(()) => return Ok(()),
                // That is for certain: the list was signed with the key of the path.
                Err(webpki::Error::CertRevoked) => return Err(webpki::Error::CertRevoked),
                // Perhaps because of another key's list. The first says more than the others unless
                // it is about a signature, which is what a wrong list leads to.
                Err(error) => {
                    if problem.as_ref().is_none_or(is_of_signature) {
                        problem = Some(error);
                    }
                }
            }
        }
        problem.map_or_else(|| verify(None), Err)
    }

    fn revocation<'a>(
        &self,
        crls: &'a [&'a CertRevocationList<'a>],
    ) -> Result<RevocationOptions<'a>, webpki::Error> {
        let depth = match self.rules.depth {
            CrlDepth::Chain => RevocationCheckDepth::Chain,
            CrlDepth::Leaf => RevocationCheckDepth::EndEntity,
        };
        let unknown = match self.rules.unknown {
            UnknownRevocation::Deny => UnknownStatusPolicy::Deny,
            UnknownRevocation::Allow => UnknownStatusPolicy::Allow,
        };
        let expiry = match self.rules.expiry {
            CrlExpiry::Enforce => ExpirationPolicy::Enforce,
            CrlExpiry::Ignore => ExpirationPolicy::Ignore,
        };
        // There is an order only if there are lists, so this does not fail.
        let options = RevocationOptionsBuilder::new(crls)
            .map_err(|_| webpki::Error::UnknownRevocationStatus)?;
        let options = options.with_depth(depth).with_status_policy(unknown);
        Ok(options.with_expiration_policy(expiry).build())
    }

    /// An anchor has no dates of its own. Certificates that are alike but for them count together:
    /// an authority that was renewed is in the file twice for a while.
    fn check_dates(&self, anchor: &TrustAnchor<'_>, time: UnixTime) -> Result<(), webpki::Error> {
        let mut problem = webpki::Error::UnknownIssuer;
        for root in self.roots.iter().filter(|root| root.anchor == *anchor) {
            if time > root.not_after {
                problem = webpki::Error::CertExpired { time, not_after: root.not_after };
            } else if time < root.not_before {
                problem = webpki::Error::CertNotValidYet { time, not_before: root.not_before };
            } else {
                return Ok(());
            }
        }
        Err(problem)
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
        match self.verify(end_entity, intermediates, now) {
            Ok(()) => Ok(ClientCertVerified::assertion()),
            Err(error) => Err(rustls_error(error)),
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

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("mandatory", &self.mandatory)
            .field("roots", &self.roots.len())
            .field("crls", &self.crls.len())
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

fn is_of_signature(error: &webpki::Error) -> bool {
    use webpki::Error as E;
    matches!(error, E::InvalidCrlSignatureForPublicKey | E::InvalidSignatureForPublicKey)
}

/// As rustls' own verifier has it, which picks the alert by it.
fn rustls_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    let certificate = match error {
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        E::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        E::CertExpired { time, not_after } => CertificateError::ExpiredContext { time, not_after },
        E::InvalidCertValidity => CertificateError::Expired,
        E::UnknownIssuer => CertificateError::UnknownIssuer,
        E::CertRevoked => CertificateError::Revoked,
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        E::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }
        }
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::RequiredEkuNotFoundContext(context) => CertificateError::InvalidPurposeContext {
            required: ExtendedKeyPurpose::ClientAuth,
            presented: context.present.into_iter().map(purpose).collect(),
        },
        E::IssuerNotCrlSigner => return CertRevocationListError::IssuerInvalidForCrl.into(),
        E::InvalidCrlSignatureForPublicKey => return CertRevocationListError::BadSignature.into(),
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    certificate.into()
}

fn purpose(oid: Vec<usize>) -> ExtendedKeyPurpose {
    match oid.as_slice() {
        [1, 3, 6, 1, 5, 5, 7, 3, 1] => ExtendedKeyPurpose::ServerAuth,
        [1, 3, 6, 1, 5, 5, 7, 3, 2] => ExtendedKeyPurpose::ClientAuth,
        _ => ExtendedKeyPurpose::Other(oid),
    }
}

/// The names share one field of 16 bits length with little else.
fn can_be_named(hints: &[DistinguishedName]) -> bool {
    hints.iter().map(|name| name.as_ref().len() + 2).sum::<usize>() <= MOST_HINT_BYTES
}

/// A CertificateRequest of more than this would not be encoded right. (It would be a burden for
/// each handshake long before.)
const MOST_HINT_BYTES: usize = 60_000;
