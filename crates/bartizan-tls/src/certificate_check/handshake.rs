//! The handshake of a check.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, Error};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Settings;
use super::answer::CheckedCertificate;
use super::error::CertificateCheckError;
use super::verifier::{AcceptAny, Asked, Witness};
use crate::CertificateProblem;
use crate::store::WallTime;

/// The name that a certificate has to be for.
pub(super) struct Name {
    pub(super) text: String,
    pub(super) server: ServerName<'static>,
}

/// What was presented, and the stream if it is still open.
pub(super) async fn run<IO>(
    settings: &Settings,
    name: Name,
    io: IO,
) -> Result<(CheckedCertificate, Option<TlsStream<IO>>), CertificateCheckError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let Prepared { config, witness, asked } = prepare(settings)
        .map_err(|error| CertificateCheckError::Handshake(io::Error::other(error)))?;
    let done = TlsConnector::from(config).connect(name.server, io).await;
    let tls = match done {
        Ok(tls) => Some(tls),
        Err(error) if asked.was() && is_alert(&error) => None,
        Err(error) => return Err(failure(error, &name.text, &witness)),
    };
    let chain = witness.proven_chain();
    if chain.is_empty() {
        let unproven = io::Error::other("it ended before a certificate was verified");
        return Err(CertificateCheckError::Handshake(unproven));
    }
    let mut found = CheckedCertificate::read(&chain, settings.clock.now())
        .map_err(CertificateProblem::Malformed)?;
    found.alpn = tls.as_ref().and_then(|tls| tls.get_ref().1.alpn_protocol()).map(Arc::from);
    Ok((found, tls))
}

/// Closes in an orderly way: the server reads an end rather than a reset.
pub(super) async fn close<IO: AsyncRead + AsyncWrite + Unpin>(mut tls: TlsStream<IO>) {
    let farewell = async {
        tls.shutdown().await?;
        // Tickets are on their way. To close over what was not read would reset the connection.
        copy(&mut (&mut tls).take(LINGER_BYTES), &mut sink()).await
    };
    // The certificate is known, and nothing that comes of this changes it.
    let _ = timeout(LINGER, farewell).await;
}

/// A config for one handshake: its verifier remembers what it was shown, and no session is kept.
struct Prepared {
    config: Arc<ClientConfig>,
    witness: Arc<Witness>,
    asked: Arc<Asked>,
}

fn prepare(settings: &Settings) -> Result<Prepared, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match &settings.trust {
        Some(trust) => Arc::clone(&trust.current().value.verifier),
        None => Arc::new(AcceptAny(provider.signature_verification_algorithms)),
    };
    let witness = Arc::new(Witness::new(verifier));
    let asked = Arc::new(Asked::default());
    let time = Arc::new(WallTime(Arc::clone(&settings.clock)));
    let mut config = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&witness) as _)
        .with_client_cert_resolver(Arc::clone(&asked) as _);
    config.alpn_protocols.clone_from(&settings.alpn);
    config.resumption = Resumption::disabled();
    Ok(Prepared { config: Arc::new(config), witness, asked })
}

fn failure(error: io::Error, expected: &str, witness: &Witness) -> CertificateCheckError {
    let problem = match of_tls(&error) {
        // An authority of that name, with another key. After the chain, it is the server's own.
        Some(Error::InvalidCertificate(CertificateError::BadSignature))
            if !witness.has_accepted() =>
        {
            Some(CertificateProblem::Untrusted)
        }
        Some(error) => CertificateProblem::of(error, expected),
        None => None,
    };
    let problem = problem.map(|problem| match problem {
        CertificateProblem::WrongName { expected, names } if names.is_empty() => {
            CertificateProblem::WrongName { expected, names: witness.names_in_vain() }
        }
        other => other,
    });
    problem.map_or_else(|| CertificateCheckError::Handshake(error), Into::into)
}

fn is_alert(error: &io::Error) -> bool {
    matches!(of_tls(error), Some(Error::AlertReceived(_)))
}

fn of_tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// For the other side to close too. Nearly all do so at once.
const LINGER: Duration = Duration::from_millis(100);

/// More than the tickets of any server.
const LINGER_BYTES: u64 = 64 * 1024;
