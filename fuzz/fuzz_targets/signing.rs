//! Requests to a key server: what is read is what was written, and only what TLS signs is signed.
#![no_main]

use bartizan_tls::SignedContent;
use bartizan_tls::fuzzing::signing_request;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(again) = signing_request(bytes) {
        assert!(bytes.starts_with(&again));
    }
    if let Some(content) = SignedContent::of(bytes) {
        let padded = bytes.starts_with(&[b' '; 64]);
        assert_eq!(content.is_tls13(), padded && bytes[64..].starts_with(b"TLS 1.3, "));
    }
});
