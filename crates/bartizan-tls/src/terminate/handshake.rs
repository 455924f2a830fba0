//! One connection, from its first byte to the end of what serves it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bartizan_net::{BoxError, Conn, ConnInfo, DrainWatch, TlsInfo, TlsRefusal};
use pin_project_lite::pin_project;
use rustls::server::{Acceptor, ServerConnection};
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{FallibleAccept, LazyConfigAcceptor, StartHandshake};
use tower_service::Service;

use super::error::{HandshakeError, innermost};
use super::vigil::Vigil;
use super::{Served, TlsTerminateLayer};
use crate::admit::{Entering, HandshakeSlot};
use crate::peer::client_identity;
use crate::signer::{RunHandshake, run_handshake};
use crate::store::{Chosen, Generation, NoCertificate, Refusal, Scope, WithdrawnWhy};

pin_project! {
    /// Resolves when the connection passed to [`TlsTerminate`](crate::TlsTerminate) is finished.
    ///
    /// ```text
    /// Waiting ─ a place ─▶ Hello ─ chosen ─▶ Finish ─▶ Serve
    ///                        │           (or Signed, if the key lives elsewhere)
    ///                        └ refused ─▶ Refuse ◀─ failed ┘
    /// ```
    #[must_use = "futures do nothing unless polled"]
    pub struct TerminateFuture<IO, S>
    where
        S: Service<Conn<TlsStream<IO>>>,
    {
        #[pin]
        state: State<IO, S::Future>,
        // Gone after the handshake: an idle connection should not carry a timer.
        deadline: Option<Pin<Box<Sleep>>>,
        inner: S,
        handshake: Handshake,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<IO, F> {
        Waiting { place: Entering, io: Option<IO> },
        Hello { #[pin] hello: LazyConfigAcceptor<IO> },
        Finish { #[pin] accept: FallibleAccept<IO> },
        Signed { #[pin] running: RunHandshake<Shaken<IO>> },
        Refuse { refusal: TlsRefusal<IO>, error: Option<HandshakeError> },
        Serve { #[pin] response: F },
    }
}

/// What a handshake ends with; after an error the transport can still be told why.
type Shaken<IO> = Result<TlsStream<IO>, (io::Error, IO)>;

impl<IO, F> State<IO, F> {
    /// Why the handshake is being refused, if it is.
    fn refusal(self: Pin<&mut Self>) -> Option<HandshakeError> {
        match self.project() {
            StateProj::Refuse { error, .. } => error.take(),
            _ => None,
        }
    }
}

struct Handshake {
    layer: TlsTerminateLayer,
    peer: SocketAddr,
    since: Instant,
    info: Option<(ConnInfo, DrainWatch)>,
    sni: Option<Arc<str>>,
    slot: Option<HandshakeSlot>,
    chosen: Option<(Arc<Generation>, Chosen)>,
    vigil: Option<Box<Vigil>>,
}

impl<IO, S: Service<Conn<TlsStream<IO>>>> TerminateFuture<IO, S> {
    pub(super) fn new(layer: TlsTerminateLayer, inner: S, conn: Conn<IO>) -> Self {
        let (io, info, drain) = conn.into_parts();
        let place = layer.limit.enter(info.peer().ip());
        Self {
            state: State::Waiting { place, io: Some(io) },
            deadline: Some(Box::pin(sleep(layer.handshake_timeout))),
            inner,
            handshake: Handshake {
                layer,
                peer: info.peer(),
                since: Instant::now(),
                info: Some((info, drain)),
                sni: None,
                slot: None,
                chosen: None,
                vigil: None,
            },
        }
    }
}

impl<IO, S: Service<Conn<TlsStream<IO>>>> fmt::Debug for TerminateFuture<IO, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TerminateFuture").finish_non_exhaustive()
    }
}

impl<IO, S> Future for TerminateFuture<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Conn<TlsStream<IO>>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, HandshakeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            if let StateProj::Serve { response } = this.state.as_mut().project() {
                if let Poll::Ready(result) = response.poll(cx) {
                    return Poll::Ready(result.map_err(|e| HandshakeError::Handler(e.into())));
                }
                let Some(vigil) = &mut this.handshake.vigil else { return Poll::Pending };
                let why = ready!(vigil.poll_end(cx));
                return Poll::Ready(Err(this.handshake.withdraw(&why)));
            }
            match self.as_mut().poll_step(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(self.project().handshake.fail(error)));
                }
                Poll::Pending => {
                    let this = self.project();
                    let cut = ready!(this.handshake.poll_cut(this.deadline, cx));
                    // A client that does not even read why it is refused is refused for that.
                    let refused = this.state.refusal();
                    return Poll::Ready(Err(this.handshake.fail(refused.unwrap_or(cut))));
                }
            }
        }
    }
}

