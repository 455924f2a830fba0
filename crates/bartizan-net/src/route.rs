//! One decision for each connection: where it goes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Request;
use pin_project_lite::pin_project;
use tower::util::Oneshot;
use tower_service::Service;

use crate::{BoxError, Conn, ConnInfo};

mod boxed;
mod decide;
mod plan;

pub use boxed::{BoxConnService, LocalBoxConnService};
pub use decide::{Decide, DecideError, DecideFuture};
pub use plan::RouteError;

use plan::{Plan, RouteScope, host_of};

/// Sends each connection to one of several services, by the name that its ClientHello asks for; or
/// each request, by its host.
///
/// An exact name comes before a wildcard (`*.example.com` stands for one label), a wildcard before
/// what [`new`](Self::new) was given, where everything else goes: other names, no name, and what is
/// not TLS unless [`not_tls`](Self::not_tls) says otherwise.
///
/// Behind [`ClientHelloLayer`](crate::ClientHelloLayer) it is a connection service, and terminating,
/// passing on and [refusing](crate::RejectTls) go behind one port. Under `ServeHttp` it is a request
/// service and routes by `:authority` or `Host`, which the `HostGuardLayer` before it has found good.
///
/// A browser that has an HTTP/2 connection uses it for other names that its certificate covers, too
/// (RFC 9113 §9.1.1), and over a wildcard these may have another route. So a connection that was
/// routed by name permits only hosts that would have got the same route
/// ([`HostScope`](crate::HostScope)), and `HostGuardLayer` answers 421 to others. Names have the same
/// route if they were given in one call, or go where everything else goes.
///
/// Services of one type are given as they are, of several types as [`BoxConnService`].
///
/// ```
/// # use bartizan_net::{Conn, HostRouter, RouteError, RejectTls};
/// # fn example() -> Result<(), RouteError> {
/// # let (alone, together) = (RejectTls::new(), RejectTls::new());
/// let router = HostRouter::new(RejectTls::new())
///     .route(["shop.example.com"], alone)?
///     .route(["example.com", "*.example.com"], together)?;
/// # Ok(()) }
/// # example().unwrap();
/// ```
///
/// Always ready: which service has to be ready is known with the connection, and waited for then.
pub struct HostRouter<S> {
    plan: Arc<Plan>,
    services: Arc<Vec<S>>,
}

impl<S: Clone> HostRouter<S> {
    /// Sends everything to `otherwise`, until routes are added.
    pub fn new(otherwise: S) -> Self {
        Self { plan: Arc::new(Plan::new()), services: Arc::new(vec![otherwise]) }
    }

    /// Sends connections for these names to `service`.
    ///
    /// # Errors
    ///
    /// [`RouteError`] if one of them is no name, or has a route already.
    pub fn route<N>(
        self,
        hosts: impl IntoIterator<Item = N>,
        service: S,
    ) -> Result<Self, RouteError>
    where
        N: AsRef<str>,
    {
        self.add(hosts, None, service)
    }

    /// Sends connections for these names that offer `protocol` by ALPN to `service`.
    ///
    /// Of several such routes for a name, the client's first choice decides; one of them comes
    /// before the route for the name alone. For requests they do not count.
    ///
    /// # Errors
    ///
    /// [`RouteError`] if one of them is no name, or has a route for the protocol already.
    pub fn route_alpn<N>(
        self,
        hosts: impl IntoIterator<Item = N>,
        protocol: impl AsRef<[u8]>,
        service: S,
    ) -> Result<Self, RouteError>
    where
        N: AsRef<str>,
    {
        self.add(hosts, Some(protocol.as_ref()), service)
    }

    /// Sends these names where everything else goes, although a wildcard stands for them.
    ///
    /// # Errors
    ///
    /// [`RouteError`] if one of them is no name, or has a route already.
    pub fn except<N: AsRef<str>>(
        mut self,
        hosts: impl IntoIterator<Item = N>,
    ) -> Result<Self, RouteError> {
        let plan = Arc::make_mut(&mut self.plan);
        for host in hosts {
            plan.add(host.as_ref(), None, OTHERWISE)?;
        }
        Ok(self)
    }

    /// Sends connections that are not TLS to `service`.
    pub fn not_tls(mut self, service: S) -> Self {
        let place = self.push(service);
        Arc::make_mut(&mut self.plan).set_not_tls(place);
        self
    }

    fn add<N: AsRef<str>>(
        mut self,
        hosts: impl IntoIterator<Item = N>,
        protocol: Option<&[u8]>,
        service: S,
    ) -> Result<Self, RouteError> {
        let place = self.push(service);
        let plan = Arc::make_mut(&mut self.plan);
        for host in hosts {
            plan.add(host.as_ref(), protocol, place)?;
        }
        Ok(self)
    }

    fn push(&mut self, service: S) -> usize {
        let services = Arc::make_mut(&mut self.services);
        services.push(service);
        services.len() - 1
    }

    fn service(&self, place: usize) -> S {
        self.services[place].clone()
    }
}

impl<S> Clone for HostRouter<S> {
    fn clone(&self) -> Self {
        Self { plan: Arc::clone(&self.plan), services: Arc::clone(&self.services) }
    }
}

impl<S> fmt::Debug for HostRouter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostRouter").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl<S, IO> Service<Conn<IO>> for HostRouter<S>
where
    S: Service<Conn<IO>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RouteFuture<S, Conn<IO>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut conn: Conn<IO>) -> Self::Future {
        let place = self.plan.of_connection(conn.info());
        if is_tls(conn.info()) {
            let scope = RouteScope::new(Arc::clone(&self.plan), conn.info(), place);
            conn.info_mut().add_host_scope(Arc::new(scope));
        }
        RouteFuture { answer: Oneshot::new(self.service(place), conn) }
    }
}

impl<S, B> Service<Request<B>> for HostRouter<S>
where
    S: Service<Request<B>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = RouteFuture<S, Request<B>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let place = self.plan.of_host(host_of(&request));
        RouteFuture { answer: Oneshot::new(self.service(place), request) }
    }
}

fn is_tls(info: &ConnInfo) -> bool {
    info.client_hello().is_some() || info.tls().is_some()
}

pin_project! {
    /// Resolves to the answer of the service that a [`HostRouter`] has chosen.
    #[must_use = "futures do nothing unless polled"]
    pub struct RouteFuture<S: Service<Req>, Req> {
        #[pin]
        answer: Oneshot<S, Req>,
    }
}

impl<S: Service<Req>, Req> fmt::Debug for RouteFuture<S, Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteFuture").finish_non_exhaustive()
    }
}

impl<S, Req> Future for RouteFuture<S, Req>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.project().answer.poll(cx));
        Poll::Ready(answer.map_err(Into::into))
    }
}

/// Where the service is that everything else goes to.
const OTHERWISE: usize = 0;

#[cfg(test)]
mod tests;
