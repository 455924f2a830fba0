//! PROXY headers: what they say does not depend on how they come in, and written again they say
//! the same.
#![no_main]

use bartizan_net::{Parsed, ProxyHeader, ProxyTlv};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let parse = |bytes: &[u8]| ProxyHeader::parse_within(bytes, ProxyHeader::MAX_LENGTH);
    let parsed = parse(bytes);

    let is_settled = |parsed: &Result<Parsed, _>| !matches!(parsed, Ok(Parsed::Incomplete { .. }));
    let mut in_pieces = (0..=bytes.len()).map(|cut| parse(&bytes[..cut]));
    let first = in_pieces.find(is_settled);
    assert_eq!(first.unwrap_or_else(|| parsed.clone()), parsed, "byte by byte");

    if let Err(error) = &parsed {
        assert!(!error.to_string().is_empty());
    }
    let Ok(Parsed::Complete { header, length }) = parsed else { return };
    assert!((15..=bytes.len()).contains(&length));
    // Each TLV has at least its head.
    assert!(header.tlvs().count() <= length / 3);
    assert!(header.tlvs().all(|tlv| tlv.kind != ProxyTlv::CRC32C));
    assert!(header.unique_id().is_none_or(|id| id.len() <= 128));
    assert_eq!(header.ssl().is_some(), header.tlv(ProxyTlv::SSL).is_some());

    let written = header.to_bytes();
    let length = written.len();
    assert_eq!(parse(&written), Ok(Parsed::Complete { header, length }), "written again");
});
