//! What is probed instead of where requests go.

use std::sync::Arc;

use bartizan_net::{Address, Target};

use crate::Backend;

/// What is probed, where that is not what requests go to: HAProxy's `addr`, `port` and `check-sni`.
///
/// The probe is given a stand-in for the backend, which has its name, and the address and server name
/// that are set here. It is made once for each member; limits, weight and what is in flight are
/// not the member's. The verdict is about the member.
///
/// Which protocols are offered by ALPN is a setting of the TLS layer in the probe's own stack
/// (`check-alpn`), as is all else that is not about where to go.
///
/// ```
/// use bartizan_balance::{Checks, ProbeTarget};
///
/// let checks = Checks::tcp().target(ProbeTarget::new().port(8081));
/// # let _ = checks;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "it is for `Checks::target`"]
pub struct ProbeTarget {
    address: Option<Address>,
    port: Option<u16>,
    server_name: Option<Arc<str>>,
}

impl ProbeTarget {
    /// The backend itself.
    pub fn new() -> Self {
        Self::default()
    }

    /// Probes at this address. One for all members: something that knows of each, or that all depend
    /// on.
    pub fn address(self, address: impl Into<Address>) -> Self {
        Self { address: Some(address.into()), ..self }
    }

    /// Probes at this port of the member's address, or of [`address`](Self::address) if that is set.
    pub fn port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    /// Expects this name over TLS. Default: the member's, wherever it is probed.
    pub fn server_name(self, name: impl Into<Arc<str>>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    /// What is to be probed for this member: itself, if nothing is set.
    pub(super) fn of(&self, member: &Arc<Backend>) -> Arc<Backend> {
        if *self == Self::default() {
            return Arc::clone(member);
        }
        let address = self.address.as_ref().unwrap_or_else(|| member.address()).clone();
        let address = match self.port {
            Some(port) => at_port(address, port),
            None => address,
        };
        let stand_in = Backend::new(Arc::clone(member.name()), address);
        Arc::new(match self.server_name.as_deref().or_else(|| member.server_name()) {
            Some(name) => stand_in.with_server_name(name),
            None => stand_in,
        })
    }
}

fn at_port(address: Address, port: u16) -> Address {
    match address {
        Address::Socket(mut addr) => {
            addr.set_port(port);
            Address::Socket(addr)
        }
        Address::Name { host, .. } => Address::Name { host, port },
        // What has no port cannot be given one.
        other => other,
    }
}
