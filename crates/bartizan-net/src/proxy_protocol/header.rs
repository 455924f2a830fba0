//! One PROXY header, of either version.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{
    ProxyAddresses, ProxyHeaderError, ProxySsl, ProxyTlv, ProxyTlvs, ProxyTransport, tlv, v1, v2,
};

/// A PROXY header: which connection the one that it begins stands for.
///
/// It owns what it holds, and takes about as much memory as it had bytes. Two headers are equal if
/// they say the same; where the checksum stood among the TLVs makes no difference.
///
/// ```
/// use bartizan_net::{Parsed, ProxyHeader};
///
/// let bytes = b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\nGET / HTTP/1.1\r\n";
/// let Parsed::Complete { header, length } = ProxyHeader::parse(bytes)? else { panic!() };
/// assert_eq!(header.endpoints().unwrap().0, "192.0.2.7:5000".parse().unwrap());
/// assert_eq!(&bytes[length..], b"GET / HTTP/1.1\r\n");
/// # Ok::<(), bartizan_net::ProxyHeaderError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    pub(super) version: ProxyVersion,
    pub(super) command: ProxyCommand,
    /// Both ends of one family, without flow labels and scopes.
    pub(super) addresses: ProxyAddresses,
    /// Well-formed, and without CRC32C, which `crc32c` stands for.
    pub(super) tlvs: Vec<u8>,
    pub(super) crc32c: bool,
}

impl ProxyHeader {
    /// A header that speaks for a connection with these ends.
    ///
    /// An IPv4 address beside an IPv6 address is mapped to IPv6, as HAProxy does. Version 1 can
    /// tell TCP alone: of anything else it says `UNKNOWN`.
    pub fn new(version: ProxyVersion, addresses: ProxyAddresses) -> Self {
        let addresses = match addresses.of_one_family() {
            tcp @ ProxyAddresses::Inet { transport: ProxyTransport::Stream, .. } => tcp,
            _ if version == ProxyVersion::V1 => ProxyAddresses::Unspecified,
            other => other,
        };
        let command = ProxyCommand::Proxy;
        Self { version, command, addresses, tlvs: Vec::new(), crc32c: false }
    }

    /// A header (version 2) that says that the connection is the sender's own, e.g. a health check.
    pub fn local() -> Self {
        let header = Self::new(ProxyVersion::V2, ProxyAddresses::Unspecified);
        Self { command: ProxyCommand::Local, ..header }
    }

    /// Reads the header at the beginning of `bytes`, of at most 4 KiB.
    ///
    /// # Errors
    ///
    /// See [`parse_within`](Self::parse_within).
    pub fn parse(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
        Self::parse_within(bytes, Self::DEFAULT_MAX_LENGTH)
    }

    /// Reads the header at the beginning of `bytes`, of at most `max_length` bytes.
    ///
    /// The limit is for all of a version 2 header, which may have up to 65,551 bytes; one of
    /// version 1 has never more than 107. What comes out does not depend on how many bytes more
    /// there are than it takes to tell.
    ///
    /// Version 2: the block of a `LOCAL` header is skipped unread, as the specification wants it.
    /// A CRC32C is checked where there is one. A header whose family is unspecified may have TLVs,
    /// which then follow at once.
    ///
    /// # Errors
    ///
    /// If the bytes begin as a PROXY header does, and are not one, or too long a one.
    pub fn parse_within(bytes: &[u8], max_length: usize) -> Result<Parsed, ProxyHeaderError> {
        match Detected::of(bytes) {
            Detected::Nothing => Ok(Parsed::NotProxy),
            Detected::Prefix => {
                Ok(Parsed::Incomplete { more: MIN_LENGTH.saturating_sub(bytes.len()).max(1) })
            }
            Detected::V1 => v1::parse(bytes),
            Detected::V2 => v2::parse(bytes, max_length),
        }
    }

    /// The version that it was written in, or is to be written in.
    pub fn version(&self) -> ProxyVersion {
        self.version
    }

    /// Whether it speaks for another connection.
    pub fn command(&self) -> ProxyCommand {
        self.command
    }

    /// The ends of the connection that it speaks for, as written. `LOCAL` headers have none.
    pub fn addresses(&self) -> &ProxyAddresses {
        &self.addresses
    }

    /// Source and destination, if it speaks for a connection over TCP or UDP.
    pub fn endpoints(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self.addresses {
            ProxyAddresses::Inet { source, destination, .. } => Some((source, destination)),
            _ => None,
        }
    }

