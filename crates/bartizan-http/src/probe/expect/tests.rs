use http::header::SERVER;
use proptest::prelude::*;

use super::*;

fn all(list: impl IntoIterator<Item = Expect>) -> Expectations {
    Expectations(list.into_iter().collect())
}

fn status(list: impl IntoIterator<Item = Expect>, status: u16) -> bool {
    let response = Response::builder().status(status).body(()).unwrap();
    all(list).look_at_head(&response).is_ok()
}

#[test]
fn without_a_word_about_it_a_status_is_expected_as_haproxy_does() {
    for (code, met) in [(199, false), (200, true), (399, true), (400, false), (503, false)] {
        assert_eq!(status([], code), met, "{code}");
        let other = [Expect::body("x"), !Expect::header(SERVER)];
        assert_eq!(status(other, code), met, "{code} with expectations of something else");
    }
}

#[test]
fn one_of_the_statuses_that_are_expected_is_enough_and_none_that_must_not_be() {
    let two = || [Expect::status(200..=200), Expect::status(401..404)];
    for (code, met) in [(200, true), (201, false), (401, true), (403, true), (404, false)] {
        assert_eq!(status(two(), code), met, "{code}");
    }
    for (code, met) in [(200, true), (404, true), (500, false), (599, false)] {
        assert_eq!(status([!Expect::status(500..)], code), met, "{code}");
    }
    let response = Response::builder().status(500).body(()).unwrap();
    let reason = all(two()).look_at_head(&response).unwrap_err();
    assert!(reason.ends_with("and 200 to 200 or 401 to 403 is expected"), "{reason}");
    let but = || [Expect::status(200..300), !Expect::status(204..=204)];
    for (code, met) in [(200, true), (204, false), (300, false)] {
        assert_eq!(status(but(), code), met, "{code}");
    }
}

#[test]
fn any_range_of_statuses_is_what_it_says() {
    use std::ops::Bound::{Excluded, Unbounded};
    assert!(status([Expect::status(..)], 999));
    assert!(status([Expect::status((Excluded(199), Unbounded))], 200));
    for empty in [Expect::status(..0), Expect::status((Excluded(u16::MAX), Unbounded))] {
        assert!(!status([empty.clone()], 200), "{empty}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "a mistake that must not panic")]
    let reversed = Expect::status(300..=200);
    assert!(!status([reversed], 250));
}

#[test]
fn header_fields_are_there_or_say_the_very_words() {
    let response =
        Response::builder().header("server", "a").header("server", "B").body(()).unwrap();
    let is = |value| Expect::header_is(SERVER, HeaderValue::from_static(value));
    let absent = HeaderName::from_static("x-absent");
    for (expect, met) in [
        (Expect::header(SERVER), true),
        (Expect::header(absent.clone()), false),
        (!Expect::header(SERVER), false),
        (!Expect::header(absent.clone()), true),
        (is("a"), true),
        (is("B"), true),
        (is("b"), false),
        (!is("a"), false),
        (!!is("a"), true),
        (!Expect::header_is(absent, HeaderValue::from_static("a")), true),
    ] {
        let looked = all([expect.clone()]).look_at_head(&response);
        assert_eq!(looked.is_ok(), met, "{expect}");
    }
    let error = all([Expect::header(SERVER), is("c")]).look_at_head(&response).unwrap_err();
    assert!(error.contains("server: \"c\""), "{error}");
}

#[test]
fn bodies_have_parts_and_match_patterns() {
    let matches = |pattern| Expect::body_matches(pattern).unwrap();
    for (expect, met) in [
        (Expect::body("ready"), true),
        (Expect::body("Ready"), false),
        (Expect::body(&b"\xff\n"[..]), true),
        (Expect::body(""), true),
        (Expect::body("state: ready and much more than there is"), false),
        (!Expect::body("ready"), false),
        (!Expect::body("starting"), true),
        (matches("^state: [a-z]+"), true),
        (matches("^ready"), false),
        (matches(r"(?-u)\xff"), true),
        (!matches("ready|up"), false),
        (!matches("down"), true),
    ] {
        let list = all([expect.clone()]);
        assert!(list.want_body());
        assert_eq!(list.look_at_body(b"state: ready\xff\n", true).is_ok(), met, "{expect}");
    }
    assert!(!all([Expect::status(..), Expect::header(SERVER)]).want_body());
}

#[test]
fn what_is_not_among_the_bytes_that_are_looked_at_fails_with_that_reason() {
    let list = all([Expect::body("ready")]);
    let reason = list.look_at_body(b"not yet", false).unwrap_err();
    assert!(reason.contains("first 7 bytes"), "{reason}");
    let reason = list.look_at_body(b"not yet", true).unwrap_err();
    assert!(!reason.contains("first"), "{reason}");
    assert_eq!(all([!Expect::body("down")]).look_at_body(b"not yet", false), Ok(()));
}

#[test]
fn a_pattern_that_is_none_is_refused() {
    for pattern in ["(", "a{1000}{1000}{1000}"] {
        let error = Expect::body_matches(pattern).unwrap_err();
        assert!(matches!(error, HttpProbeError::Pattern(_)), "{error:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_answered_nothing_panics_and_a_negation_turns_it_round(
        code in 100_u16..1000,
        (first, last) in any::<(u16, u16)>(),
        part in proptest::collection::vec(any::<u8>(), 0..4),
        body in proptest::collection::vec(any::<u8>(), 0..64),
        whole in any::<bool>(),
    ) {
        let response = Response::builder().status(code).body(()).unwrap();
        for expect in [Expect::status(first..last), Expect::status(first..=last)] {
            let met = all([expect.clone()]).look_at_head(&response).is_ok();
            prop_assert_eq!(all([!expect]).look_at_head(&response).is_ok(), !met);
        }
        let met = all([Expect::body(part.clone())]).look_at_body(&body, whole).is_ok();
        prop_assert_eq!(all([!Expect::body(part)]).look_at_body(&body, whole).is_ok(), !met);
    }
}
