//! Frames of HTTP/2 backends: what is announced does not depend on how the bytes are cut.
#![no_main]

use bartizan_http::fuzzing::announced;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    let whole = announced([bytes]);
    assert!(whole.len() <= bytes.len() / 9, "a frame has nine bytes at least");
    assert_eq!(announced(bytes.chunks(usize::from(cut).max(1))), whole);
    let (front, back) = bytes.split_at(usize::from(cut).min(bytes.len()));
    assert_eq!(announced([front, back]), whole);
});
