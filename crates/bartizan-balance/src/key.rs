//! What requests, and clients, are told apart by.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use bartizan_net::HasConnInfo;
use twox_hash::XxHash3_64;

use crate::{Affinity, Tie};

/// The key of a request or a connection, for hashes and for stick tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Key<'a> {
    /// An address, or the network that it is in.
    Ip(IpAddr),
    /// A text or other bytes.
    Bytes(Cow<'a, [u8]>),
}

impl Key<'_> {
    /// XXH3 (64 bits, seed 0) of the address' 4 or 16 bytes, or of the bytes: the same on every
    /// machine, and in every version.
    pub fn hash(&self) -> u64 {
        match self {
            Self::Ip(IpAddr::V4(ip)) => XxHash3_64::oneshot(&ip.octets()),
            Self::Ip(IpAddr::V6(ip)) => XxHash3_64::oneshot(&ip.octets()),
            Self::Bytes(bytes) => XxHash3_64::oneshot(bytes),
        }
    }
}

/// Reads the key of a request, or of a connection.
///
/// Also for closures that return text: `|request: &http::Request<B>| Some(…)`; see [`key_fn`].
pub trait KeyOf<Req> {
    /// The key; none if the request has none.
    fn key<'r>(&self, request: &'r Req) -> Option<Key<'r>>;

    /// The hash of the key, for policies of hashes. Default: [`Key::hash`].
    fn hash(&self, request: &Req) -> Option<u64> {
        self.key(request).map(|key| key.hash())
    }
}

/// The client's address, as [`ConnInfo`](bartizan_net::ConnInfo) has it: that of a PROXY header, if
/// one was accepted. An IPv4 address mapped to IPv6 is the IPv4 address.
///
/// By default each IPv4 address is a key, and each IPv6 /64: a household has as many addresses of
/// its /64 as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceKey {
    v4: u8,
    v6: u8,
}

impl SourceKey {
    /// IPv4 /32 and IPv6 /64.
    pub const fn new() -> Self {
        Self { v4: 32, v6: 64 }
    }

    /// Takes this many leading bits of IPv4 addresses; above 32 counts as 32. nginx's `ip_hash` takes
    /// 24.
    pub const fn v4_prefix(self, bits: u8) -> Self {
        Self { v4: if bits > 32 { 32 } else { bits }, ..self }
    }

    /// Takes this many leading bits of IPv6 addresses; above 128 counts as 128, which is what HAProxy
    /// takes.
    pub const fn v6_prefix(self, bits: u8) -> Self {
        Self { v6: if bits > 128 { 128 } else { bits }, ..self }
    }

    /// The key of this address.
    pub fn of(&self, address: IpAddr) -> Key<'static> {
        Key::Ip(match address.to_canonical() {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.v4)).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.v6)).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        })
    }
}

impl Default for SourceKey {
    fn default() -> Self {
        Self::new()
    }
}

impl<Req: HasConnInfo> KeyOf<Req> for SourceKey {
    fn key<'r>(&self, request: &'r Req) -> Option<Key<'r>> {
        Some(self.of(request.conn_info()?.peer().ip()))
    }
}

/// The server name that the client asked for over TLS, in lower case: from the handshake where TLS
/// has ended, else from the ClientHello if that was read.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SniKey;

impl SniKey {
    /// The only one.
    pub const fn new() -> Self {
        Self
    }
}

impl<Req: HasConnInfo> KeyOf<Req> for SniKey {
    fn key<'r>(&self, request: &'r Req) -> Option<Key<'r>> {
        let info = request.conn_info()?;
        let of_hello = || info.client_hello()?.server_name();
        let name = info.tls().and_then(|tls| tls.sni.as_deref()).or_else(of_hello)?;
        let lower = match name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(name.to_ascii_lowercase().into_bytes()),
            false => Cow::Borrowed(name.as_bytes()),
        };
        Some(Key::Bytes(lower))
    }
}

/// A key by a function; see [`key_fn`].
#[derive(Clone, Copy, Debug)]
pub struct KeyFn<F>(F);

/// What `read` makes of the request.
///
/// ```
/// use bartizan_balance::{Key, KeyOf, key_fn};
///
/// let tenant = key_fn(|request: &http::Request<()>| {
///     let path = request.uri().path().split('/').nth(1)?;
///     Some(Key::Bytes(path.as_bytes().into()))
/// });
/// let request = http::Request::get("/acme/orders").body(()).unwrap();
/// assert_eq!(tenant.key(&request), Some(Key::Bytes(b"acme".into())));
/// ```
pub fn key_fn<Req, F>(read: F) -> KeyFn<F>
where
    F: for<'r> Fn(&'r Req) -> Option<Key<'r>>,
{
    KeyFn(read)
}

impl<Req, F> KeyOf<Req> for KeyFn<F>
where
    F: for<'r> Fn(&'r Req) -> Option<Key<'r>>,
{
    fn key<'r>(&self, request: &'r Req) -> Option<Key<'r>> {
        (self.0)(request)
    }
}

/// Lets policies of hashes know the key of each request.
#[derive(Clone, Copy, Debug)]
pub struct HashBy<K>(K);

impl<K> HashBy<K> {
    /// By this key.
    pub const fn new(key: K) -> Self {
        Self(key)
    }
}

impl<K: KeyOf<Req>, Req> Affinity<Req> for HashBy<K> {
    type Tie = Hashed;

    fn tie(&self, request: &Req, _: Instant) -> Hashed {
        Hashed(self.0.hash(request))
    }
}

/// The hash of a request's key.
#[derive(Clone, Copy, Debug)]
pub struct Hashed(Option<u64>);

impl Tie for Hashed {
    fn hash(&self) -> Option<u64> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use bartizan_net::{Conn, ConnInfo};

    use super::*;

    fn source(key: SourceKey, ip: &str) -> String {
        let from = std::net::SocketAddr::new(ip.parse().unwrap(), 1_234);
        let conn = Conn::new((), ConnInfo::new(from, "127.0.0.1:443".parse().unwrap()));
        match key.key(&conn) {
            Some(Key::Ip(ip)) => ip.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_source_is_an_address_or_the_network_that_was_asked_for() {
        let key = SourceKey::new();
        assert_eq!(source(key, "192.0.2.77"), "192.0.2.77");
        assert_eq!(source(key, "::ffff:192.0.2.77"), "192.0.2.77");
        assert_eq!(source(key, "2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(source(key.v6_prefix(200), "2001:db8::5"), "2001:db8::5");
        assert_eq!(source(key.v4_prefix(24), "192.0.2.77"), "192.0.2.0");
        assert_eq!(source(key.v4_prefix(0).v6_prefix(0), "192.0.2.77"), "0.0.0.0");
        assert_eq!(source(key.v6_prefix(0), "2001:db8::5"), "::");
    }

    #[test]
    fn hashes_are_those_of_the_published_function() {
        // XXH3 of nothing and of "a", from its reference implementation.
        assert_eq!(Key::Bytes(Cow::Borrowed(b"")).hash(), 0x2d06_8005_38d3_94c2);
        assert_eq!(Key::Bytes(Cow::Borrowed(b"a")).hash(), 0xe6c6_32b6_1e96_4e1f);
    }
}
