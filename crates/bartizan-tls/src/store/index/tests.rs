use proptest::prelude::*;

use super::*;

const ALL_SUITES: [u16; 2] = [0x1301, 0xc02b];
const ECDSA: [u16; 1] = [0x0403];
const RSA: [u16; 1] = [0x0804];
const BOTH: [u16; 2] = [0x0804, 0x0403];

fn patterns(names: &[&str]) -> Vec<HostPattern> {
    names.iter().map(|name| HostPattern::parse(name).unwrap()).collect()
}

fn index(certs: &[(KeyKind, &[&str])], strict: bool) -> CertIndex {
    build(certs, strict).0
}

fn build(certs: &[(KeyKind, &[&str])], strict: bool) -> (CertIndex, Vec<Shadowed>) {
    let certs: Vec<_> = certs.iter().map(|(kind, names)| (*kind, patterns(names))).collect();
    CertIndex::build(certs.iter().map(|(kind, names)| (*kind, &names[..])), strict)
}

fn offer<'a>(sni: Option<&'a str>, schemes: &[u16]) -> Offer<'a> {
    Offer::new(sni, schemes.iter().copied(), ALL_SUITES)
}

fn chosen(index: &CertIndex, sni: Option<&str>, schemes: &[u16]) -> Result<u32, NoCertificate> {
    index.choose(&offer(sni, schemes)).map(|choice| choice.entry)
}

use KeyKind::{P256, Rsa};

#[test]
fn exact_comes_before_wildcard_and_wildcard_before_default() {
    let index = index(
        &[
            (P256, &["default.test"]),
            (P256, &["*.example.com", "example.com"]),
            (P256, &["www.example.com"]),
        ],
        false,
    );
    for (sni, entry) in [
        (Some("www.example.com"), 2),
        (Some("WWW.EXAMPLE.com"), 2),
        (Some("other.example.com"), 1),
        (Some("example.com"), 1),
        (Some("a.other.example.com"), 0),
        (Some("unknown.test"), 0),
        (Some("com"), 0),
        (None, 0),
    ] {
        assert_eq!(chosen(&index, sni, &ECDSA), Ok(entry), "{sni:?}");
    }
    let is_default = |sni| index.choose(&offer(sni, &ECDSA)).unwrap().is_default;
    assert!(is_default(Some("unknown.test")) && is_default(None));
    assert!(is_default(Some("default.test")));
    assert!(!is_default(Some("www.example.com")));
}

#[test]
fn strict_sni_serves_no_name_but_its_own() {
    let index = index(&[(P256, &["*.example.com"])], true);
    assert_eq!(chosen(&index, Some("www.example.com"), &ECDSA), Ok(0));
    assert_eq!(chosen(&index, Some("other.test"), &ECDSA), Err(NoCertificate::UnknownName));
    assert_eq!(chosen(&index, None, &ECDSA), Err(NoCertificate::NoName));
}

#[test]
fn an_empty_index_refuses_everybody() {
    let index = index(&[], false);
    assert_eq!(chosen(&index, Some("a.test"), &ECDSA), Err(NoCertificate::UnknownName));
    assert_eq!(chosen(&index, None, &ECDSA), Err(NoCertificate::NoName));
}

#[test]
fn the_client_gets_a_kind_of_key_that_it_can_check_the_faster_one_first() {
    let index = index(&[(Rsa, &["a.test"]), (P256, &["a.test"])], false);
    for sni in [Some("a.test"), Some("unknown.test"), None] {
        assert_eq!(chosen(&index, sni, &BOTH), Ok(1), "{sni:?}");
        assert_eq!(chosen(&index, sni, &ECDSA), Ok(1), "{sni:?}");
        assert_eq!(chosen(&index, sni, &RSA), Ok(0), "{sni:?}");
    }
}

