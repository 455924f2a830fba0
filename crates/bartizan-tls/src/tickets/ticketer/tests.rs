use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::tickets::tests::{Hands, PERIOD, SECRET, TRUST, unix};

fn random() -> Ticketer {
    Ticketer::new(TicketKeys::random(), TRUST, Arc::new(unix(0)))
}

/// Made by Python's `cryptography` from `SECRET` and `TRUST`, with the nonce 0, 1, 2 up to 11.
const FOREIGN: &str = "222ed923fb3fc846969567be3c4a8d83000102030405060708090a0b\
                       0fa9801217fc34f4b6f80f0eafefe97027f4adc55888c1";

#[test]
fn the_format_is_the_documented_one() {
    let keys = TicketKeys::derived(SECRET).unwrap();
    let ticketer = Ticketer::new(keys, TRUST, Arc::new(unix(0)));
    let ticket: Vec<u8> = (0..FOREIGN.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&FOREIGN[i..i + 2], 16).unwrap())
        .collect();
    assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    let own = ticketer.encrypt(b"session").unwrap();
    assert_eq!((own.len(), &own[..NAME]), (ticket.len(), &ticket[..NAME]));
}

#[test]
fn a_ticket_that_was_changed_anywhere_is_refused() {
    let ticketer = random();
    let ticket = ticketer.encrypt(b"session").unwrap();
    assert!(ticketer.decrypt(&ticket).is_some());
    for position in 0..ticket.len() {
        for bit in 0..8 {
            let mut changed = ticket.clone();
            changed[position] ^= 1 << bit;
            assert!(ticketer.decrypt(&changed).is_none(), "bit {bit} of byte {position}");
        }
    }
}

#[test]
fn a_ticket_that_is_cut_or_longer_is_refused() {
    let ticketer = random();
    let ticket = ticketer.encrypt(b"").unwrap();
    assert_eq!(ticketer.decrypt(&ticket).as_deref(), Some(&b""[..]));
    for length in 0..ticket.len() {
        assert!(ticketer.decrypt(&ticket[..length]).is_none(), "{length} bytes");
    }
    assert!(ticketer.decrypt(&[&ticket[..], &[0]].concat()).is_none());
    // A name that is known, and 64 KiB of garbage behind it.
    let garbage = [&ticket[..NAME], &[0x5a; 65_536][..]].concat();
    assert!(ticketer.decrypt(&garbage).is_none());
    assert!(ticketer.decrypt(&garbage[NAME..]).is_none());
}

#[test]
fn a_key_name_belongs_to_one_epoch_and_one_trust() {
    let keys = TicketKeys::derived(SECRET).unwrap();
    let name = |trust, seconds| {
        let ticketer = Ticketer::new(keys.clone(), trust, Arc::new(unix(seconds)));
        ticketer.encrypt(b"session").unwrap()[..NAME].to_vec()
    };
    assert_eq!(name(TRUST, 0), name(TRUST, PERIOD - 1));
    assert_ne!(name(TRUST, 0), name(TRUST, PERIOD));
    assert_ne!(name(TRUST, 0), name([8; 32], 0));
}

#[test]
fn the_key_name_is_authenticated() {
    let ring = Ring::empty();
    let mut keyring = Keyring::new(&ring, &TRUST);
    keyring.keys = [b"a name of a key!", b"another key's na"]
        .map(|name| Key { name: *name, ..Key::new(&Secret::default(), &TRUST) })
        .into();
    let (keys, clock) = (TicketKeys::random(), Arc::new(unix(0)));
    keyring.generation = keys.ring(unix(0)).generation;
    let ticketer = Ticketer { keys, trust: TRUST, clock, cached: ArcSwap::from_pointee(keyring) };
    let mut ticket = ticketer.encrypt(b"session").unwrap();
    assert!(ticketer.decrypt(&ticket).is_some());
    // The same key under another name, so that nothing but the name can be what is wrong.
    ticket[..NAME].copy_from_slice(b"another key's na");
    assert!(ticketer.decrypt(&ticket).is_none());
}

#[test]
fn no_two_tickets_have_the_same_nonce() {
    let ticketer = random();
    let mut nonces: Vec<_> =
        (0..500).map(|_| ticketer.encrypt(b"session").unwrap()[NAME..HEAD].to_vec()).collect();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 500);
}

#[test]
fn a_session_too_long_for_a_ticket_gets_none() {
    let ticketer = random();
    let most = usize::from(u16::MAX) - HEAD - TAG;
    let ticket = ticketer.encrypt(&vec![1; most]).unwrap();
    assert_eq!(ticket.len(), usize::from(u16::MAX));
    assert!(ticketer.decrypt(&ticket).is_some());
    assert!(ticketer.encrypt(&vec![1; most + 1]).is_none());
}

#[test]
fn keys_are_derived_once_an_epoch() {
    let clock = Hands::at(PERIOD - 1);
    let ticketer = Ticketer::new(TicketKeys::random(), TRUST, Arc::clone(&clock) as _);
    let before = Arc::clone(&ticketer.keyring());
    ticketer.encrypt(b"session");
    assert!(Arc::ptr_eq(&before, &ticketer.keyring()));
    clock.set(PERIOD);
    let after = Arc::clone(&ticketer.keyring());
    assert!(!Arc::ptr_eq(&before, &after));
    // Set back across the border: nothing new, and so nothing to derive.
    clock.set(PERIOD - 1);
    assert!(Arc::ptr_eq(&after, &ticketer.keyring()));
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(plain in vec(any::<u8>(), 0..300)) {
        let ticketer = random();
        let ticket = ticketer.encrypt(&plain).unwrap();
        prop_assert_eq!(ticketer.decrypt(&ticket), Some(plain));
    }

    #[test]
    fn garbage_is_refused(garbage in vec(any::<u8>(), 0..200)) {
        prop_assert!(random().decrypt(&garbage).is_none());
    }
}
