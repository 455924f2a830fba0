use bartizan_testkit::{KeyType, Leaf, Minted, Ocsp, OcspHash, TestCa};

use super::*;

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

/// 2026-01-01, and a day.
const NOW: u64 = 1_767_225_600;
const DAY: u64 = 86_400;

struct Scene {
    ca: TestCa,
    site: Minted,
}

impl Scene {
    fn new() -> Self {
        let ca = TestCa::new("test root").intermediate("issuing");
        let site = ca.issue(Leaf::server("a.test"));
        Self { ca, site }
    }

    fn check(&self, ocsp: Ocsp<'_>) -> Result<Staple, StapleProblem> {
        self.check_der(&self.ca.ocsp(&self.site, ocsp))
    }

    fn check_der(&self, der: &[u8]) -> Result<Staple, StapleProblem> {
        check(der, self.site.cert_der(), Some(self.ca.cert_der()), at(NOW))
    }

    fn problem(&self, ocsp: Ocsp<'_>) -> StapleProblem {
        self.check(ocsp).unwrap_err()
    }
}

#[test]
fn a_good_response_of_the_issuer_is_stapled_as_it_stands() {
    let scene = Scene::new();
    for hash in [OcspHash::Sha1, OcspHash::Sha256] {
        let ocsp = Ocsp::good().this_update(at(NOW - DAY)).next_update(Some(at(NOW + DAY)));
        let der = scene.ca.ocsp(&scene.site, ocsp.hash(hash));
        let staple = scene.check_der(&der).unwrap();
        assert_eq!(*staple.der, *der);
        assert_eq!((staple.this_update, staple.next_update), (at(NOW - DAY), at(NOW + DAY)));
    }
}

#[test]
fn a_version_written_out_does_not_spoil_the_signature() {
    assert!(Scene::new().check(Ocsp::good().explicit_version()).is_ok());
}

#[test]
fn leaves_of_every_kind_of_key_and_serial_are_found() {
    let ca = TestCa::new("test root");
    for leaf in [
        Leaf::server("a.test").key(KeyType::P384),
        Leaf::server("a.test").serial(&[0x80, 1]),
        Leaf::server("a.test").serial(&[5]),
    ] {
        let site = ca.issue(leaf);
        let der = ca.ocsp(&site, Ocsp::good());
        let staple = check(&der, site.cert_der(), Some(ca.cert_der()), at(NOW));
        assert!(staple.is_ok(), "{staple:?}");
    }
}

#[test]
fn revoked_and_unknown_are_told_apart_and_not_stapled() {
    let scene = Scene::new();
    let revoked = scene.problem(Ocsp::revoked(at(DAY)));
    assert!(matches!(&revoked, StapleProblem::Revoked { since } if since.contains("1970")));
    assert!(revoked.to_string().contains("Jan  2"), "{revoked}");
    assert_eq!(scene.problem(Ocsp::unknown()), StapleProblem::Unknown);
}

#[test]
fn a_response_counts_from_its_start_to_just_before_its_end() {
    let scene = Scene::new();
    let valid = |this: u64, next: u64| {
        scene.check(Ocsp::good().this_update(at(this)).next_update(Some(at(next))))
    };
    assert!(valid(NOW, NOW + 1).is_ok());
    assert!(valid(NOW + 300, NOW + DAY).is_ok(), "the responder's clock is 300 s ahead");
    let early = valid(NOW + 301, NOW + DAY);
    assert!(matches!(early, Err(StapleProblem::NotYetValid { .. })), "{early:?}");
    for (this, next) in [(NOW - DAY, NOW), (NOW - DAY, NOW - 1), (NOW + 20, NOW + 10)] {
        let late = valid(this, next);
        assert!(matches!(late, Err(StapleProblem::Expired { .. })), "{late:?}");
    }
    assert_eq!(scene.problem(Ocsp::good().next_update(None)), StapleProblem::NoNextUpdate);
}

#[test]
fn another_certificates_response_is_not_taken() {
    let scene = Scene::new();
    let other = scene.ca.issue(Leaf::server("b.test"));
    let theirs = scene.ca.ocsp(&other, Ocsp::good());
    assert_eq!(scene.check_der(&theirs), Err(StapleProblem::OtherCertificate));
    // The same serial number under another authority, of the same name, is another certificate.
    let twin = TestCa::new("test root").intermediate("issuing");
    let twins = twin.issue(Leaf::server("a.test").serial(&scene.site.serial()));
    let theirs = twin.ocsp(&twins, Ocsp::good());
    assert_eq!(scene.check_der(&theirs), Err(StapleProblem::OtherCertificate));
    // And so is one under another name of the authority, with the same key.
    let ca = TestCa::new("test root");
    let site = ca.issue(Leaf::server("a.test"));
    let theirs = ca.renewed("other name", at(NOW + DAY)).ocsp(&site, Ocsp::good());
    let verdict = check(&theirs, site.cert_der(), Some(ca.cert_der()), at(NOW));
    assert_eq!(verdict, Err(StapleProblem::OtherCertificate));
}

#[test]
fn one_answer_among_several_has_to_be_about_the_certificate() {
    let scene = Scene::new();
    let other = scene.ca.issue(Leaf::server("b.test"));
    let among = scene.ca.ocsp(&other, Ocsp::good().beside(&scene.site));
    assert!(scene.check_der(&among).is_ok());
    let twice = scene.problem(Ocsp::good().beside(&scene.site));
    assert_eq!(twice, StapleProblem::SeveralAnswers);
}

