//! One handshake with a backend.

use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bartizan_net::{Address, Validity, WrongIdentity};
use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, Error, HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::configs::Prepared;
use super::error::OriginateError;
use super::expiry::ConnectionExpiry;
use super::stream::OriginatedStream;
use super::{Settings, peer};
use crate::server_trust::{self, Refused};
use crate::signer::run_handshake;
use crate::trust::unix;
use crate::{CertificateProblem, SignerError};

/// A handshake over `io`, within the limit of the settings.
pub(super) async fn run<IO>(
    settings: &Settings,
    prepared: Arc<Prepared>,
    address: &Address,
    expected: &str,
    io: IO,
) -> Result<OriginatedStream<IO>, OriginateError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let now = settings.clock.now();
    prepared.sessions.expire(now);
    let limit = settings.handshake_timeout;
    let shake = shake(Arc::clone(&prepared), io);
    let done = timeout(limit, async {
        if prepared.has_remote_key {
            // It blocks while it waits for the signature.
            run_handshake(&settings.runtime, shake).await
        } else {
            Ok(shake.await)
        }
    });
    let address = address.clone();
    match done.await {
        Err(_) => Err(OriginateError::Timeout { address, limit }),
        Ok(Err(error)) => Err(OriginateError::Config { address, source: error.into() }),
        Ok(Ok(Err(failed))) => Err(classify(failed, &prepared, address, expected)),
        Ok(Ok(Ok(tls))) => finish(settings, &prepared, address, expected, tls),
    }
}

/// Why a handshake broke off, and what the verifier has to say of it.
struct Failed {
    error: io::Error,
    refused: Option<Refused>,
}

async fn shake<IO>(prepared: Arc<Prepared>, io: IO) -> Result<TlsStream<IO>, Failed>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut tls = connect(&prepared, io).await?;
    confirm(&prepared, &mut tls).await.map_err(|error| Failed { error, refused: None })?;
    Ok(tls)
}

async fn connect<IO>(prepared: &Prepared, io: IO) -> Result<TlsStream<IO>, Failed>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let connector = TlsConnector::from(Arc::clone(&prepared.config));
    let mut connect = connector.connect(prepared.name.clone(), io);
    poll_fn(|cx| {
        let (polled, refused) = server_trust::observe(|| Pin::new(&mut connect).poll(cx));
        Poll::Ready(ready!(polled).map_err(|error| Failed { error, refused }))
    })
    .await
}

