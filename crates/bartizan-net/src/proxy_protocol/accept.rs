//! Reading PROXY headers off accepted connections.

mod error;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use std::{fmt, mem};

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tower_layer::Layer;
use tower_service::Service;

use super::header::Detected;
use super::{Parsed, ProxyHeader};
use crate::{BoxError, Conn, Replay};

pub use error::ProxyProtocolError;

/// Reads the PROXY header that trusted sources begin their connections with, before TLS or anything
/// else.
///
/// What a source may say goes by its network; among several that it is in, the one with the longest
/// prefix decides. Of all other sources nothing is read, so that a header of theirs is just bytes
/// that the next layer makes nothing of.
///
/// | | with a header | without one |
/// | --- | --- | --- |
/// | [`required`](Self::required) | recorded | closed |
/// | [`optional`](Self::optional) | recorded | served |
/// | [`refused`](Self::refused) | closed | served |
/// | any other source | nothing is read | nothing is read |
///
/// A header that is read goes into the [`ConnInfo`](crate::ConnInfo), whose `peer` and `local` are
/// from then on what it says. One header is read; a second one is payload. The inner service gets
/// the stream after the header, and the bytes that came along with it are not lost.
///
/// A connection that fails is closed without an answer, is a tracing event with the real peer (level
/// info; debug where the peer hung up before its first byte, as TCP health checks do), and ends the
/// call with a [`ProxyProtocolError`].
///
/// ```
/// use bartizan_net::AcceptProxyLayer;
///
/// let layer = AcceptProxyLayer::new()
///     .required("10.0.0.0/8".parse()?)
///     .optional("127.0.0.0/8".parse()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a layer does nothing before it is put around a service"]
pub struct AcceptProxyLayer {
    /// Longest prefix first, each network once.
    rules: Arc<Vec<(IpNet, Rule)>>,
    timeout: Duration,
    max_length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Required,
    Optional,
    Refused,
}

impl AcceptProxyLayer {
    /// Trusts nobody.
    pub fn new() -> Self {
        let max_length = ProxyHeader::DEFAULT_MAX_LENGTH;
        Self { rules: Arc::default(), timeout: HEADER_TIMEOUT, max_length }
    }

    /// Serves connections from `net` only if they begin with a header, and believes it.
    ///
    /// A network said twice is as it was said last. One of IPv4-mapped addresses is the IPv4
    /// network; `::/0` has no IPv4 source in it.
    pub fn required(self, net: IpNet) -> Self {
        self.rule(net, Rule::Required)
    }

    /// Believes the headers of connections from `net`, and serves those without one as well.
    ///
    /// Who may come either way can write a header of its own: this is for networks whose every host
    /// is trusted. Clients of protocols in which the server speaks first wait for the
    /// [`timeout`](Self::timeout) here, and are closed then.
    pub fn optional(self, net: IpNet) -> Self {
        self.rule(net, Rule::Optional)
    }

    /// Closes connections from `net` that begin with a header, and serves all others.
    ///
    /// For clients that try to pass for somebody else. To tell takes the first bytes, so what
    /// [`optional`](Self::optional) says of servers that speak first holds here too.
    pub fn refused(self, net: IpNet) -> Self {
        self.rule(net, Rule::Refused)
    }

    /// Gives up on a header after `limit`, from when the connection is handed over to its last
    /// byte. Default: 10 s.
    pub fn timeout(self, limit: Duration) -> Self {
        Self { timeout: limit, ..self }
    }

    /// Refuses headers (of version 2) that are longer than `bytes`. Default: 4 KiB.
    pub fn max_length(self, bytes: usize) -> Self {
        Self { max_length: bytes, ..self }
    }

    fn rule(mut self, net: IpNet, rule: Rule) -> Self {
        let net = canonical(net);
        let rules = Arc::make_mut(&mut self.rules);
        rules.retain(|(other, _)| *other != net);
        let at = rules.partition_point(|(other, _)| other.prefix_len() >= net.prefix_len());
        rules.insert(at, (net, rule));
        self
    }

    fn rule_for(&self, source: SocketAddr) -> Option<Rule> {
        let ip = source.ip().to_canonical();
        self.rules.iter().find(|(net, _)| net.contains(&ip)).map(|(_, rule)| *rule)
    }
}

impl Default for AcceptProxyLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for AcceptProxyLayer {
    type Service = AcceptProxy<S>;

    fn layer(&self, inner: S) -> Self::Service {
        AcceptProxy { layer: self.clone(), inner }
    }
}

/// Reads the PROXY header of each connection, then calls `S` with the rest. Made by
/// [`AcceptProxyLayer`].
#[derive(Clone, Debug)]
pub struct AcceptProxy<S> {
    layer: AcceptProxyLayer,
    inner: S,
}

impl<IO, S> Service<Conn<IO>> for AcceptProxy<S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service<Conn<Replay<IO>>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = ProxyProtocolError;
    type Future = AcceptProxyFuture<IO, S>;

    // Readiness is reserved *before* the header is read, so that a concurrency limit on `S` also
    // counts connections that have not sent theirs.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ProxyProtocolError>> {
        self.inner.poll_ready(cx).map_err(|e| ProxyProtocolError::Handler(e.into()))
    }

    fn call(&mut self, conn: Conn<IO>) -> Self::Future {
        // Only `self.inner` has been polled ready; its clone has not. Hand over the former.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        // By who really is at the other end, whatever a layer before this one has recorded.
        let Some(rule) = self.layer.rule_for(conn.info().socket_peer()) else {
            let response = inner.call(conn.map_io(|io| Replay::new(Bytes::new(), io)));
            return AcceptProxyFuture { state: State::Serve { response } };
        };
        let AcceptProxyLayer { timeout, max_length, .. } = self.layer;
        let reading = Reading { conn, inner, rule, read: BytesMut::new(), timeout, max_length };
        AcceptProxyFuture {
            state: State::Read { reading: Some(reading), deadline: sleep(timeout) },
        }
    }
}

