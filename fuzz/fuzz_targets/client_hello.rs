//! ClientHellos: a certificate that is chosen for a name is for that name.
//!
//! The input is the body of the message; its header and the records around it are put on here.
#![no_main]

use std::sync::LazyLock;

use bartizan_fuzz::{fixtures, now};
use bartizan_tls::fuzzing::choose;
use bartizan_tls::{CertStore, ClientAuth, HostRules, PemSource};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

static STORES: LazyLock<[CertStore; 2]> = LazyLock::new(|| [false, true].map(store));

fuzz_target!(|body: &[u8]| {
    let Ok(length) = u16::try_from(body.len()) else { return };
    let [high, low] = length.to_be_bytes();
    let message = [&[1, 0, high, low], body].concat();
    let mut records = Vec::new();
    for fragment in message.chunks(1 << 14) {
        records.extend_from_slice(&[22, 3, 1]);
        records.extend_from_slice(&(fragment.len() as u16).to_be_bytes());
        records.extend_from_slice(fragment);
    }

    let mut acceptor = Acceptor::default();
    let mut unread = records.as_slice();
    while !unread.is_empty() && acceptor.read_tls(&mut unread).is_ok_and(|read| read > 0) {}
    let Ok(Some(accepted)) = acceptor.accept() else { return };
    let hello = accepted.client_hello();
    let name = hello.server_name();
    let [lenient, strict] = &*STORES;
    let known = name.is_some_and(|name| strict.serves(name));

    let of_strict = choose(strict, &hello);
    assert!(of_strict.is_none() || known, "a certificate for a name that has none");
    let of_lenient = choose(lenient, &hello);
    if let Some((source, is_default)) = &of_lenient {
        assert!(*is_default || known, "not the default for a name that has none");
        // The first one and its like are the default, also for those who ask for them by name.
        assert_eq!(*is_default, source.starts_with("a-"));
        if known {
            assert_eq!(of_strict.map(|(source, _)| source).as_ref(), Some(source));
            // `a-rsa` is for the same names as `a-p256`.
            let found = lenient.lookup(name.unwrap_or_default()).expect("it is served");
            assert_eq!(found.source.split('-').next(), source.split('-').next());
        }
    }
});

fn store(strict: bool) -> CertStore {
    let mut store = CertStore::builder().strict_sni(strict).clock(now());
    for (name, pem) in fixtures::BUNDLES {
        store = store.pem(name, pem);
    }
    let trust = ClientAuth::required(PemSource::memory("ca.pem", fixtures::CA_PEM));
    store.host(["*.b.test"], HostRules::new().client_auth(trust)).build().expect("the fixtures")
}
