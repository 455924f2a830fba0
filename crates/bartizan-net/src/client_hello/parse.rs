//! Takes the message apart.

use std::net::IpAddr;

use super::error::HelloError;

/// Where in a ClientHello is what is kept of it.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    pub(super) legacy_version: [u8; 2],
    pub(super) cipher_suites: &'a [u8],
    /// All extensions, each with type and length, no type twice.
    pub(super) extensions: &'a [u8],
    /// As the client wrote it, a dot at the end left out.
    pub(super) server_name: &'a [u8],
    /// Protocol names, each after its length.
    pub(super) alpn: &'a [u8],
    pub(super) versions: &'a [u8],
    pub(super) groups: &'a [u8],
    pub(super) signature_schemes: &'a [u8],
    /// Key shares, each with group and length.
    pub(super) key_shares: &'a [u8],
    pub(super) ech: bool,
    pub(super) early_data: bool,
}

impl<'a> Parts<'a> {
    /// Reads the body of the message (RFC 8446 §4.1.2).
    pub(super) fn of(body: &'a [u8]) -> Result<Self, HelloError> {
        let mut parts = Self::default();
        let mut rest = Fields { rest: body, part: "fixed fields" };
        parts.legacy_version = rest.array()?;
        rest.take(RANDOM)?;
        if rest.short_list()?.len() > MAX_SESSION_ID {
            return Err(rest.malformed());
        }
        rest.part = "cipher suites";
        parts.cipher_suites = rest.codes()?;
        rest.part = "compression methods";
        if rest.short_list()?.is_empty() {
            return Err(rest.malformed());
        }
        rest.part = "extensions";
        // A hello that ends here is one without extensions (RFC 5246 §7.4.1.2).
        if !rest.is_empty() {
            parts.extensions = rest.long_list()?;
            rest.end()?;
            parts.read_extensions()?;
        }
        Ok(parts)
    }

    fn read_extensions(&mut self) -> Result<(), HelloError> {
        // One bit per type: a client may send thousands, and comparing each with each takes long.
        let mut seen = [0_u64; (u16::MAX as usize + 1) / 64];
        let mut list = Fields { rest: self.extensions, part: "extensions" };
        while !list.is_empty() {
            let extension = list.number()?;
            let (word, bit) = (usize::from(extension) / 64, 1 << (extension % 64));
            if seen[word] & bit != 0 {
                return Err(HelloError::DuplicateExtension { extension });
            }
            seen[word] |= bit;
            let body = list.long_list()?;
            if extension == PRE_SHARED_KEY && !list.is_empty() {
                return Err(HelloError::PskNotLast);
            }
            self.read_extension(extension, body)?;
        }
        Ok(())
    }

    fn read_extension(&mut self, extension: u16, body: &'a [u8]) -> Result<(), HelloError> {
        let mut body = Fields { rest: body, part: "" };
        match extension {
            SERVER_NAME => {
                body.part = "server name";
                self.server_name = host_name(body.list_to_end()?)?;
            }
            SUPPORTED_GROUPS => {
                body.part = "groups";
                self.groups = body.codes()?;
                body.end()?;
            }
            SIGNATURE_ALGORITHMS => {
                body.part = "signature algorithms";
                self.signature_schemes = body.codes()?;
                body.end()?;
            }
            ALPN => {
                body.part = "application protocols";
                self.alpn = body.list_to_end()?;
                each(self.alpn, body.part, |names| {
                    let name = names.short_list()?;
                    if name.is_empty() { Err(names.malformed()) } else { Ok(()) }
                })?;
                if self.alpn.is_empty() {
                    return Err(body.malformed());
                }
            }
            SUPPORTED_VERSIONS => {
                body.part = "supported versions";
                self.versions = body.short_list()?;
                check_codes(self.versions, &body)?;
                body.end()?;
            }
            KEY_SHARE => {
                body.part = "key shares";
                self.key_shares = body.list_to_end()?;
                each(self.key_shares, body.part, |shares| {
                    shares.number()?;
                    let key = shares.long_list()?;
                    if key.is_empty() { Err(shares.malformed()) } else { Ok(()) }
                })?;
            }
            EARLY_DATA => {
                body.part = "early data";
                body.end()?;
                self.early_data = true;
            }
            ENCRYPTED_CLIENT_HELLO => {
                body.part = "encrypted ClientHello";
                let [kind] = body.array()?;
                self.ech = kind == ECH_OUTER;
            }
            _ => {}
        }
        Ok(())
    }
}

/// The items of a list that has been read before, so that each of them is whole.
#[derive(Clone, Debug)]
pub(super) struct Items<'a>(Fields<'a>);

impl<'a> Items<'a> {
    /// Of a list of extensions or of key shares: a code each, a length and so much more.
    pub(super) fn new(list: &'a [u8]) -> Self {
        Self(Fields { rest: list, part: "" })
    }
}