pin_project! {
    /// Resolves when the connection passed to [`AcceptProxy`] is finished.
    ///
    /// Cancel safe: dropping it closes the connection.
    #[must_use = "futures do nothing unless polled"]
    pub struct AcceptProxyFuture<IO, S>
    where
        S: Service<Conn<Replay<IO>>>,
    {
        #[pin]
        state: State<IO, S, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<IO, S, F> {
        // `reading` is there until it has been read.
        Read { reading: Option<Reading<IO, S>>, #[pin] deadline: Sleep },
        Serve { #[pin] response: F },
    }
}

struct Reading<IO, S> {
    conn: Conn<IO>,
    inner: S,
    rule: Rule,
    read: BytesMut,
    timeout: Duration,
    max_length: usize,
}

impl<IO, S: Service<Conn<Replay<IO>>>> fmt::Debug for AcceptProxyFuture<IO, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptProxyFuture").finish_non_exhaustive()
    }
}

impl<IO, S> Future for AcceptProxyFuture<IO, S>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    S: Service<Conn<Replay<IO>>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, ProxyProtocolError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let response = match state.as_mut().project() {
                StateProj::Read { reading: slot, mut deadline } => {
                    let Some(reading) = slot else { return Poll::Pending };
                    let header = match reading.poll_header(cx) {
                        Poll::Ready(header) => header,
                        Poll::Pending => {
                            ready!(deadline.as_mut().poll(cx));
                            Err(ProxyProtocolError::Timeout { limit: reading.timeout })
                        }
                    };
                    let Some(reading) = slot.take() else { return Poll::Pending };
                    match header {
                        Ok(header) => reading.serve(header),
                        Err(error) => {
                            error.log(reading.conn.info().socket_peer());
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                StateProj::Serve { response } => {
                    return response.poll(cx).map_err(|e| ProxyProtocolError::Handler(e.into()));
                }
            };
            state.set(State::Serve { response });
        }
    }
}

impl<IO: AsyncRead + Unpin, S> Reading<IO, S> {
    /// The header and its length, as soon as it can be told; `None` where there is none and none is
    /// needed.
    fn poll_header(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<(ProxyHeader, usize)>, ProxyProtocolError>> {
        loop {
            if let Some(verdict) = self.judge() {
                return Poll::Ready(verdict);
            }
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            let reading = Pin::new(self.conn.io_mut()).poll_read(cx, &mut chunk);
            ready!(reading).map_err(ProxyProtocolError::Transport)?;
            if chunk.filled().is_empty() {
                return Poll::Ready(self.judge_end());
            }
            self.read.extend_from_slice(chunk.filled());
        }
    }

    /// What the bytes so far come to; `None` if that takes more of them.
    fn judge(&self) -> Option<Result<Option<(ProxyHeader, usize)>, ProxyProtocolError>> {
        if self.rule == Rule::Refused {
            return match Detected::of(&self.read) {
                Detected::Nothing => Some(Ok(None)),
                Detected::Prefix => None,
                Detected::V1 | Detected::V2 => Some(Err(ProxyProtocolError::Refused)),
            };
        }
        match ProxyHeader::parse_within(&self.read, self.max_length) {
            Ok(Parsed::Complete { header, length }) => Some(Ok(Some((header, length)))),
            Ok(Parsed::Incomplete { .. }) => None,
            Ok(Parsed::NotProxy) if self.rule == Rule::Required => {
                Some(Err(ProxyProtocolError::Missing))
            }
            Ok(Parsed::NotProxy) => Some(Ok(None)),
            Err(error) => Some(Err(ProxyProtocolError::Malformed(error))),
        }
    }

    /// What the bytes come to when no more will follow.
    fn judge_end(&self) -> Result<Option<(ProxyHeader, usize)>, ProxyProtocolError> {
        let after = self.read.len();
        let may_be_payload = after > 0 && Detected::of(&self.read) == Detected::Prefix;
        if may_be_payload && self.rule != Rule::Required {
            return Ok(None);
        }
        Err(ProxyProtocolError::Closed { after })
    }
}

impl<IO, S: Service<Conn<Replay<IO>>>> Reading<IO, S> {
    fn serve(mut self, header: Option<(ProxyHeader, usize)>) -> S::Future {
        if let Some((header, length)) = header {
            let _header = self.read.split_to(length);
            self.conn.info_mut().set_proxy_header(Arc::new(header));
        }
        let rest = self.read.freeze();
        self.inner.call(self.conn.map_io(|io| Replay::new(rest, io)))
    }
}

/// A network of IPv4-mapped addresses as the IPv4 one, which is how sources are looked up.
fn canonical(net: IpNet) -> IpNet {
    let net = net.trunc();
    match (net, net.addr().to_canonical()) {
        (IpNet::V6(v6), ip @ IpAddr::V4(_)) if v6.prefix_len() >= MAPPED_PREFIX => {
            IpNet::new(ip, v6.prefix_len() - MAPPED_PREFIX).unwrap_or(net)
        }
        _ => net,
    }
}

/// A proxy sends its header at once; this leaves room for two lost packets. The same as for a TLS
/// handshake, which comes next.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Nearly every header at once, and no more on the stack of each connection that waits.
const CHUNK: usize = 1024;

/// The length of the prefix that all IPv4-mapped addresses share.
const MAPPED_PREFIX: u8 = 96;

#[cfg(test)]
mod tests;
