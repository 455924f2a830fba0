use proptest::prelude::*;

use super::*;

/// An answer in order with this body, whose trailers say this.
fn answer(body: &[u8], trailers: &[(&'static str, &str)]) -> Result<(), String> {
    let looked = Looked { bytes: body.to_vec(), whole: true, trailers: Some(map(trailers)) };
    reason(look_at_answer("shop.Orders", &HeaderMap::new(), &looked))
}

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    let fields =
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
    fields.collect()
}

fn reason(looked: Result<(), Verdict>) -> Result<(), String> {
    looked.map_err(|verdict| {
        assert!(matches!(verdict, Verdict::Fail { .. }), "{verdict:?}");
        verdict.reason().to_owned()
    })
}

const OK: &[(&str, &str)] = &[("grpc-status", "0")];

#[test]
fn a_request_is_the_message_in_its_frame() {
    assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
    assert_eq!(&request("a.B")[..], *b"\0\0\0\0\x05\x0a\x03a.B");
}

#[test]
fn serving_passes_and_every_other_status_fails_with_its_name() {
    assert_eq!(answer(b"\0\0\0\0\x02\x08\x01", OK), Ok(()));
    for (body, word) in [
        (&b"\0\0\0\0\0"[..], "UNKNOWN"),
        (b"\0\0\0\0\x02\x08\x00", "UNKNOWN"),
        (b"\0\0\0\0\x02\x08\x02", "NOT_SERVING"),
        (b"\0\0\0\0\x02\x08\x03", "SERVICE_UNKNOWN"),
        (b"\0\0\0\0\x02\x08\x07", "7"),
    ] {
        let reason = answer(body, OK).unwrap_err();
        assert!(reason.starts_with(&format!("it says {word}")), "{reason}");
    }
}

#[test]
fn a_message_that_is_none_fails_with_what_is_wrong_with_it() {
    for (body, word) in [
        (&b""[..], "over before"),
        (b"\0\0\0\0", "over before"),
        (b"\x01\0\0\0\x02\x08\x01", "compressed"),
        (b"\0\0\0\0\x03\x08\x01", "of 3 bytes, and has 2"),
        (b"\0\0\0\0\x02\x08\x01\0", "of 2 bytes, and has 3"),
        (b"\0\xff\xff\xff\xff\x08\x01", "of 4294967295 bytes"),
        (b"\0\0\0\0\x02\xff\xff", "no answer to a check"),
    ] {
        let reason = answer(body, OK).unwrap_err();
        assert!(reason.contains(word), "{reason}");
    }
}

#[test]
fn a_grpc_status_is_named_with_its_message() {
    let of = |code, message| answer(b"", &[("grpc-status", code), ("grpc-message", message)]);
    for (code, message, words) in [
        ("5", "no", "does not know \"shop.Orders\" (NOT_FOUND: no)"),
        ("12", "", "add grpc.health.v1.Health to the server"),
        ("14", "try %22later%22%0Aor never", "UNAVAILABLE: try \"later\" or never"),
        ("16", "100%, %zz %4", "UNAUTHENTICATED: 100%, %zz %4"),
        ("17", "x", "code \"17\": x"),
        ("-1", "x", "code \"-1\""),
        ("zero", "x", "code \"zero\""),
        ("00", "x", "OK: x"),
    ] {
        let reason = of(code, message).unwrap_err();
        assert!(reason.contains(words), "{reason}");
    }
    let long = of("13", &"x".repeat(5000)).unwrap_err();
    assert!(long.len() < 300, "{}", long.len());
}

#[test]
fn a_status_may_stand_in_the_head_and_must_stand_somewhere() {
    let empty = Looked { whole: true, ..Looked::default() };
    let only = map(&[("grpc-status", "12")]);
    let found = reason(look_at_answer("", &only, &empty)).unwrap_err();
    assert!(found.contains("UNIMPLEMENTED"), "{found}");
    let missing = reason(look_at_answer("", &HeaderMap::new(), &empty)).unwrap_err();
    assert!(missing.contains("no grpc-status"), "{missing}");
    assert!(answer(b"\0\0\0\0\x02\x08\x01", &[]).is_err());
}

#[test]
fn an_answer_that_is_longer_than_is_looked_at_fails() {
    let looked = Looked { bytes: vec![0; MAX_ANSWER], ..Looked::default() };
    let long = reason(look_at_answer("", &map(OK), &looked)).unwrap_err();
    assert!(long.contains("more than 4096 bytes"), "{long}");
}

#[test]
fn only_a_head_of_grpc_is_looked_behind() {
    let of = |status: u16, kind: &str| {
        let headers = map(&[("content-type", kind)]);
        reason(look_at_head(StatusCode::from_u16(status).unwrap(), &headers))
    };
    for kind in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        assert_eq!(of(200, kind), Ok(()));
    }
    for kind in ["application/grpc-web", "text/html", ""] {
        assert!(of(200, kind).unwrap_err().contains(&format!("{kind:?}")));
    }
    assert!(of(503, "application/grpc").unwrap_err().contains("503 Service Unavailable"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_answered_nothing_panics_and_reasons_are_short_and_of_one_line(
        body in proptest::collection::vec(any::<u8>(), 0..24),
        text in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let shown = percent_decoded(&text);
        // A byte that is no UTF-8 takes three as a replacement character.
        prop_assert!(shown.len() <= 3 * MAX_TEXT && !shown.contains(char::is_control));
        let _ = message(&body);
    }
}
