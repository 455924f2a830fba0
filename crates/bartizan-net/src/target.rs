//! What is dialled.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Something that can be dialled.
pub trait Target {
    /// Where to connect to.
    fn address(&self) -> &Address;

    /// The name that the other side is expected to prove over TLS. Default: the host name of the
    /// address, if it is one.
    fn server_name(&self) -> Option<&str> {
        match self.address() {
            Address::Name { host, .. } => Some(host),
            Address::Socket(_) => None,
        }
    }
}

impl<T: Target + ?Sized> Target for Arc<T> {
    fn address(&self) -> &Address {
        (**self).address()
    }

    fn server_name(&self) -> Option<&str> {
        (**self).server_name()
    }
}

impl Target for Address {
    fn address(&self) -> &Address {
        self
    }
}

/// A host and a TCP port: `192.0.2.1:80`, `[2001:db8::1]:443` or `web1.internal:8080`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address.
    Socket(SocketAddr),
    /// A host name, resolved whenever it is dialled.
    Name {
        /// The name, as written.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
}

impl Address {
    /// The port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Socket(addr) => addr.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(addr: SocketAddr) -> Self {
        Self::Socket(addr)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(addr) = text.parse() {
            return Ok(Self::Socket(addr));
        }
        let wrong = |what| AddressError { text: text.to_owned(), what };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("there is no port"))?;
        let port = port.parse().map_err(|_| wrong("the port is not a number up to 65535"))?;
        if host.parse::<IpAddr>().is_ok() || host.contains(':') {
            return Err(wrong("an IPv6 address belongs in brackets"));
        }
        if !is_host_name(host) {
            return Err(wrong("the host is neither an address nor a name"));
        }
        Ok(Self::Name { host: host.into(), port })
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(addr) => addr.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// A text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not HOST:PORT: {what}")]
pub struct AddressError {
    text: String,
    what: &'static str,
}

/// RFC 1123 §2.1 names, and the underscore that container networks use.
fn is_host_name(host: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let dotted = host.strip_suffix('.').unwrap_or(host);
    // A last label of digits alone would be a mistyped IPv4 address.
    let last_is_number =
        dotted.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    dotted.len() <= 253 && dotted.split('.').all(label) && !last_is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_names() {
        assert_eq!("192.0.2.1:80".parse(), Ok(Address::Socket("192.0.2.1:80".parse().unwrap())));
        assert_eq!("[::1]:80".parse(), Ok(Address::Socket("[::1]:80".parse().unwrap())));
        let name = Address::Name { host: "web_1.internal".into(), port: 8080 };
        assert_eq!("web_1.internal:8080".parse(), Ok(name.clone()));
        assert_eq!(name.to_string(), "web_1.internal:8080");
        assert_eq!(name.server_name(), Some("web_1.internal"));
    }

    #[test]
    fn says_what_is_wrong_with_an_address() {
        for (text, what) in [
            ("web1", "no port"),
            ("web1:http", "not a number"),
            ("web1:65536", "not a number"),
            ("::1:80", "brackets"),
            ("192.0.2.256:80", "neither"),
            ("-web:80", "neither"),
            (":80", "neither"),
            ("a..b:80", "neither"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(text), "{text}: {error}");
        }
    }
}
