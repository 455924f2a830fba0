//! Version 2: binary, with TLVs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;

use super::{
    Parsed, ProxyAddresses, ProxyCommand, ProxyHeader, ProxyHeaderError, ProxyTlv, ProxyTransport,
    ProxyVersion, tlv,
};

/// Reads a header; `bytes` begin with [`SIGNATURE`]. Each byte is judged before those after it, so
/// that a part of a header is refused for the same reason as all of it.
pub(super) fn parse(bytes: &[u8], max_length: usize) -> Result<Parsed, ProxyHeaderError> {
    let incomplete = |total: usize| Ok(Parsed::Incomplete { more: total - bytes.len() });
    let Some(&command) = bytes.get(12) else { return incomplete(START_LENGTH) };
    let command = match (command >> 4, command & 0x0f) {
        (2, 0) => ProxyCommand::Local,
        (2, 1) => ProxyCommand::Proxy,
        (2, other) => return Err(ProxyHeaderError::Command(other)),
        (other, _) => return Err(ProxyHeaderError::Version(other)),
    };
    let Some(&family) = bytes.get(13) else { return incomplete(START_LENGTH) };
    let needed = match (command, family) {
        // "The receiver must discard the protocol block including the family."
        (ProxyCommand::Local, _) | (_, UNSPECIFIED) => 0,
        (_, TCP4 | UDP4) => 12,
        (_, TCP6 | UDP6) => 36,
        (_, UNIX_STREAM | UNIX_DATAGRAM) => 2 * UNIX_PATH_LENGTH,
        (_, other) => return Err(ProxyHeaderError::Family(other)),
    };
    let Some(&[high, low]) = bytes.get(14..START_LENGTH) else { return incomplete(START_LENGTH) };
    let block_length = usize::from(u16::from_be_bytes([high, low]));
    let length = START_LENGTH + block_length;
    if length > max_length {
        return Err(ProxyHeaderError::TooLong { length, limit: max_length });
    }
    if block_length < needed {
        return Err(ProxyHeaderError::ShortBlock { length: block_length, needed });
    }
    let Some(whole) = bytes.get(..length) else { return incomplete(length) };
    if command == ProxyCommand::Local {
        return Ok(Parsed::Complete { header: ProxyHeader::local(), length });
    }
    let block = &whole[START_LENGTH..START_LENGTH + needed];
    let (tlvs, crc32c) = read_tlvs(whole, START_LENGTH + needed)?;
    let addresses = read_addresses(family, block);
    let version = ProxyVersion::V2;
    let header = ProxyHeader { version, command, addresses, tlvs, crc32c };
    Ok(Parsed::Complete { header, length })
}

pub(super) fn write(header: &ProxyHeader) -> Bytes {
    let mut out = Vec::with_capacity(length(header));
    out.extend_from_slice(&SIGNATURE);
    out.push(0x20 | u8::from(header.command == ProxyCommand::Proxy));
    out.extend_from_slice(&[UNSPECIFIED, 0, 0]);
    out[13] = write_addresses(&mut out, &header.addresses);
    out.extend_from_slice(&header.tlvs);
    if header.crc32c {
        out.extend_from_slice(&[ProxyTlv::CRC32C, 0, 4, 0, 0, 0, 0]);
    }
    // Whoever adds to a header sees to it that it fits.
    let block_length = u16::try_from(out.len() - START_LENGTH).unwrap_or(u16::MAX);
    out[14..START_LENGTH].copy_from_slice(&block_length.to_be_bytes());
    if header.crc32c {
        let sum = crc32c::crc32c(&out).to_be_bytes();
        let at = out.len() - sum.len();
        out[at..].copy_from_slice(&sum);
    }
    out.into()
}

/// How many bytes [`write`] makes of a header.
pub(super) fn length(header: &ProxyHeader) -> usize {
    let addresses = match &header.addresses {
        ProxyAddresses::Unspecified => 0,
        ProxyAddresses::Inet { source, .. } if source.is_ipv4() => 12,
        ProxyAddresses::Inet { .. } => 36,
        ProxyAddresses::Unix { .. } => 2 * UNIX_PATH_LENGTH,
    };
    let sum = if header.crc32c { tlv::CRC32C_LENGTH } else { 0 };
    START_LENGTH + addresses + header.tlvs.len() + sum
}

