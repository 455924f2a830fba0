//! HTTP clients over TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wait::PATIENCE;
use crate::{Proxy, Site, within};

/// What a client sends.
pub type ReqBody = BoxBody<Bytes, Infallible>;

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests go through both")]
pub enum Http {
    /// HTTP/1.1
    One,
    /// HTTP/2
    Two,
}

impl Http {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::One, Self::Two];

    pub(crate) fn alpn(self) -> &'static str {
        match self {
            Self::One => "http/1.1",
            Self::Two => "h2",
        }
    }
}

/// One connection of one client to a proxy.
#[derive(Debug)]
pub struct Client {
    send: Send,
    conn: JoinHandle<Result<(), hyper::Error>>,
}

#[derive(Debug)]
enum Send {
    One(http1::SendRequest<ReqBody>),
    Two(http2::SendRequest<ReqBody>),
}

/// A whole answer.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailer fields, if any came.
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// The first value of the field `name`; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Which backend of the testkit answered.
    pub fn backend(&self) -> &str {
        self.header("x-backend")
    }
}

impl Client {
    /// Connects to `proxy` and speaks `http`.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub async fn connect(site: &Site, proxy: &Proxy, http: Http) -> Self {
        let tls = site.tls(&[http.alpn()]);
        within(PATIENCE, "connecting", Self::open(proxy.addr(), tls, http)).await.unwrap()
    }

    /// Connects to `addr`, where `tls` has to agree on `http`.
    ///
    /// # Errors
    ///
    /// Whatever fails first, as text.
    pub async fn open(
        addr: SocketAddr,
        tls: Arc<ClientConfig>,
        http: Http,
    ) -> Result<Self, String> {
        let stream = Self::handshake(addr, tls).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(http.alpn().as_bytes()));
        Self::over(stream, http).await
    }

    /// Connects to `addr` and does no more than the TLS handshake.
    ///
    /// # Errors
    ///
    /// Whatever fails first, as text.
    pub async fn handshake(
        addr: SocketAddr,
        tls: Arc<ClientConfig>,
    ) -> Result<TlsStream<TcpStream>, String> {
        let tcp = TcpStream::connect(addr).await.map_err(|e| format!("connect: {e}"))?;
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(tls).connect(name, tcp).await.map_err(|e| format!("handshake: {e}"))
    }

    /// Speaks `http` over a stream that is there.
    ///
    /// # Errors
    ///
    /// What hyper says, as text.
    pub async fn over(stream: TlsStream<TcpStream>, http: Http) -> Result<Self, String> {
        let io = TokioIo::new(stream);
        let (send, conn) = match http {
            Http::One => {
                let (send, conn) = http1::handshake(io).await.map_err(|e| e.to_string())?;
                (Send::One(send), tokio::spawn(conn))
            }
            Http::Two => {
                let (send, conn) =
                    http2::handshake(TokioExecutor::new(), io).await.map_err(|e| e.to_string())?;
                (Send::Two(send), tokio::spawn(conn))
            }
        };
        Ok(Self { send, conn })
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    ///
    /// What hyper says.
    ///
    /// # Panics
    ///
    /// If there is neither within 30 s.
    pub async fn send(
        &mut self,
        request: Request<ReqBody>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        let sent = async {
            match &mut self.send {
                Send::One(send) => {
                    send.ready().await?;
                    send.send_request(to_origin(request)).await
                }
                Send::Two(send) => {
                    send.ready().await?;
                    send.send_request(to_h2(request)).await
                }
            }
        };
        within(PATIENCE, "an answer", sent).await
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    ///
    /// What failed, as text.
    pub async fn ask(&mut self, request: Request<ReqBody>) -> Result<Answer, String> {
        let response = self.send(request).await.map_err(|e| format!("{e:?}"))?;
        let (head, body) = response.into_parts();
        let read = within(PATIENCE, "the answer's body", body.collect());
        let body =
            read.await.map_err(|e| format!("{} and a body that fails: {e:?}", head.status))?;
        let trailers = body.trailers().cloned();
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes(), trailers })
    }

    /// GETs `path`.
    ///
    /// # Panics
    ///
    /// If there is no whole answer.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.ask(request("GET", path, empty())).await.unwrap()
    }

    /// POSTs `body` to `path`.
    ///
    /// # Panics
    ///
    /// If there is no whole answer.
    pub async fn post(&mut self, path: &str, body: ReqBody) -> Answer {
        self.ask(request("POST", path, body)).await.unwrap()
    }

    /// Waits until the proxy has closed the connection.
    ///
    /// # Panics
    ///
    /// If it has not within 30 s.
    pub async fn closed(self) -> Result<(), hyper::Error> {
        // Dropped, the handle would end the connection by itself.
        let _send = self.send;
        within(PATIENCE, "the end of the connection", self.conn).await.unwrap()
    }
}

/// A request to `localhost`, as a client of either version takes it.
pub fn request(method: &str, path: &str, body: ReqBody) -> Request<ReqBody> {
    request_as(method, path, &[], body)
}

/// A request to `localhost` with further header fields.
pub fn request_as(
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: ReqBody,
) -> Request<ReqBody> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// A request to `host`, which a client of HTTP/1.1 sends as its `Host`.
pub fn request_to(
    method: &str,
    host: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: ReqBody,
) -> Request<ReqBody> {
    request_as(method, &format!("https://{host}{path}"), fields, body)
}

/// No body.
pub fn empty() -> ReqBody {
    Empty::new().boxed()
}

/// A body of known length.
pub fn full(bytes: impl Into<Bytes>) -> ReqBody {
    Full::new(bytes.into()).boxed()
}

/// A body of `len` bytes that are made as they are sent, without a known length.
pub fn fill(len: u64) -> ReqBody {
    let (mut sender, body) = http_body_util::channel::Channel::new(1);
    tokio::spawn(async move {
        let block = Bytes::from(vec![b'x'; 64 * 1024]);
        let mut left = len;
        while left > 0 {
            let part = block.slice(..left.min(block.len() as u64) as usize);
            left -= part.len() as u64;
            // The request is over.
            let Ok(()) = sender.send_data(part).await else { return };
        }
    });
    body.boxed()
}

fn to_origin(mut request: Request<ReqBody>) -> Request<ReqBody> {
    let host = request.uri().authority().map_or("localhost", http::uri::Authority::as_str);
    let host = http::HeaderValue::from_str(host).unwrap();
    request.headers_mut().entry("host").or_insert(host);
    if let Some(path) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = path.into();
    }
    request
}

fn to_h2(mut request: Request<ReqBody>) -> Request<ReqBody> {
    if request.uri().authority().is_none() {
        *request.uri_mut() = format!("https://localhost{}", request.uri()).parse().unwrap();
    }
    *request.version_mut() = Version::HTTP_2;
    request
}
