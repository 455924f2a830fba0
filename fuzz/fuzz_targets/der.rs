//! DER elements: they follow one another without a gap, and read the same alone.
#![no_main]

use bartizan_tls::fuzzing::{der_elements, der_kinds};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|der: &[u8]| walk(der, 0));

fn walk(der: &[u8], depth: usize) {
    let mut rest = der;
    for (raw, content) in der_elements(der) {
        assert!(raw.len() >= content.len() + 2, "no room for identifier and length");
        assert!(raw.ends_with(content));
        rest = rest.strip_prefix(raw).expect("the next bytes");
        assert_eq!(der_elements(raw), [(raw, content)]);
        let [whole, sequence, bits, time] = der_kinds(raw);
        assert_eq!((whole, sequence), (raw[0] == 0x30, raw[0] == 0x30));
        assert!(!bits || raw[0] == 0x03 && content[0] == 0);
        assert!(!time || raw[0] == 0x17 || raw[0] == 0x18);
        if depth < 8 && raw[0] & 0x20 != 0 {
            walk(content, depth + 1);
        }
    }
    // What is left is no element, so it is none at its own either.
    assert!(der_elements(rest).is_empty());
}
