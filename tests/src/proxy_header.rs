//! PROXY headers, written and read without any help from what is under test.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::wait::PATIENCE;
use crate::within;

/// What every header of version 2 begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// A header as a backend has read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "tests compare it")]
pub enum ReadHeader {
    /// It speaks for this client, which connected to this address.
    Proxy(SocketAddr, SocketAddr),
    /// It says that the connection is the sender's own.
    Local,
}

/// A header of version 1 for IPv4.
pub fn v1(source: SocketAddr, target: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.ip(), target.ip());
    format!("PROXY TCP4 {from} {to} {} {}\r\n", source.port(), target.port()).into_bytes()
}

/// A header of version 2 for IPv4, with these TLVs.
///
/// # Panics
///
/// If an address is of IPv6.
pub fn v2(source: SocketAddr, target: SocketAddr, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let (SocketAddr::V4(source), SocketAddr::V4(target)) = (source, target) else {
        panic!("not of IPv4");
    };
    let mut block = [source.ip().octets(), target.ip().octets()].concat();
    block.extend([source.port().to_be_bytes(), target.port().to_be_bytes()].concat());
    for (kind, value) in tlvs {
        block.push(*kind);
        block.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        block.extend(*value);
    }
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[0x21, 0x11], &length, &block].concat()
}

/// A header of version 2 for a connection of the sender's own.
pub fn v2_local() -> Vec<u8> {
    [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat()
}

/// Reads a header of either version, and nothing after it.
///
/// # Panics
///
/// If something else comes, or nothing for 30 s.
pub async fn read_header(from: &mut (impl AsyncRead + Unpin)) -> ReadHeader {
    let read = async {
        let mut start = [0; 12];
        from.read_exact(&mut start).await.unwrap();
        if start == SIGNATURE { read_v2(from).await } else { read_v1(&start, from).await }
    };
    within(PATIENCE, "a PROXY header", read).await
}

async fn read_v1(start: &[u8], from: &mut (impl AsyncRead + Unpin)) -> ReadHeader {
    let mut line = start.to_vec();
    while !line.ends_with(b"\r\n") {
        assert!(line.len() < 108, "no PROXY header: {:?}", String::from_utf8_lossy(&line));
        line.push(from.read_u8().await.unwrap());
    }
    let line = String::from_utf8(line).unwrap();
    match line.trim_end().split(' ').collect::<Vec<_>>()[..] {
        ["PROXY", "UNKNOWN", ..] => ReadHeader::Local,
        ["PROXY", "TCP4", from, to, from_port, to_port] => ReadHeader::Proxy(
            format!("{from}:{from_port}").parse().unwrap(),
            format!("{to}:{to_port}").parse().unwrap(),
        ),
        _ => panic!("no PROXY header: {line:?}"),
    }
}

async fn read_v2(from: &mut (impl AsyncRead + Unpin)) -> ReadHeader {
    let mut start = [0; 4];
    from.read_exact(&mut start).await.unwrap();
    let mut block = vec![0; usize::from(u16::from_be_bytes([start[2], start[3]]))];
    from.read_exact(&mut block).await.unwrap();
    match (start[0], start[1]) {
        (0x20, _) => ReadHeader::Local,
        (0x21, 0x11) => {
            let addr = |at: usize, port: usize| {
                let ip: [u8; 4] = block[at..at + 4].try_into().unwrap();
                let port = u16::from_be_bytes([block[port], block[port + 1]]);
                SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(ip), port))
            };
            ReadHeader::Proxy(addr(0, 8), addr(4, 10))
        }
        other => panic!("a PROXY header of another kind: {other:x?}"),
    }
}
