//! Client authorities: a file that is taken lets in the same whatever is in it twice.
#![no_main]

use bartizan_fuzz::{assert_cites_nothing, now};
use bartizan_tls::{CertStore, ClientAuth, PemSource, fuzzing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let auth = ClientAuth::required(PemSource::memory("ca.pem", text));
    let trust = match fuzzing::trust(&auth, now()) {
        Ok((trust, _)) => trust,
        Err(error) => return assert_cites_nothing(&error.to_string(), text),
    };
    let sections = fuzzing::pem(text).expect("it was read");
    assert!(sections.iter().any(|(_, label, _)| *label == "CERTIFICATE"));
    let twice = ClientAuth::required(PemSource::memory("ca.pem", [text, b"\n", text].concat()));
    let (again, _) = fuzzing::trust(&twice, now()).expect("the same twice");
    assert_eq!(again, trust);
    let store = CertStore::builder().strict_sni(true).client_auth(auth).clock(now()).build();
    assert!(store.is_ok(), "a policy that loads, but not in a store");
});