#[test]
fn below_tls_1_3_the_cipher_suites_count_as_well() {
    let index = index(&[(Rsa, &["a.test"]), (P256, &["a.test"])], false);
    let entry = |suites: &[u16]| {
        index.choose(&Offer::new(Some("a.test"), BOTH, suites.iter().copied())).unwrap().entry
    };
    assert_eq!(entry(&[0xc02f]), 0);
    assert_eq!(entry(&[0xc02b]), 1);
    // Whether this client speaks TLS 1.3 cannot be told; RSA is right in either case.
    assert_eq!(entry(&[0xc02f, 0x1301]), 0);
    assert_eq!(entry(&[0x1301]), 1);
    let only_ecdsa = self::index(&[(P256, &["a.test"])], false);
    let offer = Offer::new(Some("a.test"), BOTH, [0xc02f, 0x1301]);
    assert_eq!(only_ecdsa.choose(&offer).unwrap().entry, 0);
}

#[test]
fn where_the_exact_name_has_no_kind_that_fits_the_wildcard_may() {
    let index =
        index(&[(P256, &["other.test"]), (Rsa, &["*.a.test"]), (P256, &["www.a.test"])], false);
    assert_eq!(chosen(&index, Some("www.a.test"), &RSA), Ok(1));
    assert_eq!(chosen(&index, Some("www.a.test"), &BOTH), Ok(2));
}

#[test]
fn a_name_that_is_known_never_gets_the_default_for_want_of_a_fitting_key() {
    let index = index(&[(Rsa, &["default.test"]), (P256, &["a.test"])], false);
    assert_eq!(chosen(&index, Some("a.test"), &RSA), Err(NoCertificate::Incompatible));
    assert_eq!(chosen(&index, Some("b.test"), &ECDSA), Err(NoCertificate::Incompatible));
}

#[test]
fn the_first_of_a_name_and_kind_stays_and_the_later_is_told_of() {
    let (index, shadowed) =
        build(&[(P256, &["a.test", "a.test"]), (P256, &["A.test", "b.test"])], false);
    assert_eq!(chosen(&index, Some("a.test"), &ECDSA), Ok(0));
    assert_eq!(chosen(&index, Some("b.test"), &ECDSA), Ok(1));
    let a = HostPattern::parse("a.test").unwrap();
    assert_eq!(shadowed, [Shadowed { name: a, first: 0, later: 1 }]);
}

proptest! {
    #[test]
    fn agrees_with_going_through_all_certificates_in_order(
        certs in prop::collection::vec(
            (prop::bool::ANY, prop::collection::vec("(\\*\\.)?[ab](\\.[ab]){0,2}", 1..4)),
            1..6,
        ),
        sni in prop::option::of("[abAB](\\.[ab]){0,3}"),
        rsa_only in prop::bool::ANY,
    ) {
        let certs: Vec<(KeyKind, Vec<HostPattern>)> = certs
            .iter()
            .map(|(rsa, names)| {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                (if *rsa { Rsa } else { P256 }, patterns(&names))
            })
            .collect();
        let (index, _) =
            CertIndex::build(certs.iter().map(|(kind, names)| (*kind, &names[..])), true);
        let schemes: &[u16] = if rsa_only { &RSA } else { &BOTH };
        let name = sni.as_deref().unwrap_or_default().to_ascii_lowercase();
        // By brute force: exact then wildcard, preferred kind first, in the order of loading.
        let of = |wildcard: bool| {
            let matching = |kind: KeyKind| {
                certs.iter().position(|(k, names)| {
                    *k == kind
                        && names.iter().any(|n| {
                            n.covers(&name) && n.key().starts_with('.') == wildcard
                        })
                })
            };
            (matching(P256), matching(Rsa))
        };
        let fit = |(p256, rsa): (Option<usize>, Option<usize>)| {
            if rsa_only { rsa } else { p256.or(rsa) }
        };
        let any = |(p256, rsa): (Option<usize>, Option<usize>)| p256.or(rsa);
        let known = any(of(false)).or_else(|| any(of(true))).is_some();
        let expected = fit(of(false)).or_else(|| fit(of(true)));
        let got = chosen(&index, sni.as_deref(), schemes).ok().map(|entry| entry as usize);
        prop_assert_eq!(got, expected);
        prop_assert_eq!(index.knows(&name), known);
    }
}
