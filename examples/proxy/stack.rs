//! What happens to a connection, put together out of layers.
//!
//! ```text
//! AcceptProxy ▸ SourceLimit ▸ ClientHello ▸ HostRouter ─┬▸ TlsTerminate ▸ ServeHttp ▸ … ▸ Balance ▸ HttpPool [▸ TlsOriginate]
//!                                                       ├▸ Balance ▸ Tunnel
//!                                                       └▸ RejectTls
//! ```
//!
//! What no flag asks for is left out: without routes, for instance, no ClientHello is looked at.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bartizan::http::ServeHttpError;
use bartizan::net::{
    AcceptProxyLayer, BoxError, ClientHelloLayer, DialledStream, HostRouter, LocalBoxConnService,
    RejectTls, Replay, RouteError, SendProxyHeader, SendProxyLayer, TunnelLayer,
};
use bartizan::prelude::*;
use bartizan::tls::TlsOriginateLayer;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

use crate::balancing::{AnyPolicy, Balanced};
use crate::cli::{Cli, Mode};
use crate::routes::{Action, Routed};

/// A stream of which anything that was read is read again.
type Io = Replay<TcpStream>;
type Connections = LocalBoxConnService<Io>;

/// What each worker makes its services of.
#[derive(Clone)]
pub(crate) struct Parts {
    cli: Cli,
    /// None where TLS ends nowhere here. One for all workers: its cap on handshakes is for the
    /// process.
    tls: Option<TlsTerminateLayer>,
    /// Set where TLS starts again. One for all workers: they share sessions.
    upstream: Option<TlsOriginateLayer>,
    /// The backends of `--backend`.
    own: Balanced,
    /// Those of routes.
    routed: Vec<(Routed, Balanced)>,
}

impl Parts {
    /// Finds out whether routes contradict each other.
    pub(crate) fn new(
        cli: Cli,
        certs: Option<CertStore>,
        upstream: Option<TlsOriginateLayer>,
        own: Balanced,
        routed: Vec<(Routed, Balanced)>,
    ) -> Result<Self, RouteError> {
        let routes = &cli.passthrough.routes;
        let mut hosts = routes.iter().map(|route| route.host.to_string());
        hosts.try_fold(HostRouter::new(()), |router, host| router.route([host], ()))?;
        let tls = certs
            .map(|certs| TlsTerminateLayer::new(certs).handshake_timeout(cli.timeout_handshake));
        Ok(Self { cli, tls, upstream, own, routed })
    }

    pub(crate) fn grace(&self) -> Duration {
        self.cli.drain
    }

    /// The services of one worker.
    pub(crate) fn stack(&self, worker: usize) -> LocalBoxConnService<TcpStream> {
        let mut connections = self.routed(worker);
        if let Some(limit) = &self.cli.passthrough.limit_source {
            connections = LocalBoxConnService::new(limit.layer(connections));
        }
        let trusted = &self.cli.passthrough.accept_proxy;
        if trusted.is_empty() {
            let unread = |conn: Conn<TcpStream>| conn.map_io(|tcp| Replay::new(Bytes::new(), tcp));
            return LocalBoxConnService::new(connections.map_request(unread));
        }
        let accept = AcceptProxyLayer::new().timeout(self.cli.timeout_handshake);
        let accept = trusted.iter().fold(accept, |accept, net| accept.required(*net));
        LocalBoxConnService::new(accept.layer(connections))
    }

    fn routed(&self, worker: usize) -> Connections {
        let reject = LocalBoxConnService::new(RejectTls::new());
        let terminate = self.cli.ends_in_the_clear().then(|| self.end(&self.own, worker, None));
        let otherwise = match self.cli.mode {
            _ if self.cli.backend.is_empty() => reject.clone(),
            Mode::Terminate => terminate.clone().unwrap_or_else(|| reject.clone()),
            Mode::Reencrypt => self.end(&self.own, worker, self.upstream.as_ref()),
            Mode::Passthrough => self.pass(&self.own, worker),
        };
        if self.cli.passthrough.routes.is_empty() && !self.passes_by_name() {
            return otherwise;
        }
        let router = self.router(worker, otherwise, terminate, reject).expect("checked at start");
        let routed = router.map_request(|conn: Conn<Replay<Io>>| conn.map_io(Replay::flatten));
        let hello = ClientHelloLayer::new().timeout(self.cli.timeout_handshake);
        LocalBoxConnService::new(hello.layer(routed))
    }

    /// Whether backends are chosen by the name in a ClientHello that passes.
    fn passes_by_name(&self) -> bool {
        self.cli.mode == Mode::Passthrough && self.own.wants_server_name()
    }

