//! Private keys: the public half that a file tells is the one that the key has.
#![no_main]

use bartizan_fuzz::fixtures;
use bartizan_tls::fuzzing::key_belongs;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((format, key)) = input.split_first() else { return };
    for cert in [fixtures::P256, fixtures::P384, fixtures::RSA] {
        // What the crypto library does not take is not served, whatever the file tells.
        if let (Some(told), Some(is)) = key_belongs(format % 3, key, cert) {
            assert_eq!(told, is, "the file tells another public half");
        }
    }
});
