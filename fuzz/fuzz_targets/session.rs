//! Sessions in tickets: certificates are found whole, in their order, whatever follows.
#![no_main]

use bartizan_tls::fuzzing::client_chain;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|session: &[u8]| {
    let Some(chain) = client_chain(session) else { return };
    let mut written = Vec::new();
    for cert in &chain {
        written.extend_from_slice(&(cert.len() as u32).to_be_bytes()[1..]);
        written.extend_from_slice(cert);
    }
    if !chain.is_empty() {
        let list = [&(written.len() as u32).to_be_bytes()[1..], &*written].concat();
        assert!(session.windows(list.len()).any(|window| window == list), "made up");
    }
    assert_eq!(client_chain(&[session, b"more"].concat()), Some(chain));
});