    fn router(
        &self,
        worker: usize,
        otherwise: Connections,
        terminate: Option<Connections>,
        reject: Connections,
    ) -> Result<HostRouter<Connections>, RouteError> {
        let hosts = |action: &Action| {
            let routes = self.cli.passthrough.routes.iter();
            let same = routes.filter(|route| route.action == *action);
            same.map(|route| route.host.to_string()).collect::<Vec<_>>()
        };
        let mut router = HostRouter::new(otherwise).route(hosts(&Action::Reject), reject)?;
        let here = hosts(&Action::Terminate);
        router = match terminate {
            // One route with everything else: a browser may use one connection for both.
            Some(_) if self.cli.mode == Mode::Terminate => router.except(here)?,
            Some(terminate) => router.route(here, terminate)?,
            None => router,
        };
        for (Routed { host, reencrypts, .. }, balanced) in &self.routed {
            let service = match reencrypts {
                true => self.end(balanced, worker, self.upstream.as_ref()),
                false => self.pass(balanced, worker),
            };
            router = router.route([host.to_string()], service)?;
        }
        Ok(router)
    }

    /// TLS ends here, and what is in it goes to the backends: in the clear, or in TLS again.
    fn end(
        &self,
        balanced: &Balanced,
        worker: usize,
        upstream: Option<&TlsOriginateLayer>,
    ) -> Connections {
        match upstream.cloned() {
            Some(upstream) => self.http(balanced, worker, move |dial| upstream.layer(dial)),
            None => self.http(balanced, worker, |dial| dial),
        }
    }

    fn http<D>(
        &self,
        balanced: &Balanced,
        worker: usize,
        over: impl Fn(SendProxyHeader<TcpDial>) -> D + Clone + 'static,
    ) -> Connections
    where
        D: Service<Arc<Backend>, Response: DialledStream, Error: Into<BoxError>, Future: Send>,
        D: Clone + Send + 'static,
    {
        let Some(tls) = &self.tls else { return LocalBoxConnService::new(RejectTls::new()) };
        let policy = balanced.policy(worker);
        let tcp = TcpDial::new().connect_timeout(self.cli.timeout_connect);
        let dial = move |header| over(SendProxyLayer::new(header).layer(tcp));
        let Some(send) = self.cli.passthrough.send_proxy.clone() else {
            let serve = self.serve(balanced, policy, dial(Bytes::new()));
            return LocalBoxConnService::new(tls.layer(serve));
        };
        // Connections to backends are one client's, then: their header says whose. Whose turn it is
        // among the backends goes on from client to client all the same.
        let (parts, balanced) = (Rc::new(self.clone()), Rc::new(balanced.clone()));
        let serve = service_fn(move |conn: Conn<_>| {
            let dial = dial(send.header_for(conn.info()));
            parts.serve(&balanced, Arc::clone(&policy), dial).oneshot(conn)
        });
        LocalBoxConnService::new(tls.layer(serve))
    }

    /// HTTP, over connections to backends that `dial` makes.
    fn serve<IO, D>(
        &self,
        balanced: &Balanced,
        policy: AnyPolicy,
        dial: D,
    ) -> impl Service<Conn<IO>, Error = ServeHttpError, Future: 'static> + Clone + 'static + use<IO, D>
    where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
        D: Service<Arc<Backend>, Response: DialledStream, Error: Into<BoxError>, Future: Send>,
        D: Clone + Send + 'static,
    {
        let cli = &self.cli;
        let pool = HttpPoolLayer::new()
            .protocol(cli.upstream.proto.into())
            .settings_timeout(cli.timeout_connect)
            .response_timeout(cli.timeout_server);
        let requests = ServiceBuilder::new()
            .layer(HostGuardLayer::new())
            .layer(ForwardedLayer::new())
            .layer(client_cert(cli))
            .option_layer(balanced.cookie())
            .layer(balanced.requests(policy))
            .layer(pool)
            .service(dial);
        ServeHttp::new(requests)
            .header_timeout(cli.timeout_header)
            .client_timeout(cli.timeout_client)
            .keep_alive_timeout(cli.timeout_keepalive)
    }

    fn pass(&self, balanced: &Balanced, worker: usize) -> Connections {
        let mut tunnel = TunnelLayer::new().idle_timeout(self.cli.passthrough.timeout_tunnel);
        if let Some(send) = &self.cli.passthrough.send_proxy {
            tunnel = tunnel.send_proxy(send.clone());
        }
        let balance = balanced.connections(balanced.policy(worker));
        let dial = TcpDial::new().connect_timeout(self.cli.timeout_connect);
        LocalBoxConnService::new(ServiceBuilder::new().layer(balance).layer(tunnel).service(dial))
    }
}

/// Backends may believe what they read of client certificates: what clients send there goes.
fn client_cert(cli: &Cli) -> ClientCertLayer {
    match &cli.client_auth.cn_header {
        Some(field) => ClientCertLayer::only_common_name(field.clone()),
        None => ClientCertLayer::strip_only(),
    }
}
