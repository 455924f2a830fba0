//! Client identities: no name in them can end a line or a string, whatever the certificate holds.
#![no_main]

use bartizan_tls::fuzzing::client_identity;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|leaf: &[u8]| {
    let identity = client_identity(&[leaf, b"issuer"]);
    assert_eq!(identity.chain, [leaf, b"issuer"]);
    assert_ne!(identity.sha256, [0; 32]);
    if let Some(name) = &identity.common_name {
        assert!(!name.is_empty() && !name.contains(char::is_control));
    }
    let names = || identity.dns.iter().chain(&identity.uris).chain(&identity.emails);
    assert!(
        names().all(|name| !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b)))
    );
    assert!(identity.dns.iter().all(|name| *name == name.to_ascii_lowercase()));
    assert!(identity.serial.len() < 2 || identity.serial[0] != 0);
    assert_eq!(identity.not_before.is_some(), identity.not_after.is_some());
    assert_eq!(identity.serial_hex().len(), 2 * identity.serial.len());
    assert!(identity.spiffe_id().is_none_or(|id| identity.uris.iter().any(|uri| uri == id)));
});
