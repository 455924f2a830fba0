//! The PROXY protocol, versions 1 and 2: who the client is, told by the proxy in front.
//!
//! The format is HAProxy's `proxy-protocol.txt`. [`ProxyHeader`] reads and writes it and does no
//! IO; [`AcceptProxyLayer`] reads it off connections, [`SendProxy`] and [`SendProxyLayer`] put it
//! in front of what goes to backends.

mod accept;
mod addresses;
mod dial;
mod error;
mod header;
mod send;
mod tlv;
mod v1;
mod v2;

pub use accept::{AcceptProxy, AcceptProxyFuture, AcceptProxyLayer, ProxyProtocolError};
pub use addresses::{ProxyAddresses, ProxyTransport};
pub use dial::{SendProxyError, SendProxyFuture, SendProxyHeader, SendProxyLayer};
pub use error::ProxyHeaderError;
pub use header::{Parsed, ProxyCommand, ProxyHeader, ProxyVersion};
pub use send::SendProxy;
pub use tlv::{ProxySsl, ProxyTlv, ProxyTlvs};

#[cfg(test)]
mod tests;