impl<IO, S> TerminateFuture<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Conn<TlsStream<IO>>>,
{
    /// Goes one state on.
    fn poll_step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        let mut this = self.project();
        let next = match this.state.as_mut().project() {
            StateProj::Waiting { place, io } => {
                this.handshake.slot = Some(ready!(Pin::new(place).poll(cx)));
                let io = io.take().expect("a place is given once");
                State::Hello { hello: LazyConfigAcceptor::new(Acceptor::default(), io) }
            }
            StateProj::Hello { hello } => {
                let start = ready!(hello.poll(cx)).map_err(HandshakeError::from_io)?;
                match this.handshake.choose(&start) {
                    Ok(config) => this.handshake.start(start, config),
                    Err(error) => {
                        let refusal = TlsRefusal::new(start.io, error.alert());
                        this.handshake.refuse(refusal, error)
                    }
                }
            }
            StateProj::Refuse { refusal, error } => {
                ready!(Pin::new(refusal).poll(cx));
                return Poll::Ready(error.take().map_or(Ok(()), Err));
            }
            StateProj::Finish { accept } => {
                let shaken = ready!(accept.poll(cx));
                this.handshake.shaken(shaken, this.deadline, this.inner)?
            }
            StateProj::Signed { running } => {
                let shaken = ready!(running.poll(cx)).map_err(HandshakeError::Runtime)?;
                this.handshake.shaken(shaken, this.deadline, this.inner)?
            }
            StateProj::Serve { .. } => return Poll::Pending,
        };
        this.state.set(next);
        Poll::Ready(Ok(()))
    }
}

impl Handshake {
    /// Ready when the handshake must go no further, for want of time or for the sake of others.
    fn poll_cut(
        &mut self,
        deadline: &mut Option<Pin<Box<Sleep>>>,
        cx: &mut Context<'_>,
    ) -> Poll<HandshakeError> {
        if let Some(slot) = &mut self.slot
            && slot.poll_displaced(cx).is_ready()
        {
            return Poll::Ready(HandshakeError::Displaced);
        }
        let Some(deadline) = deadline else { return Poll::Pending };
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(HandshakeError::Timeout { limit: self.layer.handshake_timeout })
    }