#[test]
fn the_issuer_is_asked_for_and_has_to_be_the_issuer() {
    let scene = Scene::new();
    let der = scene.ca.ocsp(&scene.site, Ocsp::good());
    let missing = check(&der, scene.site.cert_der(), None, at(NOW)).unwrap_err();
    assert_eq!(missing, StapleProblem::IssuerMissing);
    assert!(missing.to_string().contains(".issuer"), "{missing}");
    let stranger = TestCa::new("stranger");
    let wrong = check(&der, scene.site.cert_der(), Some(stranger.cert_der()), at(NOW)).unwrap_err();
    let text = wrong.to_string();
    assert!(matches!(wrong, StapleProblem::NotTheIssuer { .. }), "{text}");
    assert!(text.contains("CN=stranger") && text.contains("CN=issuing"), "{text}");
    let garbage = CertificateDer::from(vec![1, 2, 3]);
    assert_eq!(
        check(&der, &garbage, Some(scene.ca.cert_der()), at(NOW)),
        Err(StapleProblem::BadCertificate)
    );
}

#[test]
fn a_forged_response_is_refused() {
    let scene = Scene::new();
    let forger = TestCa::new("test root").intermediate("issuing");
    let forged = forger.issue(Leaf::server("forger").for_ocsp());
    // Signed by a key that the issuer did not certify, whether its certificate is sent or not.
    let problem = scene.problem(Ocsp::good().by(&forged));
    assert!(matches!(problem, StapleProblem::ResponderNotAuthorized(_)), "{problem:?}");
    assert_eq!(scene.problem(Ocsp::good().by_unseen(&forged)), StapleProblem::ResponderMissing);
    // Another date under the same signature.
    let mut der = scene.ca.ocsp(&scene.site, Ocsp::good());
    let date = der.windows(15).position(|w| w == b"20200101000000Z").unwrap();
    der[date + 3] = b'1';
    assert_eq!(scene.check_der(&der), Err(StapleProblem::BadSignature));
}

#[test]
fn a_responder_answers_for_the_issuer_if_it_was_certified_for_that() {
    let scene = Scene::new();
    let responder = scene.ca.issue(Leaf::new("responder").for_ocsp());
    assert!(scene.check(Ocsp::good().by(&responder)).is_ok());
    assert_eq!(scene.problem(Ocsp::good().by_unseen(&responder)), StapleProblem::ResponderMissing);

    let refused = |by: &Minted| match scene.problem(Ocsp::good().by(by)) {
        StapleProblem::ResponderNotAuthorized(why) => why,
        other => panic!("{other:?}"),
    };
    let (server, none) = (Leaf::server("a.test"), Leaf::new("responder"));
    for leaf in [server, none] {
        let why = refused(&scene.ca.issue(leaf));
        assert!(why.contains("not for OCSP signing"), "{why}");
    }
    let stranger = TestCa::new("stranger").issue(Leaf::new("responder").for_ocsp());
    assert!(refused(&stranger).contains("did not issue"));
    let twin = TestCa::new("test root").intermediate("issuing");
    let twins = twin.issue(Leaf::new("responder").for_ocsp());
    assert!(refused(&twins).contains("signature on the responder's certificate is wrong"));
    let leaf = || Leaf::new("responder").for_ocsp();
    for leaf in [leaf().not_after(at(NOW - 1)), leaf().not_before(at(NOW + 1))] {
        let why = refused(&scene.ca.issue(leaf));
        assert!(why.contains("not in date"), "{why}");
    }
}

#[test]
fn a_staple_ends_with_the_responders_certificate() {
    let scene = Scene::new();
    let responder = scene.ca.issue(Leaf::new("responder").for_ocsp().not_after(at(NOW + DAY)));
    let ends = |next| {
        let staple = scene.check(Ocsp::good().by(&responder).next_update(Some(at(next))));
        staple.unwrap().next_update
    };
    assert_eq!(ends(NOW + 9 * DAY), at(NOW + DAY));
    assert_eq!(ends(NOW + 60), at(NOW + 60));
}

#[test]
fn a_responder_that_refused_is_quoted() {
    let scene = Scene::new();
    for (code, status) in [(1, "malformedRequest"), (3, "tryLater"), (6, "unauthorized")] {
        let problem = scene.check_der(&[0x30, 3, 0x0a, 1, code]).unwrap_err();
        assert_eq!(problem, StapleProblem::Unsuccessful { status });
        assert!(problem.to_string().contains(status), "{problem}");
    }
}

#[test]
fn other_kinds_and_no_responses_at_all_are_told() {
    let scene = Scene::new();
    let mut der = scene.ca.ocsp(&scene.site, Ocsp::good());
    for garbage in
        [&b""[..], b"-----BEGIN OCSP RESPONSE-----", &[0x30, 0x80], &der[..der.len() - 1]]
    {
        assert_eq!(scene.check_der(garbage), Err(StapleProblem::Malformed));
    }
    let mut longer = der.clone();
    longer.push(0);
    assert_eq!(scene.check_der(&longer), Err(StapleProblem::Malformed));
    let basic = der.windows(9).position(|w| w == [0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]).unwrap();
    der[basic + 8] = 2;
    assert_eq!(scene.check_der(&der), Err(StapleProblem::NotBasic));
}

#[test]
fn no_changed_byte_is_stapled_or_makes_it_panic() {
    let scene = Scene::new();
    let responder = scene.ca.issue(Leaf::new("responder").for_ocsp());
    let der = scene.ca.ocsp(&scene.site, Ocsp::good().by(&responder));
    for at in 0..der.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = der.clone();
            changed[at] ^= change;
            assert!(
                scene.check_der(&changed).is_err(),
                "byte {at} ^ {change:#x} was not noticed: {:x?}",
                &der[at - 4..at + 8]
            );
        }
        assert!(scene.check_der(&der[..at]).is_err(), "cut at {at}");
    }
}
