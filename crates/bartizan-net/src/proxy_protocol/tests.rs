use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::header::Detected;
use super::v2::SIGNATURE;
use super::*;
use ProxyHeaderError as E;

/// A version 2 header of `command`, `family` and these parts, with the right length.
pub(super) fn v2(command: u8, family: u8, parts: &[&[u8]]) -> Vec<u8> {
    let block = parts.concat();
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, &block].concat()
}

fn tlv_of(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind][..], &length, value].concat()
}

/// Bit by bit, by the polynomial, to check the crate against.
fn crc32c_of(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| (sum >> 1) ^ (if sum & 1 == 1 { 0x82f6_3b78 } else { 0 });
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

/// Puts the right sum into the last four bytes.
fn summed(mut header: Vec<u8>) -> Vec<u8> {
    let at = header.len() - 4;
    header[at..].fill(0);
    let sum = crc32c_of(&header).to_be_bytes();
    header[at..].copy_from_slice(&sum);
    header
}

fn complete(bytes: &[u8]) -> ProxyHeader {
    match ProxyHeader::parse_within(bytes, ProxyHeader::MAX_LENGTH) {
        Ok(Parsed::Complete { header, length }) if length == bytes.len() => header,
        other => panic!("{other:?} of {:?}", bytes.escape_ascii().to_string()),
    }
}

fn error(bytes: &[u8]) -> ProxyHeaderError {
    ProxyHeader::parse(bytes).expect_err("it is wrong")
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// 192.0.2.7:5000 to 198.51.100.1:443.
pub(super) const V4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0x13, 0x88, 0x01, 0xbb];

/// Of every kind one that is right.
fn valid() -> Vec<Vec<u8>> {
    let v6 = [&[1; 16][..], &[2; 16], &[0, 3, 0, 4]].concat();
    let ssl = [&[7, 0, 0, 0, 0][..], &tlv_of(0x21, b"TLSv1.3"), &tlv_of(0x28, &[0x30; 300])];
    let tlvs = [tlv_of(1, b"h2"), tlv_of(4, &[0; 9]), tlv_of(0x20, &ssl.concat())].concat();
    let sum = tlv_of(3, &[0; 4]);
    let mut all: Vec<Vec<u8>> = vec![
        b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n".to_vec(),
        b"PROXY TCP6 2001:DB8::1 ::ffff:1.2.3.4 0 65535\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN \xff anything at  all\r\n".to_vec(),
        v2(0x20, 0, &[]),
        v2(0x20, 0x11, &[V4, b"no TLV"]),
        v2(0x20, 0xff, &[b"x"]),
        v2(0x21, 0, &[]),
        v2(0x21, 0, &[&tlvs]),
        summed(v2(0x21, 0x11, &[V4, &tlvs, &sum])),
    ];
    for family in [0x11, 0x12] {
        all.push(v2(0x21, family, &[V4, &tlvs]));
    }
    for family in [0x21, 0x22] {
        all.push(v2(0x21, family, &[&v6, &tlvs]));
    }
    for family in [0x31, 0x32] {
        all.push(v2(0x21, family, &[&[b'a'; 108], &[0; 108], &tlvs]));
    }
    all
}

#[test]
fn a_line_of_text_tells_both_ends() {
    let header = complete(b"PROXY TCP4 192.0.2.7 198.51.100.1 5000 443\r\n");
    let ends = Some((addr("192.0.2.7:5000"), addr("198.51.100.1:443")));
    assert_eq!((header.version(), header.endpoints()), (ProxyVersion::V1, ends));
    let header = complete(b"PROXY TCP6 2001:DB8::1 ::ffff:1.2.3.4 0 65535\r\n");
    let ends = Some((addr("[2001:db8::1]:0"), addr("[::ffff:1.2.3.4]:65535")));
    assert_eq!(header.endpoints(), ends);
    let header = complete(b"PROXY UNKNOWN TCP4 192.0.2.7 198.51.100.1 5000 443\r\n");
    assert_eq!(header.endpoints(), None);
}

#[test]
fn a_line_that_is_not_canonical_is_refused() {
    for line in [
        "TCP4 192.0.2.07 198.51.100.1 5000 443",
        "TCP4 192.0.2.7 198.51.100 5000 443",
        "TCP4 192.0.2.256 198.51.100.1 5000 443",
        "TCP4 0xc0.0.2.7 198.51.100.1 5000 443",
        "TCP4 ::1 ::1 5000 443",
        "TCP6 192.0.2.7 198.51.100.1 5000 443",
        "TCP6 fe80::1%1 ::1 5000 443",
        "TCP6 [::1] ::1 5000 443",
        "TCP6 1::2::3 ::1 5000 443",
        "TCP6 00001::1 ::1 5000 443",
        "TCP4 192.0.2.7 198.51.100.1 05000 443",
        "TCP4 192.0.2.7 198.51.100.1 +5000 443",
        "TCP4 192.0.2.7 198.51.100.1 -1 443",
        "TCP4 192.0.2.7 198.51.100.1 65536 443",
        "TCP4 192.0.2.7 198.51.100.1 00 443",
        "TCP4 192.0.2.7 198.51.100.1 5000 ",
        "TCP4 192.0.2.7 198.51.100.1 5000",
        "TCP4 192.0.2.7 198.51.100.1 5000 443 ",
        "TCP4 192.0.2.7 198.51.100.1 5000 443 1",
        "TCP4 192.0.2.7  198.51.100.1 5000 443",
        " TCP4 192.0.2.7 198.51.100.1 5000 443",
        "TCP4\t192.0.2.7 198.51.100.1 5000 443",
        "TCP4 192.0.2.7 198.51.100.1 5000 443\r",
        "TCP4 192.0.2.7 198.51.100.1 5000 443\n",
        "tcp4 192.0.2.7 198.51.100.1 5000 443",
        "UDP4 192.0.2.7 198.51.100.1 5000 443",
        "UNKNOWNS",
        "UNKNOWN a\rb",
        "",
        "TCP4",
        "TCP4 \u{661}92.0.2.7 198.51.100.1 5000 443",
    ] {
        let found = error(format!("PROXY {line}\r\n").as_bytes());
        assert!(matches!(found, E::Line(_)), "{line:?}: {found}");
    }
    assert!(matches!(error(b"PROXY TCP4 \xff\r\n"), E::Line(_)));
}

#[test]
fn a_line_has_107_bytes_at_most() {
    let line =
        |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16)).into_bytes();
    assert_eq!(complete(&line(107)).endpoints(), None);
    assert_eq!(error(&line(108)), E::LineTooLong);
    assert_eq!(error(&line(108)[..107]), E::LineTooLong);
    assert!(matches!(ProxyHeader::parse(&line(108)[..106]), Ok(Parsed::Incomplete { .. })));
    assert_eq!(error(&[&b"PROXY "[..], &[b'x'; 5000]].concat()), E::LineTooLong);
    let longest = format!("PROXY TCP6 {0} {0} 65535 65535\r\n", ["ffff"; 8].join(":"));
    assert_eq!(complete(longest.as_bytes()).to_bytes(), longest);
}

