//! Version 1: a line of text.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use bytes::Bytes;

use super::{Parsed, ProxyAddresses, ProxyHeader, ProxyHeaderError, ProxyVersion};

/// Reads a line; `bytes` begin with [`START`].
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
    let window = &bytes[..bytes.len().min(MAX_LENGTH)];
    let is_whole = window.len() == MAX_LENGTH;
    let incomplete = |more| match is_whole {
        true => Err(ProxyHeaderError::LineTooLong),
        false => Ok(Parsed::Incomplete { more }),
    };
    let Some(end) = window.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return incomplete(SHORTEST.len().saturating_sub(window.len()).max(b"\r\n".len()));
    };
    match window[end..] {
        [b'\r', b'\n', ..] => {}
        [b'\r'] => return incomplete(1),
        _ => return Err(ProxyHeaderError::Line("it does not end in CR and LF")),
    }
    let addresses = addresses(&window[START.len()..end])?;
    let header = ProxyHeader::new(ProxyVersion::V1, addresses);
    Ok(Parsed::Complete { header, length: end + b"\r\n".len() })
}

pub(super) fn write(addresses: &ProxyAddresses) -> Bytes {
    let ProxyAddresses::Inet { source, destination, .. } = addresses else {
        return Bytes::from_static(SHORTEST);
    };
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let line = format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port());
    line.into()
}

fn addresses(line: &[u8]) -> Result<ProxyAddresses, ProxyHeaderError> {
    // "The receiver must ignore anything presented before the CRLF", whatever it is encoded in.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(ProxyAddresses::Unspecified);
    }
    let line = str::from_utf8(line).map_err(|_| ProxyHeaderError::Line("it is no text"))?;
    let (family, ends) = line.split_once(' ').unwrap_or((line, ""));
    match family {
        "TCP4" => ends_of::<Ipv4Addr>(ends),
        "TCP6" => ends_of::<Ipv6Addr>(ends),
        _ => Err(ProxyHeaderError::Line("the family is none of TCP4, TCP6 and UNKNOWN")),
    }
}

fn ends_of<A: FromStr + Into<std::net::IpAddr>>(
    ends: &str,
) -> Result<ProxyAddresses, ProxyHeaderError> {
    // Two blanks in a row make an empty field, which is no address.
    let fields: Vec<_> = ends.splitn(5, ' ').collect();
    let [source, destination, source_port, destination_port] = fields[..] else {
        return Err(ProxyHeaderError::Line(
            "it takes two addresses and two ports, one blank apart",
        ));
    };
    let ip = |text: &str| {
        // The standard library takes neither leading zeros in IPv4 nor zones in IPv6.
        let wrong = |_| ProxyHeaderError::Line("an address is none of the family");
        text.parse::<A>().map(Into::into).map_err(wrong)
    };
    let source = SocketAddr::new(ip(source)?, port(source_port)?);
    let destination = SocketAddr::new(ip(destination)?, port(destination_port)?);
    Ok(ProxyAddresses::tcp(source, destination))
}

/// Stricter than `u16::from_str`, which takes a sign and leading zeros.
fn port(text: &str) -> Result<u16, ProxyHeaderError> {
    let wrong = ProxyHeaderError::Line("a port is no plain number up to 65535");
    let is_plain =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().map_err(|_| wrong) } else { Err(wrong) }
}

/// With the blank: nothing else that is known begins so.
pub(super) const START: &[u8] = b"PROXY ";

/// What is said of everything but TCP.
const SHORTEST: &[u8] = b"PROXY UNKNOWN\r\n";

/// By the specification, CRLF included; the longest useful line just fits.
const MAX_LENGTH: usize = 107;
