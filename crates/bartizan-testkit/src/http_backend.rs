//! A web server that behaves: HTTP/1.1 with keep-alive, bodies of any length, trailers.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /` | the backend's name and a newline |
//! | `GET /b/N` | `N` bytes with `Content-Length` |
//! | `GET /chunked/N` | `N` bytes without it |
//! | `POST /count` | how many bytes the body had; they are discarded as they come |
//! | `POST /echo` | the body, sent back as it comes |
//! | `GET`, `POST /headers` | the request line and the headers as they arrived, one per line |
//! | `GET /slow/MS` | the name, after `MS` milliseconds of tokio's time |
//! | `GET /status/CODE` | that status and no body; 200 to 999 |
//! | `GET /trailers` | the name, then the trailer `x-trailer: name` if the request has `TE: trailers` |
//! | anything else | 404 |
//!
//! Every answer has the header `x-backend: name`. `HEAD` goes where `GET` goes. No body is ever
//! held in memory as a whole.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::fill::Fill;
use crate::listen::{Acceptor, Counter, Counts, bind};

/// A running backend. Dropping it closes its listener and its connections.
#[derive(Debug)]
pub struct HttpBackend {
    acceptor: Acceptor,
    shared: Arc<Shared>,
}

impl HttpBackend {
    /// Starts a backend on a free port of 127.0.0.1. It accepts as soon as this returns.
    ///
    /// # Panics
    ///
    /// If `name` cannot be the value of a header.
    pub async fn start(name: &str) -> Self {
        Self::start_on((Ipv4Addr::LOCALHOST, 0).into(), name).await
    }

    /// Starts a backend on `addr`, where another may have been stopped a moment ago.
    ///
    /// # Panics
    ///
    /// If the address is taken, or `name` cannot be the value of a header.
    pub async fn start_on(addr: SocketAddr, name: &str) -> Self {
        let counter = Counter::new();
        let shared = Arc::new(Shared {
            name: HeaderValue::from_str(name).unwrap(),
            counter: counter.clone(),
            seen: Mutex::default(),
        });
        let service = shared.clone();
        let acceptor =
            Acceptor::spawn(bind(addr), counter, move |stream| serve(stream, service.clone()));
        Self { acceptor, shared }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.acceptor.addr()
    }

    /// The name that it answers with.
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// `http://`, its address, and `path`, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> u64 {
        self.counts().connections
    }

    /// How many request heads it has received.
    pub fn requests(&self) -> u64 {
        self.counts().requests
    }

    /// What it has counted so far.
    pub fn counts(&self) -> Counts {
        self.acceptor.counter().counts()
    }

    /// Waits until the counts satisfy `condition`, and returns them.
    ///
    /// Cancel safe.
    pub async fn until(&self, condition: impl FnMut(&Counts) -> bool) -> Counts {
        self.acceptor.counter().until(condition).await
    }

    /// The heads of the last 64 requests, oldest first. A request that was counted is among them.
    pub fn seen(&self) -> Vec<Head> {
        self.shared.seen.lock().unwrap().iter().cloned().collect()
    }

    /// Closes the listener and all connections at once, whatever they are doing.
    ///
    /// When it returns the port refuses, and can be bound again.
    pub async fn stop(self) {
        self.acceptor.stop().await;
    }
}

/// The head of a request as a backend received it.
///
/// Displayed, it is the request line and the headers, each on a line of its own. Header names are
/// in lower case, whatever was sent.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The request target.
    pub uri: Uri,
    /// The version of HTTP.
    pub version: Version,
    /// The headers, in the order in which they arrived.
    pub headers: HeaderMap,
}

impl Head {
    /// The first value of the header `name`.
    ///
    /// # Panics
    ///
    /// If the value is not visible ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    fn new(parts: &request::Parts) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            headers: parts.headers.clone(),
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {} {:?}", self.method, self.uri, self.version)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        Ok(())
    }
}

/// What the connections of one backend share.
#[derive(Debug)]
struct Shared {
    name: HeaderValue,
    counter: Counter,
    seen: Mutex<VecDeque<Head>>,
}

