//! Tickets: what opens is what was sealed, whole, and for no other trust.
#![no_main]

use std::sync::Arc;

use bartizan_fuzz::{fixtures, now};
use bartizan_tls::TicketKeys;
use libfuzzer_sys::fuzz_target;

/// Key name, nonce and tag.
const AROUND: usize = 16 + 12 + 16;

fuzz_target!(|input: &[u8]| {
    let keys = TicketKeys::derived(fixtures::TICKET_SECRET).expect("long enough");
    let (ticketer, other) =
        (keys.ticketer([1; 32], Arc::new(now())), keys.ticketer([2; 32], Arc::new(now())));
    if let Some(session) = ticketer.decrypt(input) {
        assert_eq!(session.len() + AROUND, input.len());
        assert_eq!(other.decrypt(input), None);
    }
    let Some(mut ticket) = ticketer.encrypt(input) else {
        assert!(input.len() + AROUND > usize::from(u16::MAX));
        return;
    };
    assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(input));
    assert_eq!(other.decrypt(&ticket), None);
    assert_eq!(ticketer.decrypt(&ticket[..ticket.len() - 1]), None);
    let at = input.first().map_or(0, |b| usize::from(*b)) % ticket.len();
    ticket[at] ^= 1;
    assert_eq!(ticketer.decrypt(&ticket), None);
});