    /// Chooses what the client is served, out of one generation.
    fn choose<IO>(
        &mut self,
        start: &StartHandshake<IO>,
    ) -> Result<Arc<ServerConfig>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let hello = start.client_hello();
        self.sni = hello.server_name().map(|name| name.to_ascii_lowercase().into());
        let store = match &self.layer.served {
            Served::Config(config) => return Ok(Arc::clone(config)),
            Served::Store(store) => store,
        };
        let generation = store.current();
        let chosen = generation.choose(&hello, store.now()).map_err(|refusal| match refusal {
            Refusal::Name(NoCertificate::UnknownName) => HandshakeError::UnknownName,
            Refusal::Name(NoCertificate::NoName) => HandshakeError::NoName,
            Refusal::Name(NoCertificate::Incompatible) => {
                HandshakeError::Tls(rustls::PeerIncompatible::NoSignatureSchemesInCommon.into())
            }
            Refusal::Key { source, error } => HandshakeError::Key { certificate: source, error },
        })?;
        let config = Arc::clone(&chosen.config);
        self.chosen = Some((generation, chosen));
        Ok(config)
    }

    /// Lets the client take the alert in, in the time that is left.
    fn refuse<IO, F>(&mut self, refusal: TlsRefusal<IO>, error: HandshakeError) -> State<IO, F> {
        // Others may shake hands meanwhile.
        self.slot = None;
        State::Refuse { refusal, error: Some(error) }
    }

    fn start<IO, F>(&self, start: StartHandshake<IO>, config: Arc<ServerConfig>) -> State<IO, F>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limit = self.layer.send_buffer_limit.get();
        // In TLS 1.3 this signs already, not only when what it returns is polled.
        let accept = move || {
            start.into_stream_with(config, |tls| tls.set_buffer_limit(Some(limit))).into_fallible()
        };
        let remote = self.chosen.as_ref().is_some_and(|(_, chosen)| chosen.entry.has_remote_key());
        if remote {
            let accept = async move { accept().await };
            return State::Signed { running: run_handshake(&self.layer.runtime, accept) };
        }
        State::Finish { accept: accept() }
    }

    /// Serves what the handshake has made, or lets the client take the alert in.
    fn shaken<IO, S>(
        &mut self,
        shaken: Shaken<IO>,
        deadline: &mut Option<Pin<Box<Sleep>>>,
        inner: &mut S,
    ) -> Result<State<IO, S::Future>, HandshakeError>
    where
        S: Service<Conn<TlsStream<IO>>>,
    {
        match shaken {
            Ok(stream) => {
                let conn = self.finish(stream)?;
                *deadline = None;
                Ok(State::Serve { response: inner.call(conn) })
            }
            Err((error, io)) => match HandshakeError::from_io(error) {
                error @ HandshakeError::Transport(_) => Err(error),
                // rustls has sent the alert. For a signer that fails it has none, and in TLS 1.3 the
                // client could not read one that is not encrypted.
                error => Ok(self.refuse(TlsRefusal::silent(io), error)),
            },
        }
    }

    fn finish<IO>(&mut self, stream: TlsStream<IO>) -> Result<Conn<TlsStream<IO>>, HandshakeError> {
        let tls = stream.get_ref().1;
        let mut info = tls_info(tls, self.sni.clone());
        info.handshake = self.since.elapsed();
        let (mut conn, mut drain) = self.info.take().expect("a handshake finishes once");
        if let Some((generation, chosen)) = self.chosen.take() {
            info.served = Some(Arc::clone(&chosen.served));
            self.trust(tls, &mut info, &generation, &chosen)?;
            if let Some(vigil) = &self.vigil {
                drain = drain.or(vigil.drain());
            }
            if let Served::Store(store) = &self.layer.served {
                let sni = self.sni.clone();
                let scope = Scope::new(Arc::clone(store.shared()), &generation, &chosen, sni);
                conn.add_host_scope(Arc::new(scope));
            }
        }
        self.layer.counts.note_completed(info.resumed);
        self.slot = None;
        conn.set_tls(info);
        Ok(Conn::new(stream, conn).with_drain(drain))
    }

    /// Notes who the client is, and watches over how long it is trusted. (That it is now, rustls or
    /// the ticket's keeper has seen to.)
    fn trust(
        &mut self,
        tls: &ServerConnection,
        info: &mut TlsInfo,
        generation: &Generation,
        chosen: &Chosen,
    ) -> Result<(), HandshakeError> {
        let Served::Store(store) = &self.layer.served else { return Ok(()) };
        let rules = store.withdrawal();
        let mut expiry =
            rules.on_server_expiry.then(|| (chosen.entry.not_after, WithdrawnWhy::ServerExpired));
        if let Some(chain) = tls.peer_certificates().filter(|chain| !chain.is_empty()) {
            let client = Arc::new(client_identity(chain));
            if rules.on_client_expiry
                && let Some(at) = client.not_after
            {
                let sooner = expiry.as_ref().is_none_or(|(other, _)| at < *other);
                if sooner {
                    expiry = Some((at, WithdrawnWhy::ClientExpired));
                }
            }
            info.client = Some(client);
        }
        let watched = info.client.is_some() && rules.on_trust_change;
        if watched || expiry.is_some() {
            let client = info.client.clone().filter(|_| watched);
            let member = store.shared().live().join(client, chosen.policy);
            let (seen, now) = (generation.number, store.now());
            if let Some(reason) = member.catch_up(seen, &store.current(), &rules, now) {
                return Err(HandshakeError::Distrusted { reason });
            }
            let clock = Arc::clone(store.clock());
            self.vigil = Some(Box::new(Vigil::new(member, rules, clock, expiry)));
        }
        Ok(())
    }

    fn withdraw(&self, why: &WithdrawnWhy) -> HandshakeError {
        let reason: Arc<str> = why.to_string().into();
        let (peer, sni) = (tracing::field::display(self.peer), self.sni.as_deref());
        tracing::info!(peer, sni, %reason, "TLS connection ended");
        HandshakeError::Withdrawn { reason }
    }

    fn fail(&self, error: HandshakeError) -> HandshakeError {
        let Some(reason) = error.reason() else { return error };
        self.layer.counts.note_failed(reason);
        let peer = tracing::field::display(self.peer);
        let (ms, sni) = (self.since.elapsed().as_millis() as u64, self.sni.as_deref());
        let class = reason.as_str();
        let cause = error.cause();
        if reason.is_noise() {
            // Port scans, probes and closed laptops: a line for each would fill the log.
            tracing::debug!(peer, sni, ms, class, reason = %cause, "TLS handshake broken off");
        } else if let HandshakeError::Key { error: wrong, .. } = &error {
            tracing::error!(peer, sni, ms, class, reason = %cause, %wrong, "TLS handshake failed");
        } else if let HandshakeError::Signer(_) | HandshakeError::Runtime(_) = &error {
            let wrong = innermost(&error);
            tracing::error!(peer, sni, ms, class, reason = %cause, %wrong, "TLS handshake failed");
        } else {
            tracing::info!(peer, sni, ms, class, reason = %cause, "TLS handshake failed");
        }
        error
    }
}

fn tls_info(tls: &ServerConnection, sni: Option<Arc<str>>) -> TlsInfo {
    let mut info = TlsInfo::default();
    info.sni = sni;
    info.alpn = tls.alpn_protocol().map(Into::into);
    info.version = tls.protocol_version().and_then(|version| match version {
        rustls::ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
        rustls::ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
        other => other.as_str(),
    });
    info.cipher = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    info.group = tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    info.resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    info
}
