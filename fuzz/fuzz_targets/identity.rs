//! A certificate file: an identity that is read is whole, and reads the same from its own order.
#![no_main]

use bartizan_fuzz::{assert_cites_nothing, now, to_pem};
use bartizan_tls::{Identity, fuzzing};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let identity = match Identity::from_pem_at("input.pem", text, &now()) {
        Ok(identity) => identity,
        Err(error) => return assert_cites_nothing(&error.to_string(), text),
    };
    assert!(identity.not_before() <= now() && now() <= identity.not_after());
    let sections = fuzzing::pem(text).expect("it was read");
    let (mut key, mut certs) = (None, Vec::new());
    for (_, label, der) in &sections {
        match *label {
            "CERTIFICATE" => certs.push(der.as_slice()),
            "X509 CRL" => {}
            label => assert!(key.replace(to_pem(label, der)).is_none(), "two keys"),
        }
    }
    let mut chain: Vec<&[u8]> = identity.chain().iter().map(|der| &**der).collect();
    let in_order: String = chain.iter().map(|der| to_pem("CERTIFICATE", der)).collect();
    let in_order = key.expect("a key") + &in_order;
    let again = Identity::from_pem_at("again.pem", in_order.as_bytes(), &now()).expect("the same");
    assert_eq!(again.chain(), identity.chain());
    chain.sort_unstable();
    certs.sort_unstable();
    assert_eq!(chain, certs, "a certificate was lost");
});
