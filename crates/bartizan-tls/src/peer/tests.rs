use std::net::Ipv6Addr;
use std::time::{Duration, SystemTime};

use bartizan_testkit::{Leaf, TestCa};

use super::*;

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

fn identity_of(leaf: Leaf) -> ClientIdentity {
    client_identity(&TestCa::new("test root").issue(leaf).chain_der())
}

/// The identity after `from` in the leaf, which has to be there, became `to`.
fn identity_after(leaf: Leaf, from: &[u8], to: &[u8]) -> ClientIdentity {
    let minted = TestCa::new("test root").issue(leaf);
    let mut der = minted.cert_der().to_vec();
    let at = der.windows(from.len()).rposition(|window| window == from).unwrap();
    der[at..at + to.len()].copy_from_slice(to);
    client_identity(&[der.into()])
}

#[test]
fn every_field_is_taken_from_the_leaf() {
    let ca = TestCa::new("test root").intermediate("people");
    let alice = ca.issue(
        Leaf::client("Alice Ängström")
            .dns("Alice.Example.TEST")
            .dns("two.test")
            .uri("spiffe://Example.test/Alice")
            .email("Alice@example.test")
            .ip([192, 0, 2, 7])
            .ip(Ipv6Addr::LOCALHOST)
            .serial(&[0x80, 0x01])
            .not_before(at(1_000))
            .not_after(at(2_000_000_000)),
    );
    let identity = client_identity(&alice.chain_der());
    assert_eq!(identity.common_name.as_deref(), Some("Alice Ängström"));
    assert_eq!(identity.dns, ["alice.example.test", "two.test"], "lower case");
    assert_eq!(identity.uris, ["spiffe://Example.test/Alice"], "as it is");
    assert_eq!(identity.emails, ["Alice@example.test"], "as it is");
    assert_eq!(identity.ips, [IpAddr::from([192, 0, 2, 7]), IpAddr::from(Ipv6Addr::LOCALHOST)]);
    assert_eq!(identity.serial, [0x80, 0x01], "without the zero that makes it positive");
    assert_eq!(identity.sha256[..], *digest(&SHA256, alice.cert_der()).as_ref());
    assert_eq!(
        (identity.not_before, identity.not_after),
        (Some(at(1_000)), Some(at(2_000_000_000)))
    );
    let chain: Vec<_> = alice.chain_der().iter().map(|cert| cert.to_vec()).collect();
    assert_eq!(identity.chain, chain);
    assert_eq!(identity.chain.len(), 2);
}

#[test]
fn of_a_leaf_that_is_no_certificate_only_the_bytes_are_known() {
    let alice = TestCa::new("test root").issue(Leaf::client("alice"));
    let mut longer = alice.cert_der().to_vec();
    longer.push(0);
    for garbage in [&b""[..], b"garbage", &longer] {
        let identity = client_identity(&[CertificateDer::from(garbage)]);
        assert_eq!(identity.chain, [garbage]);
        assert_eq!(identity.sha256[..], *digest(&SHA256, garbage).as_ref());
        assert_eq!((identity.common_name, identity.not_after), (None, None));
        assert!(identity.serial.is_empty());
    }
    assert!(client_identity(&[]).chain.is_empty());
}

#[test]
fn names_with_control_characters_are_left_out_and_no_others() {
    // "\0" first: software in C would read the rest away.
    for bad in ["ev\0l", "ev\nl", "ev\x1bl", "ev\x7fl"] {
        let bad = bad.as_bytes();
        let dns = || Leaf::client("alice").dns("evil.test").dns("good.test");
        assert_eq!(identity_after(dns(), b"evil", bad).dns, ["good.test"], "{bad:?}");
        let uri = || Leaf::client("alice").uri("spiffe://evil/").uri("spiffe://good/");
        assert_eq!(identity_after(uri(), b"evil", bad).uris, ["spiffe://good/"], "{bad:?}");
        let mail = || Leaf::client("alice").email("evil@a.test").email("good@a.test");
        assert_eq!(identity_after(mail(), b"evil", bad).emails, ["good@a.test"], "{bad:?}");
        assert_eq!(identity_after(Leaf::client("evil"), b"evil", bad).common_name, None);
    }
    // In UTF-8, the control characters beyond ASCII.
    let c1 = identity_after(Leaf::client("evil"), b"evil", "e\u{85}l".as_bytes());
    assert_eq!(c1.common_name, None);
    assert_eq!(identity_of(Leaf::client("a b")).common_name.as_deref(), Some("a b"));
}

