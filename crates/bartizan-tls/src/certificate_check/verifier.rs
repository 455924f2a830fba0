//! A verifier that remembers what it was shown.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use crate::server_trust::PresentedCertificate;

/// Verifies as `inner` does, and remembers the chain of one handshake.
#[derive(Debug)]
pub(super) struct Witness {
    inner: Arc<dyn ServerCertVerifier>,
    chain: Mutex<Vec<CertificateDer<'static>>>,
    // What a certificate is for that was not accepted.
    names: Mutex<Vec<String>>,
    // The server has shown that it holds the key, which comes after the chain.
    proven: AtomicBool,
}

impl Witness {
    pub(super) fn new(inner: Arc<dyn ServerCertVerifier>) -> Self {
        Self {
            inner,
            chain: Mutex::default(),
            names: Mutex::default(),
            proven: AtomicBool::new(false),
        }
    }

    /// The chain, leaf first, if it was accepted and its key was used; empty otherwise.
    pub(super) fn proven_chain(&self) -> Vec<CertificateDer<'static>> {
        if !self.proven.load(Ordering::Relaxed) {
            return Vec::new();
        }
        std::mem::take(&mut self.chain.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the chain was accepted, whatever came after that.
    pub(super) fn has_accepted(&self) -> bool {
        !self.chain.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// What a certificate is for that was not accepted.
    pub(super) fn names_in_vain(&self) -> Vec<String> {
        std::mem::take(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, proof: &Result<HandshakeSignatureValid, Error>) {
        self.proven.store(proof.is_ok(), Ordering::Relaxed);
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(leaf, intermediates, name, ocsp, now);
        let verified = verified.inspect_err(|_| {
            let names = PresentedCertificate::read(leaf).names;
            *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        })?;
        let chain = std::iter::once(leaf).chain(intermediates);
        let chain = chain.map(|cert| cert.clone().into_owned()).collect();
        *self.chain.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let proof = self.inner.verify_tls12_signature(message, cert, dss);
        self.note(&proof);
        proof
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let proof = self.inner.verify_tls13_signature(message, cert, dss);
        self.note(&proof);
        proof
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Accepts whatever is presented, if the server has the key of it.
#[derive(Debug)]
pub(super) struct AcceptAny(pub(super) WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Has no certificate for the server, and remembers whether it asked for one.
#[derive(Debug, Default)]
pub(super) struct Asked(AtomicBool);

impl Asked {
    pub(super) fn was(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        // Else rustls would not ask here.
        true
    }
}