/// Waits for the backend's word on the client certificate.
///
/// In TLS 1.3 a client is done before its certificate has been looked at. A refusal would come in
/// the middle of the first request, which could then not be sent elsewhere. What a backend sends
/// once it is content is a ticket, as a rule, or data. One that has never sent any is waited for a few
/// times only.
async fn confirm<IO>(prepared: &Prepared, tls: &mut TlsStream<IO>) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (_, session) = tls.get_ref();
    let full = !matches!(session.handshake_kind(), Some(HandshakeKind::Resumed));
    let tls13 = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    if !full || !tls13 || !prepared.identity.was_asked() || prepared.sends_no_tickets() {
        return Ok(());
    }
    match timeout(TICKET_TIMEOUT, poll_fn(|cx| poll_word(tls, cx))).await {
        Ok(word) => word,
        Err(_) => {
            prepared.silences.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// Ready when the backend has sent a ticket or data, or has refused. Data is left where it is.
fn poll_word<IO>(tls: &mut TlsStream<IO>, cx: &mut Context<'_>) -> Poll<io::Result<()>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (io, session) = tls.get_mut();
    loop {
        let state = session
            .process_new_packets()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if session.tls13_tickets_received() > 0 || state.plaintext_bytes_to_read() > 0 {
            return Poll::Ready(Ok(()));
        }
        match session.read_tls(&mut Blocking { io, cx }) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// An asynchronous stream as rustls reads it.
struct Blocking<'a, 'b, IO> {
    io: &'a mut IO,
    cx: &'a mut Context<'b>,
}

impl<IO: AsyncRead + Unpin> Read for Blocking<'_, '_, IO> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(&mut *self.io).poll_read(self.cx, &mut buf) {
            Poll::Ready(read) => read.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Verifies what was not, and says how long the connection is good.
fn finish<IO>(
    settings: &Settings,
    prepared: &Prepared,
    address: Address,
    expected: &str,
    tls: TlsStream<IO>,
) -> Result<OriginatedStream<IO>, OriginateError> {
    let (_, session) = tls.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let peer = leaf.and_then(|leaf| peer::server_identity(leaf));
    let not_after = peer.as_ref().and_then(|peer| peer.not_after);
    let now = settings.clock.now();
    if matches!(session.handshake_kind(), Some(HandshakeKind::Resumed)) {
        let chain = session.peer_certificates().unwrap_or_default();
        if let Err(failed) = verify_again(prepared, chain, now) {
            prepared.sessions.forget();
            return Err(classify(*failed, prepared, address, expected));
        }
    } else {
        prepared.sessions.verified_until(not_after);
    }
    tracing::debug!(
        %address, server_name = expected, version = ?session.protocol_version(),
        kind = ?session.handshake_kind(), "TLS to a backend"
    );
    let ends = not_after.into_iter().chain(prepared.identity_end).min();
    let (until, cut) = limits(settings.expiry, ends, now);
    let validity = Validity::new(until, prepared.rests_on.iter().cloned());
    Ok(OriginatedStream::new(tls, peer, validity, cut.map(sleep_until)))
}

/// Verifies the chain that a resumed session was begun with.
///
/// The handshake has not, and since then an authority's certificate may have expired, or a revocation
/// list. Each resumed handshake brings new tickets, so without this a session might never end.
fn verify_again(
    prepared: &Prepared,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), Box<Failed>> {
    let bad = |error, refused| {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        Box::new(Failed { error, refused })
    };
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(bad(Error::NoCertificatesPresented, None));
    };
    let now = unix(now);
    let (verified, refused) = server_trust::observe(|| {
        prepared.verifier.verify_server_cert(leaf, intermediates, &prepared.name, &[], now)
    });
    verified.map(drop).map_err(|error| bad(error, refused))
}

/// Until when a connection takes new work, and when it is cut.
fn limits(
    expiry: ConnectionExpiry,
    ends: Option<SystemTime>,
    now: SystemTime,
) -> (Option<Instant>, Option<Instant>) {
    let Some(ends) = ends.filter(|_| expiry.retires) else { return (None, None) };
    // Certificates are good to the end of a second.
    let left = ends.duration_since(now).unwrap_or_default() + Duration::from_secs(1);
    let draw = RandomState::new().hash_one(left) as u32;
    let (start, early) = (Instant::now(), expiry.early(left, draw));
    let cut = expiry.cuts.then(|| start.checked_add(left)).flatten();
    (start.checked_add(left.saturating_sub(early)), cut)
}

/// What to say of a handshake that failed.
fn classify(
    failed: Failed,
    prepared: &Prepared,
    address: Address,
    expected: &str,
) -> OriginateError {
    let Failed { error, refused } = failed;
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    if let Some(source) = of_tls.and_then(SignerError::within) {
        return OriginateError::Signer { address, source };
    }
    match of_tls {
        Some(Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_)) => {
            let (problem, presented) = match refused {
                Some(refused) => (refused.problem, Some(Box::new(refused.presented))),
                None => (problem_of(of_tls), None),
            };
            let (expected, source) = (expected.to_owned(), WrongIdentity::new(problem));
            OriginateError::Certificate { address, expected, presented, source }
        }
        Some(Error::AlertReceived(alert)) => {
            let text = alert_name(*alert);
            if is_about_certificate(*alert) && prepared.identity.was_asked() {
                let shown = prepared.identity.has_any();
                OriginateError::ClientCertificate { address, alert: text, shown }
            } else {
                OriginateError::Refused { address, alert: text }
            }
        }
        Some(Error::InvalidMessage(_)) => OriginateError::NotTls { address },
        Some(Error::PeerIncompatible(what)) => {
            OriginateError::Incompatible { address, what: format!("{what:?}") }
        }
        Some(Error::NoApplicationProtocol) => {
            OriginateError::Incompatible { address, what: "no application protocol".to_owned() }
        }
        _ if of_tls.is_none() && error.kind() == io::ErrorKind::UnexpectedEof => {
            OriginateError::Closed { address }
        }
        _ => OriginateError::Handshake { address, source: error },
    }
}

/// The key was not proven, which comes after the chain.
fn problem_of(error: Option<&Error>) -> CertificateProblem {
    match error {
        Some(Error::InvalidCertificate(CertificateError::BadSignature)) => {
            CertificateProblem::Unacceptable("the server does not hold its key".to_owned())
        }
        other => {
            CertificateProblem::Unacceptable(other.map_or_else(String::new, ToString::to_string))
        }
    }
}

/// What a server sends that does not like the client's certificate, or the lack of one.
fn is_about_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::DecryptError
            | A::CertificateRequired
            // OpenSSL's for a missing certificate in TLS 1.2.
            | A::HandshakeFailure
    )
}

/// `BadCertificate` to `bad_certificate`, as RFC 8446 §6 writes it.
fn alert_name(alert: AlertDescription) -> String {
    let camel = format!("{alert:?}").replace("CA", "Ca").replace("gnised", "gnized");
    let mut name = String::new();
    for (i, letter) in camel.chars().enumerate() {
        if letter.is_ascii_uppercase() && i > 0 {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

/// A ticket comes with the next round trip.
const TICKET_TIMEOUT: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_their_names_of_the_rfc() {
        for (alert, name) in [
            (AlertDescription::BadCertificate, "bad_certificate"),
            (AlertDescription::UnknownCA, "unknown_ca"),
            (AlertDescription::UnrecognisedName, "unrecognized_name"),
            (AlertDescription::NoApplicationProtocol, "no_application_protocol"),
        ] {
            assert_eq!(alert_name(alert), name);
        }
    }
}
