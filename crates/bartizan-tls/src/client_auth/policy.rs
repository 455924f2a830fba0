//! What was configured, read and ready for handshakes.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use bartizan_net::ClientAuthMode;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error};

use super::Trust;
use super::verifier::Verifier;
use crate::load::LoadError;
use crate::trust::crl::{self, Crl};
use crate::trust::{
    Chain, CrlRules, Peer, Root, TrustConcern, TrustNotice, digest, roots, tell_without_crl, unix,
};

/// A policy on client certificates, ready for handshakes.
#[derive(Clone, Debug)]
pub(crate) struct ClientPolicy {
    /// For a `ServerConfig`.
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
    /// Whether clients are asked.
    pub(crate) mode: ClientAuthMode,
    /// SHA-256 of everything that decides whom it lets in: the mode, the authorities, the lists in
    /// force and the rules for them. The same files give the same one everywhere, whatever the
    /// order of their sections; what was passed over with a notice is not in it.
    pub(crate) trust: [u8; 32],
}

impl ClientPolicy {
    pub(super) fn off() -> Self {
        Self {
            verifier: WebPkiClientVerifier::no_client_auth(),
            mode: ClientAuthMode::Off,
            trust: trust(ClientAuthMode::Off, &[], &[], CrlRules::default()),
        }
    }

    pub(super) fn load(
        mode: ClientAuthMode,
        config: &Trust,
        now: SystemTime,
        notices: &mut Vec<TrustNotice>,
    ) -> Result<Self, LoadError> {
        let roots = roots::load(Peer::Client, &config.ca, now, notices)?;
        let crls = crl::load(&config.crls, &roots, now, notices)?;
        let trust = trust(mode, &roots, &crls, config.rules);
        let ca = config.ca.name();
        tell_without_crl(ca, &roots, &crls, notices);
        let mandatory = mode == ClientAuthMode::Required;
        let verifier =
            Verifier::new(mandatory, Chain::new(Peer::Client, roots, crls, config.rules));
        if !verifier.names_authorities() {
            notices.push(TrustNotice::new(ca, None, TrustConcern::TooManyToName));
        }
        Ok(Self { verifier: Arc::new(verifier), mode, trust })
    }

    /// Verifies the chain of a client anew, leaf first: after a resumed handshake, in which rustls
    /// verifies nothing, and on connections that live when the policy changes.
    ///
    /// An empty chain, which is a client without a certificate, is fine unless one is required. A
    /// chain is never fine when clients are not asked: nobody is trusted to vouch for it.
    ///
    /// # Errors
    ///
    /// The reason, of the classes of [`HandshakeReason`](crate::HandshakeReason).
    pub(crate) fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), Error> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return match self.mode {
                ClientAuthMode::Off | ClientAuthMode::Optional => Ok(()),
                _ => Err(Error::NoCertificatesPresented),
            };
        };
        if self.mode == ClientAuthMode::Off {
            // rustls' verifier for this case panics when it is asked.
            return Err(CertificateError::UnknownIssuer.into());
        }
        self.verifier.verify_client_cert(leaf, intermediates, unix(now)).map(drop)
    }
}

fn trust(mode: ClientAuthMode, roots: &[Root], crls: &[Crl], rules: CrlRules) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(b"bartizan client trust 1\0");
    context.update(&[match mode {
        ClientAuthMode::Off => 0,
        ClientAuthMode::Optional => 1,
        _ => 2,
    }]);
    context.update(&rules.bytes());
    digest(&mut context, roots, crls);
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}
