//! Ticket key files: two processes with the same file open each other's tickets; errors cite no key.
#![no_main]

use std::sync::Arc;

use bartizan_fuzz::{assert_cites_nothing, now};
use bartizan_tls::TicketKeys;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match TicketKeys::from_haproxy(text) {
        Ok(keys) => {
            let lines = text.split(|b| *b == b'\n').filter(|line| !line.trim_ascii().is_empty());
            assert!(lines.count() >= 3);
            assert_cites_nothing(&format!("{keys:?}"), text);
            let mut dos = Vec::new();
            for line in text.split(|b| *b == b'\n') {
                dos.extend_from_slice(line);
                dos.extend_from_slice(b" \r\n\t\r\n");
            }
            let same = TicketKeys::from_haproxy(&dos).expect("other line ends, and empty lines");
            assert_shared(&keys, &same);
        }
        Err(error) => assert_cites_nothing(&error.to_string(), text),
    }
    // nginx' are as they stand in their files, so the length decides.
    assert_eq!(TicketKeys::from_nginx([text]).is_ok(), matches!(text.len(), 48 | 80));
    let files = || text.chunks_exact(48);
    match TicketKeys::from_nginx(files()) {
        Ok(keys) => assert_shared(&keys, &TicketKeys::from_nginx(files()).expect("the same")),
        Err(_) => assert!(text.len() < 48),
    }
    assert_eq!(TicketKeys::derived(text).is_ok(), text.len() >= 32);
});

fn assert_shared(one: &TicketKeys, other: &TicketKeys) {
    let ticket = one.ticketer([0; 32], Arc::new(now())).encrypt(b"session").expect("a ticket");
    let session = other.ticketer([0; 32], Arc::new(now())).decrypt(&ticket);
    assert_eq!(session.as_deref(), Some(&b"session"[..]));
}