#[test]
fn what_is_no_header_is_told_at_the_first_byte_that_differs() {
    for bytes in [&b"G"[..], b"PRI", b"PROXY\t", b"\x16\x03\x01", b"\r\n\r\n\0\r\nQUIT\r"] {
        assert_eq!(ProxyHeader::parse(bytes), Ok(Parsed::NotProxy));
        let before = &bytes[..bytes.len() - 1];
        if bytes[0] != 0x16 {
            assert!(matches!(ProxyHeader::parse(before), Ok(Parsed::Incomplete { .. })));
        }
    }
}

#[test]
fn each_byte_of_a_binary_header_is_judged() {
    let of = |command, family| error(&v2(command, family, &[V4]));
    assert_eq!(of(0x11, 0x11), E::Version(1));
    assert_eq!(of(0x31, 0x11), E::Version(3));
    assert_eq!(of(0x22, 0x11), E::Command(2));
    assert_eq!(of(0x2f, 0x11), E::Command(15));
    for family in (0..=255).filter(|f| ![0, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32].contains(f)) {
        assert_eq!(of(0x21, family), E::Family(family));
    }
    for (family, needed) in [(0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216)] {
        let short = vec![0; needed - 1];
        assert_eq!(
            error(&v2(0x21, family, &[&short])),
            E::ShortBlock { length: needed - 1, needed }
        );
        complete(&v2(0x21, family, &[&short, &[0]]));
    }
    let udp = complete(&v2(0x21, 0x12, &[V4]));
    let ends = (addr("192.0.2.7:5000"), addr("198.51.100.1:443"));
    assert_eq!(udp.endpoints(), Some(ends));
    let is_udp =
        matches!(udp.addresses(), ProxyAddresses::Inet { transport: ProxyTransport::Datagram, .. });
    assert!(is_udp);
}