#[test]
fn of_several_common_names_the_last_counts_even_if_it_is_refused() {
    let leaf = || Leaf::client("first").second_common_name("last");
    assert_eq!(identity_of(leaf()).common_name.as_deref(), Some("last"));
    assert_eq!(identity_after(leaf(), b"last", b"la\0t").common_name, None);
}

#[test]
fn alternative_names_are_ascii() {
    let dns = Leaf::client("alice").dns("evil.test").dns("good.test");
    assert_eq!(identity_after(dns, b"evil", "evä".as_bytes()).dns, ["good.test"]);
    let dns = Leaf::client("alice").dns("evil.test").dns("good.test");
    assert_eq!(identity_after(dns, b"evil", b"ev\xffl").dns, ["good.test"], "not even UTF-8");
}

#[test]
fn common_names_of_every_string_type_are_read() {
    // What rcgen writes is a UTF8String (12).
    let read = |tag: u8, value: &[u8; 8]| {
        let mut to = vec![tag, 8];
        to.extend(value);
        identity_after(Leaf::client("12345678"), b"\x0c\x0812345678", &to).common_name
    };
    for tag in [12, 19, 22, 20, 26] {
        assert_eq!(read(tag, b"abcdefgh").as_deref(), Some("abcdefgh"), "tag {tag}");
    }
    assert_eq!(read(18, b"12345678").as_deref(), Some("12345678"), "NumericString");
    assert_eq!(read(20, b"Ren\xe9 abc").as_deref(), Some("René abc"), "T61String");
    assert_eq!(read(30, b"\0\xe4\0b\x20\xac\0d").as_deref(), Some("äb€d"), "BMPString");
    assert_eq!(read(28, b"\0\0\0a\0\x01\xf6\0").as_deref(), Some("a😀"), "UniversalString");
    assert_eq!(read(30, b"\0a\0\0\0c\0d"), None, "NUL in a BMPString");
    assert_eq!(read(30, b"\xd8\0\0a\0b\0c"), None, "half a surrogate");
    assert_eq!(read(28, b"\0\0\0a\xff\0\0\0"), None, "beyond Unicode");
    assert_eq!(read(12, b"abc\xff5678"), None, "not UTF-8");
    assert_eq!(read(4, b"abcdefgh"), None, "an OCTET STRING");
}

#[test]
fn addresses_have_four_bytes_or_sixteen() {
    let bytes: Vec<u8> = (0..32).collect();
    for length in 0..32 {
        let is_address = [4, 16].contains(&length);
        assert_eq!(address(&bytes[..length]).is_some(), is_address, "{length} bytes");
    }
}

#[test]
fn serial_numbers_lose_their_leading_zeros_and_zero_keeps_one() {
    for (serial, expected) in [
        (&[0, 0x80, 0][..], &[0x80, 0][..]),
        (&[5], &[5]),
        (&[0], &[0]),
        (&[0, 0], &[0]),
        (&[], &[]),
    ] {
        assert_eq!(significant(serial), expected);
    }
}

#[test]
fn no_changed_byte_makes_it_panic() {
    let leaf = Leaf::client("alice").dns("a.test").uri("spiffe://a/").ip([1, 2, 3, 4]);
    let der = TestCa::new("test root").issue(leaf.email("a@a.test")).cert_der().to_vec();
    for at in 0..der.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, der[at] ^ 1, der[at].wrapping_add(1)] {
            let mut changed = der.clone();
            changed[at] = value;
            let identity = client_identity(&[changed.into()]);
            assert_eq!(identity.chain.len(), 1);
        }
        client_identity(&[der[..at].to_vec().into()]);
    }
}
