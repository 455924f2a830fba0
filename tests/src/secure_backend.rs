//! HTTP servers over TLS, as backends are.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bartizan_testkit::{Minted, TestCa};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, ServerConfig, SupportedProtocolVersion};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A running HTTP server over TLS, which speaks what ALPN agrees on.
///
/// `/count` answers with the length of the request's body, `/big` with 1 MiB, `/trailers` with a
/// trailer `x-trailer: yes`, everything else with the server's name. What it presents and whom it
/// asks for certificates can be changed; open connections go on as they were made. Dropping it
/// closes its listener and its connections.
#[derive(Debug)]
pub struct SecureBackend {
    addr: SocketAddr,
    shared: Arc<Shared>,
    task: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    config: Mutex<Arc<ServerConfig>>,
    full: AtomicU64,
    resumed: AtomicU64,
    failed: AtomicU64,
    requests: AtomicU64,
    open: AtomicU64,
    most_open: AtomicU64,
    // Requests by the DER of the client's certificate; an empty one for none.
    clients: Mutex<BTreeMap<Vec<u8>, u64>>,
    heads: Mutex<Vec<(http::Version, String, HeaderMap)>>,
}

/// What a [`SecureBackend`] presents and asks for.
#[derive(Clone, Debug)]
pub struct Presents<'a> {
    identity: &'a Minted,
    clients: Option<&'a TestCa>,
    more_clients: Vec<&'a TestCa>,
    alpn: Vec<Vec<u8>>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl<'a> Presents<'a> {
    /// This certificate, over TLS 1.2 or 1.3, HTTP/2 or HTTP/1.1, to anybody.
    pub fn new(identity: &'a Minted) -> Self {
        let alpn = [b"h2".as_slice(), b"http/1.1"].map(<[u8]>::to_vec).into();
        let versions = vec![&rustls::version::TLS13, &rustls::version::TLS12];
        Self { identity, clients: None, more_clients: Vec::new(), alpn, versions }
    }

    /// To those alone who have a certificate of one of the authorities given so.
    pub fn requires(mut self, clients: &'a TestCa) -> Self {
        match self.clients {
            None => self.clients = Some(clients),
            Some(_) => self.more_clients.push(clients),
        }
        self
    }

    /// With this protocol alone.
    pub fn only(self, protocol: &str) -> Self {
        Self { alpn: vec![protocol.as_bytes().to_vec()], ..self }
    }

    /// Over this version of TLS alone.
    pub fn version(self, version: &'static SupportedProtocolVersion) -> Self {
        Self { versions: vec![version], ..self }
    }

    fn config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&self.versions)
            .unwrap();
        let builder = match self.clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = ca.roots();
                for more in &self.more_clients {
                    roots.extend(more.roots().roots);
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let identity = self.identity;
        let mut config =
            builder.with_single_cert(identity.chain_der(), identity.key_der()).unwrap();
        config.alpn_protocols.clone_from(&self.alpn);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        Arc::new(config)
    }
}

impl SecureBackend {
    /// Starts it on a port of loopback.
    ///
    /// # Panics
    ///
    /// If it cannot.
    pub async fn start(name: &str, presents: &Presents<'_>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            config: Mutex::new(presents.config()),
            full: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            open: AtomicU64::new(0),
            most_open: AtomicU64::new(0),
            clients: Mutex::default(),
            heads: Mutex::default(),
        });
        let mut task = JoinSet::new();
        task.spawn(accept(listener, Arc::clone(&shared)));
        Self { addr, shared, task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What whoever connects from now on meets.
    pub fn present(&self, presents: &Presents<'_>) {
        *lock(&self.shared.config) = presents.config();
    }

    /// Handshakes that were completed: full ones, resumed ones; and those that failed.
    pub fn handshakes(&self) -> (u64, u64, u64) {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        (count(&self.shared.full), count(&self.shared.resumed), count(&self.shared.failed))
    }

    /// Requests that have arrived.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Open connections, and the most that there were at once.
    pub fn connections(&self) -> (u64, u64) {
        let Shared { open, most_open, .. } = &*self.shared;
        (open.load(Ordering::SeqCst), most_open.load(Ordering::SeqCst))
    }

    /// Requests that came over connections made with this client certificate; `None`: with none.
    pub fn requests_of(&self, client: Option<&Minted>) -> u64 {
        let key = client.map_or_else(Vec::new, |minted| minted.cert_der().to_vec());
        lock(&self.shared.clients).get(&key).copied().unwrap_or_default()
    }

    /// Version, target and header of each request, in the order of arrival.
    pub fn heads(&self) -> Vec<(http::Version, String, HeaderMap)> {
        lock(&self.shared.heads).clone()
    }

    /// Closes everything at once.
    pub async fn stop(mut self) {
        self.task.shutdown().await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                connections.spawn(serve(tcp, Arc::clone(&shared)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(tcp: TcpStream, shared: Arc<Shared>) {
    let _ = tcp.set_nodelay(true);
    let config = Arc::clone(&lock(&shared.config));
    let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else {
        shared.failed.fetch_add(1, Ordering::SeqCst);
        return;
    };
    let session = tls.get_ref().1;
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let counter = if resumed { &shared.resumed } else { &shared.full };
    counter.fetch_add(1, Ordering::SeqCst);
    let client = session.peer_certificates().map_or_else(Vec::new, |chain| chain[0].to_vec());
    let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most_open.fetch_max(open, Ordering::SeqCst);
    let service = service_fn(|request| {
        let shared = Arc::clone(&shared);
        *lock(&shared.clients).entry(client.clone()).or_default() += 1;
        async move { Ok::<_, Infallible>(answer(&shared, request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    // A client that goes away is its own affair.
    let _ = builder.serve_connection(TokioIo::new(tls), service).await;
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    lock(&shared.heads).push((head.version, head.uri.to_string(), head.headers));
    let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
    let text = |text: String| Full::new(Bytes::from(text)).boxed_unsync();
    let body = match path.as_str() {
        "/count" => text(length.to_string()),
        "/big" => text("b".repeat(1024 * 1024)),
        "/trailers" => {
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("x-trailer"),
                http::HeaderValue::from_static("yes"),
            )]);
            let frames = [Frame::data(Bytes::from(shared.name.clone())), Frame::trailers(trailers)];
            let frames = frames.map(Ok::<_, Infallible>);
            StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
        }
        _ => text(shared.name.clone()),
    };
    let mut response = Response::new(body);
    if let Ok(name) = shared.name.parse() {
        response.headers_mut().insert("x-backend", name);
    }
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
