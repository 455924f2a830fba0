//! The verification of a chain.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use rustls::{
    CertRevocationListError, CertificateError, DistinguishedName, Error, ExtendedKeyPurpose,
    OtherError, RootCertStore,
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, RevocationCheckDepth, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use super::crl::{self, Crl};
use super::roots::Root;
use super::{CrlDepth, CrlExpiry, CrlRules, Peer, UnknownRevocation};

/// Verifies chains.
///
/// rustls' own verifiers would do, if they did not trust an authority beyond its not-after date, and
/// take the first revocation list of a name for the right one.
pub(crate) struct Chain {
    peer: Peer,
    anchors: Vec<TrustAnchor<'static>>,
    roots: Vec<Root>,
    crls: Vec<CertRevocationList<'static>>,
    orders: Vec<Vec<usize>>,
    rules: CrlRules,
    algorithms: &'static [&'static dyn SignatureVerificationAlgorithm],
}

impl Chain {
    pub(crate) fn new(peer: Peer, roots: Vec<Root>, crls: Vec<Crl>, rules: CrlRules) -> Self {
        let authorities = roots.iter().filter(|root| root.is_authority);
        let anchors = authorities.map(|root| root.anchor.clone()).collect();
        let orders = crl::orders(&crls);
        let crls = crls.into_iter().map(|crl| crl.list).collect();
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
        Self { peer, anchors, roots, crls, orders, rules, algorithms }
    }

    /// The names of the authorities, each once.
    pub(crate) fn names(&self) -> Vec<DistinguishedName> {
        let mut named = self.anchors.clone();
        named.sort_by(|a, b| a.subject.cmp(&b.subject));
        named.dedup_by(|a, b| a.subject == b.subject);
        RootCertStore { roots: named }.subjects()
    }

    /// The certificates that count, those of authorities and of others.
    pub(crate) fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whether a chain leads from `leaf` to one of the authorities, with every certificate in date,
    /// good for its use and not revoked.
    pub(crate) fn verify(
        &self,
        leaf: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let verify = |revocation: Option<RevocationOptions<'_>>| {
            let in_date = |path: &VerifiedPath<'_>| self.check_dates(path.anchor(), now);
            leaf.verify_for_usage(
                self.algorithms,
                &self.anchors,
                intermediates,
                now,
                self.peer.usage(),
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
        let same = |root: &&Root| root.is_authority && root.anchor == *anchor;
        for root in self.roots.iter().filter(same) {
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

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("peer", &self.peer)
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
pub(crate) fn rustls_error(peer: Peer, error: webpki::Error) -> Error {
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
            required: peer.purpose(),
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
