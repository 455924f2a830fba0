//! Authorities: the host that the guard asks about is the one that others read.
#![no_main]

use std::net::Ipv6Addr;

use bartizan_http::fuzzing::host;
use http::uri::Authority;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Some(host) = host(text) else { return };
    assert!(!host.is_empty());
    assert_eq!(host, host.to_ascii_lowercase());
    let others = Authority::try_from(text).expect("http takes it as well");
    let theirs = others.host().to_ascii_lowercase();
    if text[0] == b'[' {
        assert!(host.parse::<Ipv6Addr>().is_ok());
        assert_eq!(theirs, format!("[{host}]"));
    } else {
        assert!(host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{host}");
        assert_eq!(theirs.strip_suffix('.').unwrap_or(&theirs), host);
    }
});