/// Checks the TLVs from `start` on, and takes the checksum out of them.
fn read_tlvs(whole: &[u8], start: usize) -> Result<(Vec<u8>, bool), ProxyHeaderError> {
    let mut rest = &whole[start..];
    let mut sum_at = None;
    while !rest.is_empty() {
        let at = whole.len() - rest.len();
        let (tlv, after) = tlv::split(rest).ok_or(ProxyHeaderError::CutTlv)?;
        if tlv.kind != ProxyTlv::CRC32C {
            tlv::check(tlv.kind, tlv.value)?;
        } else if tlv.value.len() != 4 {
            return Err(ProxyHeaderError::Crc32c("it has other than 4 bytes"));
        } else if sum_at.replace(at).is_some() {
            return Err(ProxyHeaderError::Crc32c("there are several"));
        }
        rest = after;
    }
    let Some(at) = sum_at else { return Ok((whole[start..].to_vec(), false)) };
    let (before, from) = whole.split_at(at);
    let (sum, after) = from.split_at(tlv::CRC32C_LENGTH);
    // Computed "with the value of the field itself zeroed".
    let mut expected = crc32c::crc32c(before);
    expected = crc32c::crc32c_append(expected, &[ProxyTlv::CRC32C, 0, 4, 0, 0, 0, 0]);
    expected = crc32c::crc32c_append(expected, after);
    if sum[tlv::HEAD_LENGTH..] != expected.to_be_bytes() {
        return Err(ProxyHeaderError::Crc32c("it is not that of these bytes"));
    }
    Ok(([&whole[start..at], after].concat(), true))
}

/// `block` has the length that goes with the family.
fn read_addresses(family: u8, block: &[u8]) -> ProxyAddresses {
    let transport = match family & 0x0f {
        2 => ProxyTransport::Datagram,
        _ => ProxyTransport::Stream,
    };
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    if let Some((ips, _)) = block.split_first_chunk::<8>().filter(|_| family >> 4 == 1) {
        let [a, b, c, d, e, f, g, h] = *ips;
        let source = SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port(8));
        let destination = SocketAddr::new(Ipv4Addr::new(e, f, g, h).into(), port(10));
        return ProxyAddresses::Inet { transport, source, destination };
    }
    let v6 = |at: usize| block.get(at..).and_then(|from| from.first_chunk::<16>());
    if let (2, Some(&source), Some(&destination)) = (family >> 4, v6(0), v6(16)) {
        let end = |ip: [u8; 16], at| SocketAddr::new(Ipv6Addr::from(ip).into(), port(at));
        let (source, destination) = (end(source, 32), end(destination, 34));
        return ProxyAddresses::Inet { transport, source, destination };
    }
    let path = |at: usize| block.get(at..).and_then(|from| from.first_chunk::<UNIX_PATH_LENGTH>());
    if let (3, Some(&source), Some(&destination)) = (family >> 4, path(0), path(UNIX_PATH_LENGTH)) {
        let (source, destination) = (Box::new(source), Box::new(destination));
        return ProxyAddresses::Unix { transport, source, destination };
    }
    ProxyAddresses::Unspecified
}

/// Writes the address block and gives the byte for family and transport.
fn write_addresses(out: &mut Vec<u8>, addresses: &ProxyAddresses) -> u8 {
    match addresses {
        ProxyAddresses::Unspecified => UNSPECIFIED,
        ProxyAddresses::Inet { transport, source, destination } => {
            for end in [source, destination] {
                match end.ip() {
                    IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
                    IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
                }
            }
            for end in [source, destination] {
                out.extend_from_slice(&end.port().to_be_bytes());
            }
            match (source.is_ipv4(), transport) {
                (true, ProxyTransport::Stream) => TCP4,
                (true, ProxyTransport::Datagram) => UDP4,
                (false, ProxyTransport::Stream) => TCP6,
                (false, ProxyTransport::Datagram) => UDP6,
            }
        }
        ProxyAddresses::Unix { transport, source, destination } => {
            out.extend_from_slice(&source[..]);
            out.extend_from_slice(&destination[..]);
            match transport {
                ProxyTransport::Stream => UNIX_STREAM,
                ProxyTransport::Datagram => UNIX_DATAGRAM,
            }
        }
    }
}

/// No other protocol takes it for the beginning of a message.
pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and transport, length of the block.
pub(super) const START_LENGTH: usize = 16;

/// The `sun_path` of Linux.
const UNIX_PATH_LENGTH: usize = 108;

// Address family in the upper half, transport in the lower one.
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const UDP4: u8 = 0x12;
const TCP6: u8 = 0x21;
const UDP6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;
