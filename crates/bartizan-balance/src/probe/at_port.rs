//! Dialling another port of a backend.

use std::sync::Arc;
use std::task::{Context, Poll};

use bartizan_net::{Address, Target};
use tower_service::Service;

use crate::Backend;

/// A dial service that dials another port of each backend: HAProxy's `port` and `agent-port`.
///
/// The name that is expected over TLS stays the backend's.
///
/// ```no_run
/// use bartizan_balance::{AgentProbe, AtPort, Checks, Cluster};
/// use bartizan_net::TcpDial;
///
/// # async fn run(web: Cluster) {
/// let _checks = web.check(Checks::agent(AgentProbe::new(AtPort::new(9707, TcpDial::new()))));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct AtPort<D> {
    port: u16,
    dial: D,
}

impl<D> AtPort<D> {
    /// Dials `port` with `dial`.
    pub fn new(port: u16, dial: D) -> Self {
        Self { port, dial }
    }
}

impl<D: Service<OtherPort>> Service<Arc<Backend>> for AtPort<D> {
    type Response = D::Response;
    type Error = D::Error;
    type Future = D::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), D::Error>> {
        self.dial.poll_ready(cx)
    }

    fn call(&mut self, backend: Arc<Backend>) -> Self::Future {
        self.dial.call(OtherPort::new(backend, self.port))
    }
}

/// Another port of a backend.
#[derive(Clone, Debug)]
pub struct OtherPort {
    backend: Arc<Backend>,
    address: Address,
}

impl OtherPort {
    /// This port of `backend`.
    pub fn new(backend: Arc<Backend>, port: u16) -> Self {
        let mut address = backend.address().clone();
        match &mut address {
            Address::Socket(addr) => addr.set_port(port),
            Address::Name { port: number, .. } => *number = port,
            // A kind of address without a port is dialled as it is.
            _ => {}
        }
        Self { backend, address }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
}

impl Target for OtherPort {
    fn address(&self) -> &Address {
        &self.address
    }

    fn server_name(&self) -> Option<&str> {
        self.backend.server_name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_port_is_another() {
        for (at, there) in [("192.0.2.1:80", "192.0.2.1:9707"), ("web1.test:80", "web1.test:9707")]
        {
            let backend = Backend::new("a", at.parse().unwrap()).with_server_name("shop.test");
            let other = OtherPort::new(Arc::new(backend), 9707);
            assert_eq!(other.address().to_string(), there);
            assert_eq!(other.server_name(), Some("shop.test"));
            assert_eq!(other.backend().address().to_string(), at);
        }
    }
}
