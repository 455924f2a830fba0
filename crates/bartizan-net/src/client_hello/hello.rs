//! What a client says first, read and kept.

use std::fmt;
use std::slice::ChunksExact;

use super::error::HelloError;
use super::parse::{Items, Parts};

/// What a client offers in the first message of a TLS handshake (RFC 8446 §4.1.2).
///
/// It lives as long as the connection, so it is kept in one block without what is long and of no
/// more use: keys, tickets, random bytes. Nothing in it is authenticated.
///
/// With [encrypted ClientHello](Self::has_ech) all of it is from the outer hello. The
/// [name](Self::server_name) is then the public one of whoever runs the server, and not the one
/// that the client is after.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientHello {
    legacy_version: u16,
    ech: bool,
    early_data: bool,
    /// Lists one after the other, in the order of [`List`], numbers as they are on the wire.
    pub(super) lists: Box<[u8]>,
    /// Where each list ends.
    ends: [u32; LISTS],
}

impl ClientHello {
    /// Reads the body of the message.
    pub(super) fn parse(body: &[u8]) -> Result<Self, HelloError> {
        let parts = Parts::of(body)?;
        let versions =
            if parts.versions.is_empty() { &parts.legacy_version } else { parts.versions };
        let extensions = Items::new(parts.extensions);
        let key_shares = Items::new(parts.key_shares);
        let copied =
            [parts.alpn, versions, parts.cipher_suites, parts.groups, parts.signature_schemes];
        let items = extensions.clone().count() + key_shares.clone().count();
        let length = parts.server_name.len() + copied.map(<[u8]>::len).iter().sum::<usize>();

        let mut lists = Vec::with_capacity(length + 2 * items);
        let mut ends = [0; LISTS];
        lists.extend(parts.server_name.iter().map(u8::to_ascii_lowercase));
        // Lengths on the wire have at most 24 bits.
        ends[List::Name as usize] = lists.len() as u32;
        for (i, list) in copied.into_iter().enumerate() {
            lists.extend_from_slice(list);
            ends[List::Alpn as usize + i] = lists.len() as u32;
        }
        for (i, list) in [extensions, key_shares].into_iter().enumerate() {
            lists.extend(list.flatten());
            ends[List::Extensions as usize + i] = lists.len() as u32;
        }
        let legacy_version = u16::from_be_bytes(parts.legacy_version);
        let (ech, early_data) = (parts.ech, parts.early_data);
        Ok(Self { legacy_version, ech, early_data, lists: lists.into(), ends })
    }

    /// The host that the client asks for (SNI, RFC 6066 §3), in lower case and without a dot at the
    /// end. `None` if it names none, or an IP address instead of a name.
    pub fn server_name(&self) -> Option<&str> {
        str::from_utf8(self.list(List::Name)).ok().filter(|name| !name.is_empty())
    }