    /// All TLVs in their order, without CRC32C.
    pub fn tlvs(&self) -> ProxyTlvs<'_> {
        ProxyTlvs::new(&self.tlvs)
    }

    /// The value of the first TLV of this kind; always `None` for [`ProxyTlv::CRC32C`].
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        tlv::find(self.tlvs(), kind)
    }

    /// Whether it has a checksum, which is a good one then.
    pub fn has_crc32c(&self) -> bool {
        self.crc32c
    }

    /// The application protocol that the client and the proxy agreed on, e.g. `h2`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tlv(ProxyTlv::ALPN)
    }

    /// The host name that the client asked for (SNI), as sent; `None` also if it is not UTF-8.
    pub fn authority(&self) -> Option<&str> {
        str::from_utf8(self.tlv(ProxyTlv::AUTHORITY)?).ok()
    }

    /// The opaque name that the proxy gave the connection, of at most 128 bytes.
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.tlv(ProxyTlv::UNIQUE_ID)
    }

    /// The network namespace of the connection; `None` also if it is not UTF-8.
    pub fn netns(&self) -> Option<&str> {
        str::from_utf8(self.tlv(ProxyTlv::NETNS)?).ok()
    }

    /// What the proxy tells about the client's TLS connection.
    pub fn ssl(&self) -> Option<ProxySsl<'_>> {
        ProxySsl::new(self.tlv(ProxyTlv::SSL)?)
    }

    /// Adds a TLV after the ones that are there.
    ///
    /// # Errors
    ///
    /// If the header can have no TLVs (version 1, `LOCAL`), if the kind is CRC32C, which
    /// [`with_crc32c`](Self::with_crc32c) adds, if the value is none of its kind, or if it does not
    /// fit: all of the header has at most 65,551 bytes.
    pub fn with_tlv(mut self, kind: u8, value: &[u8]) -> Result<Self, ProxyHeaderError> {
        self.push(kind, value)?;
        Ok(self)
    }

    /// Adds what is known of the client's TLS connection: the bits of `client`
    /// ([`ProxySsl::CLIENT_SSL`] and so on), the result of the verification (0 for a certificate
    /// that was shown and is good) and sub-TLVs.
    ///
    /// # Errors
    ///
    /// Those of [`with_tlv`](Self::with_tlv).
    pub fn with_ssl(
        self,
        client: u8,
        verify: u32,
        subs: &[ProxyTlv<'_>],
    ) -> Result<Self, ProxyHeaderError> {
        let mut value = tlv::ssl_start(client, verify);
        for sub in subs {
            tlv::write(&mut value, sub.kind, sub.value)?;
        }
        self.with_tlv(ProxyTlv::SSL, &value)
    }

    /// Adds a checksum, computed when the header is written.
    ///
    /// # Errors
    ///
    /// If the header can have no TLVs, or if it does not fit.
    pub fn with_crc32c(mut self) -> Result<Self, ProxyHeaderError> {
        if !self.crc32c {
            self.reserve(tlv::CRC32C_LENGTH)?;
            self.crc32c = true;
        }
        Ok(self)
    }

    /// The bytes to send.
    pub fn to_bytes(&self) -> Bytes {
        match self.version {
            ProxyVersion::V1 => v1::write(&self.addresses),
            ProxyVersion::V2 => v2::write(self),
        }
    }

    /// See [`with_tlv`](Self::with_tlv). An error leaves the header as it was.
    pub(super) fn push(&mut self, kind: u8, value: &[u8]) -> Result<(), ProxyHeaderError> {
        if kind == ProxyTlv::CRC32C {
            return Err(ProxyHeaderError::Crc32c("it is computed when the header is written"));
        }
        tlv::check(kind, value)?;
        self.reserve(tlv::HEAD_LENGTH + value.len())?;
        tlv::write(&mut self.tlvs, kind, value)
    }

    /// Whether a TLV with this much in it, its head included, may be added.
    fn reserve(&self, more: usize) -> Result<(), ProxyHeaderError> {
        if self.version == ProxyVersion::V1 || self.command == ProxyCommand::Local {
            return Err(ProxyHeaderError::NoTlvs);
        }
        let length = v2::length(self) + more;
        if length > Self::MAX_LENGTH {
            return Err(ProxyHeaderError::TooLong { length, limit: Self::MAX_LENGTH });
        }
        Ok(())
    }

    /// A header with a client's certificate in it fits, and what a peer can make a server hold
    /// before it is known stays small. In bytes.
    pub const DEFAULT_MAX_LENGTH: usize = 4096;

    /// What the length field of version 2 can tell, and the 16 bytes before the block.
    pub const MAX_LENGTH: usize = v2::START_LENGTH + u16::MAX as usize;
}

/// What [`ProxyHeader::parse`] finds at the beginning of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Parsed {
    /// A header.
    Complete {
        /// What it says.
        header: ProxyHeader,
        /// Its length in bytes; what follows is the connection's own.
        length: usize,
    },
    /// What may become a header.
    Incomplete {
        /// If it does, it has at least as many bytes more: to read them reads nothing after it. It
        /// may turn out sooner that it does not. At least 1.
        more: usize,
    },
    /// Something else.
    NotProxy,
}

/// What the first bytes of a connection tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detected {
    Nothing,
    Prefix,
    V1,
    V2,
}

impl Detected {
    pub(super) fn of(bytes: &[u8]) -> Self {
        for (start, version) in [(v1::START, Self::V1), (&v2::SIGNATURE[..], Self::V2)] {
            if bytes.starts_with(start) {
                return version;
            }
            if start.starts_with(bytes) {
                return Self::Prefix;
            }
        }
        Self::Nothing
    }
}

/// The version of a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyVersion {
    /// A line of text, with TCP addresses only.
    V1,
    /// Binary, with TLVs.
    V2,
}

/// Whom a PROXY header speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyCommand {
    /// The sender itself, e.g. a health check: the ends of the connection are the real ones.
    Local,
    /// A client of the sender.
    Proxy,
}

/// `PROXY UNKNOWN` and CRLF; version 2 has one byte more at least.
const MIN_LENGTH: usize = 15;