impl Shared {
    fn name(&self) -> &str {
        // It was made from a `str`, but might hold what `to_str` refuses.
        std::str::from_utf8(self.name.as_bytes()).unwrap()
    }

    fn record(&self, head: Head) {
        let mut seen = self.seen.lock().unwrap();
        if seen.len() == SEEN {
            seen.pop_front();
        }
        seen.push_back(head);
        drop(seen);
        // After the head, so that who waits for the count finds it.
        self.counter.request();
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
        let (parts, body) = request.into_parts();
        let head = Head::new(&parts);
        self.record(head.clone());
        let mut response = match head.method {
            Method::GET | Method::HEAD => self.read(&head).await,
            Method::POST => self.write(&head, body).await?,
            _ => status(StatusCode::NOT_FOUND),
        };
        response.headers_mut().insert(X_BACKEND, self.name.clone());
        Ok(response)
    }

    /// Answers a GET.
    async fn read(&self, head: &Head) -> Response<Body> {
        let path = head.uri.path();
        if path == "/" {
            self.named()
        } else if let Some(len) = number(path, "/b/") {
            bytes(Fill::sized(len))
        } else if let Some(len) = number(path, "/chunked/") {
            bytes(Fill::chunked(len))
        } else if path == "/headers" {
            text(head.to_string())
        } else if let Some(ms) = number(path, "/slow/") {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            self.named()
        } else if let Some(code) = number(path, "/status/").filter(|code: &u16| *code >= 200) {
            StatusCode::from_u16(code).map_or_else(|_| status(StatusCode::NOT_FOUND), status)
        } else if path == "/trailers" {
            self.with_trailers()
        } else {
            status(StatusCode::NOT_FOUND)
        }
    }

    /// Answers a POST.
    async fn write(&self, head: &Head, body: Incoming) -> Result<Response<Body>, hyper::Error> {
        Ok(match head.uri.path() {
            "/echo" => Response::new(body.boxed()),
            "/count" => text(format!("{}\n", count(body).await?)),
            "/headers" => {
                // An unread body would cost the connection.
                count(body).await?;
                text(head.to_string())
            }
            _ => status(StatusCode::NOT_FOUND),
        })
    }

    fn named(&self) -> Response<Body> {
        text(format!("{}\n", self.name()))
    }

    fn with_trailers(&self) -> Response<Body> {
        let trailers = HeaderMap::from_iter([(X_TRAILER, self.name.clone())]);
        let body = Full::from(format!("{}\n", self.name()))
            .with_trailers(async { Some(Ok(trailers)) })
            .map_err(|e: Infallible| match e {})
            .boxed();
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        // The body still tells its length, and a body sent with a length has no trailers.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        // hyper sends only those trailers that this names.
        headers.insert(TRAILER, HeaderValue::from_static("x-trailer"));
        response
    }
}

type Body = BoxBody<Bytes, hyper::Error>;

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(|request| shared.answer(request));
    // A client that breaks off is what some tests are about; the others see it on their side.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn count(mut body: Incoming) -> Result<u64, hyper::Error> {
    let mut count = 0;
    while let Some(frame) = body.frame().await {
        count += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(count)
}

fn number<N: FromStr>(path: &str, prefix: &str) -> Option<N> {
    path.strip_prefix(prefix)?.parse().ok()
}

fn text(text: String) -> Response<Body> {
    let body = Full::from(text).map_err(|e| match e {}).boxed();
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn bytes(body: Fill) -> Response<Body> {
    Response::new(body.map_err(|e| match e {}).boxed())
}

fn status(code: StatusCode) -> Response<Body> {
    let mut response = bytes(Fill::sized(0));
    *response.status_mut() = code;
    response
}

const X_BACKEND: HeaderName = HeaderName::from_static("x-backend");
const X_TRAILER: HeaderName = HeaderName::from_static("x-trailer");

/// Enough to look back over any test, little enough for hours of load.
const SEEN: usize = 64;

#[cfg(test)]
mod tests;