    /// The application protocols on offer (ALPN, RFC 7301), the preferred one first.
    pub fn alpn(&self) -> AlpnNames<'_> {
        AlpnNames { rest: self.list(List::Alpn) }
    }

    /// The version in the hello's own field, which is 0x0303 (TLS 1.2) since TLS 1.3 came.
    pub fn legacy_version(&self) -> u16 {
        self.legacy_version
    }

    /// The versions on offer: those of the extension supported_versions, or else the
    /// [legacy version](Self::legacy_version). TLS 1.3 is 0x0304.
    pub fn versions(&self) -> TlsCodes<'_> {
        self.codes(List::Versions)
    }

    /// The cipher suites on offer, in the client's order.
    pub fn cipher_suites(&self) -> TlsCodes<'_> {
        self.codes(List::CipherSuites)
    }

    /// The groups for key exchange on offer, in the client's order.
    pub fn groups(&self) -> TlsCodes<'_> {
        self.codes(List::Groups)
    }

    /// The signature schemes on offer, in the client's order.
    pub fn signature_schemes(&self) -> TlsCodes<'_> {
        self.codes(List::SignatureSchemes)
    }

    /// The types of all extensions, in the order that they came in.
    pub fn extensions(&self) -> TlsCodes<'_> {
        self.codes(List::Extensions)
    }

    /// The groups that the client sent a key for, ahead of the server's choice.
    pub fn key_share_groups(&self) -> TlsCodes<'_> {
        self.codes(List::KeyShares)
    }

    /// Whether the client sent a key for a group that resists quantum computers: one of the hybrids
    /// with ML-KEM, or the draft of X25519 with Kyber.
    pub fn has_post_quantum_key_share(&self) -> bool {
        self.key_share_groups().any(|group| POST_QUANTUM.contains(&group))
    }

    /// Whether there is an encrypted ClientHello inside (RFC 9849). Clients also send one that is
    /// made up (GREASE), and nobody but who holds the key can tell which it is.
    pub fn has_ech(&self) -> bool {
        self.ech
    }

    /// Whether the client sends data along with its hello, before the handshake is done (0-RTT).
    /// An attacker can send such data again.
    pub fn has_early_data(&self) -> bool {
        self.early_data
    }

    /// The JA4 fingerprint of the client, for instance `t13d1516h2_8daaf6152771_e5627efa2ab1`.
    ///
    /// It tells programs apart, not people: versions, counts of suites and extensions, the first
    /// application protocol, then hashes of the sorted suites and of the sorted extensions with the
    /// signature schemes, all without GREASE. A client can look like any other if it wants to. It
    /// is computed anew by each call. Defined in FoxIO's "JA4: TLS Client Fingerprinting".
    pub fn ja4(&self) -> String {
        super::ja4::fingerprint(self)
    }

    fn list(&self, list: List) -> &[u8] {
        let i = list as usize;
        let start = i.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.lists[start as usize..self.ends[i] as usize]
    }

    fn codes(&self, list: List) -> TlsCodes<'_> {
        TlsCodes { rest: self.list(list).chunks_exact(2) }
    }
}

impl fmt::Debug for ClientHello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientHello")
            .field("server_name", &self.server_name())
            .field("alpn", &self.alpn())
            .field("legacy_version", &format_args!("{:#06x}", self.legacy_version))
            .field("versions", &self.versions())
            .field("cipher_suites", &self.cipher_suites())
            .field("groups", &self.groups())
            .field("signature_schemes", &self.signature_schemes())
            .field("extensions", &self.extensions())
            .field("key_share_groups", &self.key_share_groups())
            .field("ech", &self.ech)
            .field("early_data", &self.early_data)
            .finish()
    }
}

/// Numbers out of a [`ClientHello`], as IANA assigns them, GREASE included.
#[derive(Clone)]
pub struct TlsCodes<'a> {
    rest: ChunksExact<'a, u8>,
}

impl Iterator for TlsCodes<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        self.rest.next().map(|code| u16::from_be_bytes([code[0], code[1]]))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.rest.size_hint()
    }
}

impl ExactSizeIterator for TlsCodes<'_> {}

impl fmt::Debug for TlsCodes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone().map(|code| Hex(code.into()))).finish()
    }
}

/// The names of application protocols out of a [`ClientHello`], e.g. `h2`. None is empty.
#[derive(Clone)]
pub struct AlpnNames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for AlpnNames<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.rest.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(*length))?;
        self.rest = rest;
        Some(name)
    }
}

impl fmt::Debug for AlpnNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone().map(<[u8]>::escape_ascii).map(Shown)).finish()
    }
}

/// Whether `code` stands for nothing, and is there so that servers stay used to what they do not
/// know (RFC 8701): 0x0a0a, 0x1a1a and so on to 0xfafa.
pub fn is_grease(code: u16) -> bool {
    let [high, low] = code.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

struct Hex(u32);

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

struct Shown<T>(T);

impl<T: fmt::Display> fmt::Debug for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[derive(Clone, Copy)]
enum List {
    Name,
    Alpn,
    Versions,
    CipherSuites,
    Groups,
    SignatureSchemes,
    Extensions,
    KeyShares,
}

const LISTS: usize = List::KeyShares as usize + 1;

/// SecP256r1MLKEM768, X25519MLKEM768, SecP384r1MLKEM1024, and X25519Kyber768Draft00, which clients
/// of 2023 and 2024 have.
const POST_QUANTUM: [u16; 4] = [0x11eb, 0x11ec, 0x11ed, 0x6399];