#[test]
fn a_local_header_needs_no_addresses_and_has_none() {
    for block in [&[][..], V4, b"x"] {
        for family in [0, 0x11, 0x21, 0xff] {
            let header = complete(&v2(0x20, family, &[block]));
            assert_eq!(header, ProxyHeader::local());
            assert_eq!(header.endpoints(), None);
            assert_eq!(header.to_bytes(), v2(0x20, 0, &[]));
        }
    }
}

#[test]
fn a_header_beyond_the_limit_is_refused_at_its_length_field() {
    let start = [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat();
    assert_eq!(error(&start), E::TooLong { length: 65_551, limit: 4096 });
    let local = [&SIGNATURE[..], &[0x20, 0x00, 0xff, 0xff]].concat();
    assert_eq!(error(&local), E::TooLong { length: 65_551, limit: 4096 });
    let more = ProxyHeader::parse_within(&start, ProxyHeader::MAX_LENGTH);
    assert_eq!(more, Ok(Parsed::Incomplete { more: 65_535 }));
    let exact = v2(0x21, 0, &[&tlv_of(4, &[0; 4096 - 19])]);
    assert_eq!(exact.len(), 4096);
    assert!(matches!(ProxyHeader::parse(&exact), Ok(Parsed::Complete { length: 4096, .. })));
    assert!(ProxyHeader::parse_within(&exact, 4095).is_err());
}

#[test]
fn a_tlv_that_is_cut_off_is_an_error() {
    let of = |tlvs: &[u8]| error(&v2(0x21, 0x11, &[V4, tlvs]));
    for cut in [&[1][..], &[1, 0], &[1, 0, 1], &[1, 0, 0, 2], &[1, 0xff, 0xff, 0]] {
        assert_eq!(of(cut), E::CutTlv);
        assert_eq!(of(&tlv_of(0x20, &[&[1, 0, 0, 0, 0], cut].concat())), E::CutTlv);
    }
    let (kind, length) = (0x20, 4);
    assert_eq!(of(&tlv_of(kind, &[1, 0, 0, 0])), E::TlvLength { kind, length });
    assert_eq!(of(&tlv_of(5, &[0; 129])), E::TlvLength { kind: 5, length: 129 });
    let longest = complete(&v2(0x21, 0x11, &[V4, &tlv_of(5, &[9; 128])]));
    assert_eq!(longest.unique_id(), Some(&[9; 128][..]));
}

#[test]
fn a_checksum_is_verified_wherever_it_stands() {
    assert_eq!(crc32c_of(b"123456789"), 0xe306_9283);
    let sum = tlv_of(3, &[0; 4]);
    let right = summed(v2(0x21, 0x11, &[V4, &tlv_of(1, b"h2"), &sum]));
    let header = complete(&right);
    assert!(header.has_crc32c() && header.alpn() == Some(b"h2"));
    assert_eq!(header.tlvs().count(), 1);
    assert_eq!(header.to_bytes(), right);
    // Every bit of the header counts, those before it and its own among them.
    // But for the byte that makes it a checksum.
    for at in (16..right.len()).filter(|at| *at != 33) {
        let mut wrong = right.clone();
        wrong[at] ^= 1;
        assert!(ProxyHeader::parse(&wrong).is_err(), "byte {at}");
    }
    let mut first = v2(0x21, 0x11, &[V4, &sum, &tlv_of(1, b"h2")]);
    let value = crc32c_of(&first).to_be_bytes();
    first[31..35].copy_from_slice(&value);
    assert_eq!(complete(&first), header);
    first[36] ^= 1;
    assert!(ProxyHeader::parse(&first).is_err());
    for bad in [tlv_of(3, &[0; 3]), tlv_of(3, &[0; 5]), tlv_of(3, &[]), [&sum[..], &sum].concat()] {
        let found = error(&v2(0x21, 0x11, &[V4, &bad]));
        assert!(matches!(found, E::Crc32c(_)), "{found}");
    }
    // Refused although the last one is right.
    let twice = summed(v2(0x21, 0x11, &[V4, &sum, &sum]));
    assert!(matches!(error(&twice), E::Crc32c(_)));
    assert!(!complete(&v2(0x21, 0x11, &[V4])).has_crc32c());
}

#[test]
fn every_kind_of_tlv_comes_out_as_it_went_in() {
    let texts = [(0x21, "TLSv1.3"), (0x22, "Jörg"), (0x23, "AES"), (0x24, "SHA256")];
    let more = [(0x25, "EC256"), (0x26, "X25519MLKEM768"), (0x27, "ed25519")];
    let mut subs: Vec<_> = texts
        .iter()
        .chain(&more)
        .map(|(kind, text)| ProxyTlv::new(*kind, text.as_bytes()))
        .collect();
    let der = vec![0x30; 1500];
    subs.push(ProxyTlv::new(0x28, &der));
    let ends = ProxyAddresses::tcp(addr("192.0.2.7:5000"), addr("198.51.100.1:443"));
    let header = ProxyHeader::new(ProxyVersion::V2, ends)
        .with_tlv(ProxyTlv::ALPN, b"h2")
        .and_then(|header| header.with_tlv(ProxyTlv::AUTHORITY, b"a.test"))
        .and_then(|header| header.with_tlv(ProxyTlv::UNIQUE_ID, b"id"))
        .and_then(|header| header.with_tlv(ProxyTlv::NETNS, b"ns"))
        .and_then(|header| header.with_tlv(0xe0, b""))
        .and_then(|header| header.with_ssl(7, 0, &subs))
        .and_then(ProxyHeader::with_crc32c)
        .unwrap();
    let read = complete(&header.to_bytes());
    assert_eq!(read, header);
    assert_eq!((read.alpn(), read.authority()), (Some(&b"h2"[..]), Some("a.test")));
    assert_eq!((read.unique_id(), read.netns()), (Some(&b"id"[..]), Some("ns")));
    assert_eq!((read.tlv(0xe0), read.tlv(0xe1)), (Some(&b""[..]), None));
    let ssl = read.ssl().unwrap();
    assert_eq!((ssl.version(), ssl.common_name()), (Some("TLSv1.3"), Some("Jörg")));
    assert_eq!((ssl.cipher(), ssl.signature_algorithm()), (Some("AES"), Some("SHA256")));
    assert_eq!((ssl.key_algorithm(), ssl.group()), (Some("EC256"), Some("X25519MLKEM768")));
    assert_eq!(ssl.signature_scheme(), Some("ed25519"));
    assert_eq!(ssl.client_certificate(), Some(&der[..]));
}

#[test]
fn a_client_is_verified_only_if_it_showed_a_certificate_that_is_good() {
    let of = |client, verify| {
        let header = ProxyHeader::new(ProxyVersion::V2, ProxyAddresses::Unspecified);
        let header = complete(&header.with_ssl(client, verify, &[]).unwrap().to_bytes());
        let ssl = header.ssl().unwrap();
        assert_eq!((ssl.client(), ssl.verify()), (client, verify));
        let bits = (ssl.is_tls(), ssl.has_cert_conn(), ssl.has_cert_session());
        assert_eq!(bits, (client & 1 != 0, client & 2 != 0, client & 4 != 0));
        ssl.is_verified()
    };
    for client in [3, 5, 7] {
        assert!(of(client, 0) && !of(client, 1) && !of(client, 1 << 24));
    }
    for client in [0, 1, 2, 6] {
        assert!(!of(client, 0));
    }
}

#[test]
fn families_that_differ_are_mapped_to_ipv6() {
    let (v4, v6) = (addr("192.0.2.7:5000"), addr("[2001:db8::1]:443"));
    let of =
        |version, from, to| ProxyHeader::new(version, ProxyAddresses::tcp(from, to)).to_bytes();
    let line = "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 5000 443\r\n";
    assert_eq!(of(ProxyVersion::V1, v4, v6), line);
    let mapped = addr("[::ffff:192.0.2.7]:5000");
    assert_eq!(complete(&of(ProxyVersion::V2, v4, v6)).endpoints(), Some((mapped, v6)));
    assert_eq!(complete(&of(ProxyVersion::V2, v6, v4)).endpoints(), Some((v6, mapped)));
}

#[test]
fn version_1_says_unknown_of_all_but_tcp() {
    let datagrams = complete(&v2(0x21, 0x12, &[V4])).addresses().clone();
    let paths = complete(&v2(0x21, 0x31, &[&[b'a'; 216]])).addresses().clone();
    for addresses in [datagrams, paths, ProxyAddresses::Unspecified] {
        let header = ProxyHeader::new(ProxyVersion::V1, addresses);
        assert_eq!(header.to_bytes(), "PROXY UNKNOWN\r\n");
    }
}

#[test]
fn what_does_not_fit_is_not_added() {
    let v1 = ProxyHeader::new(ProxyVersion::V1, ProxyAddresses::Unspecified);
    assert_eq!(v1.with_tlv(1, b"h2"), Err(E::NoTlvs));
    assert_eq!(ProxyHeader::local().with_crc32c(), Err(E::NoTlvs));
    let header = ProxyHeader::new(ProxyVersion::V2, ProxyAddresses::Unspecified);
    assert!(matches!(header.clone().with_tlv(3, &[0; 4]), Err(E::Crc32c(_))));
    assert!(matches!(header.clone().with_tlv(5, &[0; 129]), Err(E::TlvLength { .. })));
    let full = header.with_tlv(0xe0, &vec![0; 65_532]).unwrap();
    assert_eq!(full.to_bytes().len(), ProxyHeader::MAX_LENGTH);
    assert_eq!(complete(&full.to_bytes()), full);
    assert!(matches!(full.clone().with_crc32c(), Err(E::TooLong { .. })));
    assert!(matches!(full.with_tlv(0xe1, b""), Err(E::TooLong { .. })));
}

#[test]
fn every_header_is_incomplete_at_every_byte_and_whole_at_its_last() {
    for header in valid() {
        for cut in 0..header.len() {
            let parsed = ProxyHeader::parse(&header[..cut]).unwrap();
            let Parsed::Incomplete { more } = parsed else { panic!("{parsed:?}") };
            assert!((1..=header.len() - cut).contains(&more), "{more} more at {cut}");
        }
        let read = complete(&header);
        assert_eq!(complete(&read.to_bytes()), read);
        let followed = [&header[..], &header].concat();
        let whole = Parsed::Complete { header: read, length: header.len() };
        assert_eq!(ProxyHeader::parse(&followed), Ok(whole));
    }
}

/// What comes of `bytes` when they come one by one.
fn in_pieces(bytes: &[u8]) -> Result<Parsed, ProxyHeaderError> {
    let is_settled = |parsed: &Result<Parsed, _>| !matches!(parsed, Ok(Parsed::Incomplete { .. }));
    let mut cuts = (0..=bytes.len()).map(|cut| ProxyHeader::parse(&bytes[..cut]));
    cuts.find(is_settled).unwrap_or_else(|| ProxyHeader::parse(bytes))
}

#[test]
fn a_hundred_thousand_mutations_neither_panic_nor_depend_on_their_pieces() {
    let seeds = valid();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // xorshift64: the same mutations in every run.
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for turn in 0..100_000 {
        let mut bytes = seeds[next() % seeds.len()].clone();
        for _ in 0..=next() % 3 {
            let at = next() % bytes.len();
            match next() % 4 {
                0 => bytes[at] = next() as u8,
                1 => bytes.insert(at, next() as u8),
                2 if bytes.len() > 1 => drop(bytes.remove(at)),
                _ => bytes[at] ^= 1 << (next() % 8),
            }
        }
        let parsed = ProxyHeader::parse(&bytes);
        if turn % 50 == 0 {
            assert_eq!(in_pieces(&bytes), parsed);
        }
        if let Ok(Parsed::Complete { header, .. }) = parsed {
            assert_eq!(complete(&header.to_bytes()), header);
        }
    }
}

fn any_addr() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<(u32, u16)>().prop_map(|(ip, port)| (Ipv4Addr::from(ip), port).into()),
        any::<(u128, u16)>().prop_map(|(ip, port)| (Ipv6Addr::from(ip), port).into()),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        from in any_addr(), to in any_addr(), v1 in any::<bool>(), sum in any::<bool>(),
        tlvs in vec((0xe0..=0xff_u8, vec(any::<u8>(), 0..50)), 0..8),
    ) {
        let version = if v1 { ProxyVersion::V1 } else { ProxyVersion::V2 };
        let mut header = ProxyHeader::new(version, ProxyAddresses::tcp(from, to));
        if !v1 {
            for (kind, value) in &tlvs {
                header = header.with_tlv(*kind, value).unwrap();
            }
            if sum {
                header = header.with_crc32c().unwrap();
            }
        }
        let bytes = header.to_bytes();
        prop_assert_eq!(complete(&bytes), header);
        prop_assert_eq!(Detected::of(&bytes), if v1 { Detected::V1 } else { Detected::V2 });
    }

    #[test]
    fn lines_of_any_text_are_the_same_in_pieces(text in "(TCP[46]|UNKNOWN)?[ 0-9a-f.:\r\n]{0,110}") {
        let bytes = format!("PROXY {text}\r\n").into_bytes();
        prop_assert_eq!(in_pieces(&bytes), ProxyHeader::parse(&bytes));
    }
}
