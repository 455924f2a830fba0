//! Revocation lists: a list that is taken changes who is let in, and counts once.
#![no_main]

use bartizan_fuzz::{fixtures, now};
use bartizan_tls::{CertStore, ClientAuth, PemSource, fuzzing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|list: &[u8]| {
    let without = ClientAuth::required(PemSource::memory("ca.pem", fixtures::CA_PEM));
    let auth = without.clone().crl(PemSource::memory("list.crl", list));
    let Ok((trust, notices)) = fuzzing::trust(&auth, now()) else { return };
    let (other, _) = fuzzing::trust(&without, now()).expect("no list");
    assert_ne!(trust, other);
    assert!(notices.iter().all(|notice| !notice.is_empty()));
    let twice = auth.clone().crl(PemSource::memory("again.crl", list));
    let (again, _) = fuzzing::trust(&twice, now()).expect("the same twice");
    assert_eq!(again, trust);
    let store = CertStore::builder().strict_sni(true).client_auth(auth).clock(now()).build();
    assert!(store.is_ok(), "a policy that loads, but not in a store");
});