impl Iterator for Items<'_> {
    type Item = [u8; 2];

    fn next(&mut self) -> Option<[u8; 2]> {
        let code = self.0.array().ok()?;
        self.0.long_list().ok()?;
        Some(code)
    }
}

/// The one host name of a server_name extension (RFC 6066 §3); empty if it is an address.
fn host_name(list: &[u8]) -> Result<&[u8], HelloError> {
    let mut names = Fields { rest: list, part: "server name" };
    let mut found = None;
    while !names.is_empty() {
        let [kind] = names.array()?;
        if kind != HOST_NAME {
            // How long a name of another kind is, cannot be known.
            break;
        }
        let name = names.long_list()?;
        if found.replace(name).is_some() {
            return Err(HelloError::SeveralNames);
        }
    }
    let name = found.filter(|name| !name.is_empty()).ok_or_else(|| names.malformed())?;
    if is_dns_name(name) {
        return Ok(name.strip_suffix(b".").unwrap_or(name));
    }
    // RFC 6066 forbids addresses. There are clients that send them, and they mean no name.
    let text = str::from_utf8(name).map_err(|_| HelloError::BadName)?;
    text.parse::<IpAddr>().map_or(Err(HelloError::BadName), |_| Ok(&[]))
}

/// Whether a certificate could be for it: labels of letters, digits, `-` and `_`, the last one not
/// of digits alone (RFC 1123 §2.1), perhaps a dot at the end.
fn is_dns_name(name: &[u8]) -> bool {
    if name.len() > MAX_NAME {
        return false;
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    let is_label = |label: &[u8]| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with(b"-")
            && !label.ends_with(b"-")
    };
    let last = name.rsplit(|b| *b == b'.').next().unwrap_or_default();
    name.split(|b| *b == b'.').all(is_label) && !last.iter().all(u8::is_ascii_digit)
}

/// Reads a list to its end.
fn each<'a>(
    list: &'a [u8],
    part: &'static str,
    mut item: impl FnMut(&mut Fields<'a>) -> Result<(), HelloError>,
) -> Result<(), HelloError> {
    let mut list = Fields { rest: list, part };
    while !list.is_empty() {
        item(&mut list)?;
    }
    Ok(())
}

/// Numbers of 16 bits, one at least (RFC 8446 has no list of codes that may be empty).
fn check_codes(codes: &[u8], fields: &Fields<'_>) -> Result<(), HelloError> {
    if codes.is_empty() || !codes.len().is_multiple_of(2) {
        Err(fields.malformed())
    } else {
        Ok(())
    }
}

/// Fields that follow one another in the presentation language of RFC 8446 §3.
#[derive(Clone, Debug)]
struct Fields<'a> {
    rest: &'a [u8],
    /// What is being read, for the error.
    part: &'static str,
}

impl<'a> Fields<'a> {
    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn malformed(&self) -> HelloError {
        HelloError::Malformed { part: self.part }
    }

    fn end(&self) -> Result<(), HelloError> {
        if self.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], HelloError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HelloError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.malformed())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u16, HelloError> {
        self.array().map(u16::from_be_bytes)
    }

    /// What follows its length in 8 bits.
    fn short_list(&mut self) -> Result<&'a [u8], HelloError> {
        let [length] = self.array()?;
        self.take(length.into())
    }

    /// What follows its length in 16 bits.
    fn long_list(&mut self) -> Result<&'a [u8], HelloError> {
        let length = self.number()?;
        self.take(length.into())
    }

    /// What follows its length in 16 bits, and is all that is left.
    fn list_to_end(&mut self) -> Result<&'a [u8], HelloError> {
        let list = self.long_list()?;
        self.end()?;
        Ok(list)
    }

    /// Numbers of 16 bits after their length in 16 bits.
    fn codes(&mut self) -> Result<&'a [u8], HelloError> {
        let codes = self.long_list()?;
        check_codes(codes, self)?;
        Ok(codes)
    }
}

const RANDOM: usize = 32;

/// RFC 8446 §4.1.2.
const MAX_SESSION_ID: usize = 32;

/// RFC 1035 §2.3.4: 255 bytes on the wire are 253 in text.
const MAX_NAME: usize = 253;

/// RFC 1035 §2.3.4.
const MAX_LABEL: usize = 63;

/// The only kind of server name there is (RFC 6066 §3).
const HOST_NAME: u8 = 0;

/// The hello that is not encrypted, around the one that is (RFC 9849 §5).
const ECH_OUTER: u8 = 0;

// Types of extensions, as IANA has them.
pub(super) const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const SIGNATURE_ALGORITHMS: u16 = 13;
pub(super) const ALPN: u16 = 16;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
