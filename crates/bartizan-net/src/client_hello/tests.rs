use std::convert::Infallible;
use std::sync::Arc;

use bartizan_testkit::client_hellos::{RECORDED, Recorded};
use bartizan_testkit::{FailAfter, Trickle};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};
use tower::service_fn;

use super::*;
use crate::ConnInfo;

const KIB_16: usize = 16 * 1024;

/// The answer to `bytes` in pieces of `step`.
fn read(bytes: &[u8], step: usize) -> Result<HelloProgress, HelloError> {
    read_limited(bytes, step, KIB_16)
}

fn read_limited(bytes: &[u8], step: usize, limit: usize) -> Result<HelloProgress, HelloError> {
    let mut reader = HelloReader::new(limit);
    for piece in bytes.chunks(step) {
        let progress = reader.push(piece)?;
        if progress != HelloProgress::More {
            return Ok(progress);
        }
    }
    Ok(HelloProgress::More)
}

fn hello(bytes: &[u8]) -> ClientHello {
    match read(bytes, KIB_16) {
        Ok(HelloProgress::Hello(hello)) => hello,
        other => panic!("no hello: {other:?}"),
    }
}

fn record(fragment: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(fragment.len()).unwrap().to_be_bytes();
    [&[22, 3, 1, high, low], fragment].concat()
}

fn message(body: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1, a, b, c], body].concat()
}

fn prefixed(list: &[u8]) -> Vec<u8> {
    [&u16::try_from(list.len()).unwrap().to_be_bytes()[..], list].concat()
}

fn codes(codes: &[u16]) -> Vec<u8> {
    codes.iter().flat_map(|code| code.to_be_bytes()).collect()
}

fn extension(code: u16, body: &[u8]) -> Vec<u8> {
    [code.to_be_bytes().to_vec(), prefixed(body)].concat()
}

fn named(name: &[u8]) -> Vec<u8> {
    extension(0, &prefixed(&[&[0][..], &prefixed(name)].concat()))
}

/// A hello with these suites and extensions, in one record.
fn offering(suites: &[u16], extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend(prefixed(&codes(suites)));
    body.extend([1, 0]);
    if !extensions.is_empty() {
        body.extend(prefixed(&extensions.concat()));
    }
    record(&message(&body))
}

fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
    offering(&[0x1301], extensions)
}

fn recorded(name: &str) -> &'static Recorded {
    RECORDED.iter().find(|recorded| recorded.name == name).unwrap()
}

#[test]
fn recorded_hellos_say_what_their_clients_were_told() {
    for recorded in RECORDED {
        let hello = hello(recorded.bytes);
        assert_eq!(hello.server_name(), recorded.server_name, "{}", recorded.name);
        let alpn: Vec<_> = hello.alpn().map(|name| str::from_utf8(name).unwrap()).collect();
        assert_eq!(alpn, recorded.alpn, "{}", recorded.name);
        assert_eq!(hello.legacy_version(), 0x0303, "{}", recorded.name);
        assert!(!hello.has_early_data(), "{}", recorded.name);
        assert_eq!(
            hello.versions().any(|version| version == 0x0304),
            recorded.name != "openssl-3.0-tls12",
            "{}",
            recorded.name
        );
    }
}

#[test]
fn encrypted_hellos_and_post_quantum_keys_are_seen() {
    let ech: Vec<_> =
        RECORDED.iter().filter(|r| hello(r.bytes).has_ech()).map(|r| r.name).collect();
    assert_eq!(ech, ["chromium-156", "firefox-153"]);
    let quantum = RECORDED.iter().filter(|r| hello(r.bytes).has_post_quantum_key_share());
    let quantum: Vec<_> = quantum.map(|r| r.name).collect();
    assert_eq!(quantum, ["rustls-0.23", "chromium-156", "firefox-153"]);
    assert!(recorded("chromium-156").bytes.len() > 1_500);
}

#[test]
fn lists_are_in_the_clients_order() {
    let firefox = hello(recorded("firefox-153").bytes);
    assert_eq!(firefox.key_share_groups().collect::<Vec<_>>(), [0x11ec, 0x1d, 0x17]);
    let openssl = hello(recorded("openssl-3.0-tls13").bytes);
    let suites = openssl.cipher_suites();
    assert_eq!(suites.len(), 4);
    // The last one is a signal, TLS_EMPTY_RENEGOTIATION_INFO_SCSV.
    assert_eq!(suites.collect::<Vec<_>>(), [0x1302, 0x1303, 0x1301, 0x00ff]);
    assert_eq!(openssl.versions().collect::<Vec<_>>(), [0x0304]);
    assert_eq!(openssl.groups().next(), Some(0x1d));
    assert_eq!(openssl.signature_schemes().next(), Some(0x0403));
    let old = hello(recorded("openssl-3.0-tls12").bytes);
    assert_eq!(old.versions().collect::<Vec<_>>(), [0x0303]);
    let chromium = hello(recorded("chromium-156").bytes);
    assert!(chromium.extensions().next().is_some_and(is_grease));
    assert!(chromium.key_share_groups().next().is_some_and(is_grease));
}

#[test]
fn a_cut_between_two_segments_changes_nothing() {
    for recorded in RECORDED {
        let whole = HelloProgress::Hello(hello(recorded.bytes));
        for cut in 0..recorded.bytes.len() {
            let (first, second) = recorded.bytes.split_at(cut);
            let mut reader = HelloReader::new(KIB_16);
            assert_eq!(reader.push(first), Ok(HelloProgress::More), "{} {cut}", recorded.name);
            assert_eq!(reader.push(second).as_ref(), Ok(&whole), "{} {cut}", recorded.name);
            assert_eq!(reader.into_bytes(), recorded.bytes);
        }
    }
}

#[test]
fn a_cut_between_two_records_changes_nothing() {
    for recorded in RECORDED {
        let whole = HelloProgress::Hello(hello(recorded.bytes));
        let message = &recorded.bytes[5..];
        for cut in 1..message.len() {
            let (first, second) = message.split_at(cut);
            let bytes = [record(first), record(second)].concat();
            assert_eq!(read(&bytes, KIB_16).as_ref(), Ok(&whole), "{} {cut}", recorded.name);
        }
    }
}

#[test]
fn bytes_and_records_of_one_byte_change_nothing() {
    for recorded in RECORDED {
        let whole = Ok(HelloProgress::Hello(hello(recorded.bytes)));
        assert_eq!(read(recorded.bytes, 1), whole, "{}", recorded.name);
        let tiny: Vec<u8> = recorded.bytes[5..].iter().flat_map(|byte| record(&[*byte])).collect();
        assert_eq!(read(&tiny, 1), whole, "{}", recorded.name);
        assert_eq!(read(&tiny, 7), whole, "{}", recorded.name);
    }
}

#[test]
fn what_follows_the_hello_is_kept_and_not_read() {
    for recorded in RECORDED {
        let whole = Ok(HelloProgress::Hello(hello(recorded.bytes)));
        let bytes = [recorded.bytes, &[23, 3, 3, 0, 2, 1, 2, 255, 0]].concat();
        assert_eq!(read(&bytes, KIB_16), whole);
        let message = [&recorded.bytes[5..], b"another message"].concat();
        assert_eq!(read(&record(&message), KIB_16), whole);
        let mut reader = HelloReader::new(KIB_16);
        assert_eq!(reader.push(&bytes), whole);
        assert_eq!(reader.push(b"and more"), whole, "the answer stays");
        assert_eq!(reader.bytes(), [&bytes[..], b"and more"].concat());
    }
}

#[test]
fn other_protocols_are_told_from_tls_at_once() {
    let not_tls: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n",
        // SSL 2.0, as clients sent it that also spoke TLS.
        &[0x80, 0x2e, 1, 3, 1],
        &[21, 3, 1, 0, 2],
        &[22, 2, 0, 0],
        &[22, 4],
    ];
    for bytes in not_tls {
        let sure = if bytes[0] == 22 { 2 } else { 1 };
        assert_eq!(read(&bytes[..sure], 1), Ok(HelloProgress::NotTls), "{bytes:?}");
        assert_eq!(read(bytes, KIB_16), Ok(HelloProgress::NotTls), "{bytes:?}");
        assert_eq!(read_limited(bytes, 1, 2), Ok(HelloProgress::NotTls), "{bytes:?}");
    }
    assert_eq!(HelloReader::new(KIB_16).push(&[]), Ok(HelloProgress::More));
    assert_eq!(read(&[22], 1), Ok(HelloProgress::More));
}

#[test]
fn broken_records_have_an_error_and_an_alert_each() {
    let bytes = recorded("curl-7.88").bytes;
    let first = record(&bytes[5..20]);
    let then = |next: &[u8]| [&first, next].concat();
    let cases = [
        (vec![22, 3, 1, 0, 0], HelloError::EmptyRecord, 50),
        (vec![22, 3, 1, 0x40, 1], HelloError::RecordTooLong { length: 16_385 }, 22),
        (record(&[2]), HelloError::NotClientHello { message_type: 2 }, 10),
        (then(&[20]), HelloError::UnexpectedRecord { content_type: 20 }, 10),
        (then(&[21, 3, 3, 0, 2, 1, 0]), HelloError::UnexpectedRecord { content_type: 21 }, 10),
        (then(&[22, 2]), HelloError::RecordVersion { major: 2 }, 70),
        (then(&[22, 3, 3, 0, 0]), HelloError::EmptyRecord, 50),
    ];
    for (bytes, error, alert) in cases {
        for step in [1, KIB_16] {
            assert_eq!(read(&bytes, step), Err(error.clone()), "{bytes:?}");
        }
        assert_eq!(error.alert(), alert, "{error}");
        let mut reader = HelloReader::new(KIB_16);
        assert_eq!(reader.push(&bytes), Err(error.clone()));
        assert_eq!(reader.push(&[1, 2, 3]), Err(error), "the error stays");
    }
    let longest = [22, 3, 1, 0x40, 0, 1];
    assert_eq!(read(&longest, 1), Ok(HelloProgress::More), "2^14 is allowed");
}

#[test]
fn the_limit_counts_all_bytes_of_the_connection() {
    for recorded in RECORDED {
        let whole = Ok(HelloProgress::Hello(hello(recorded.bytes)));
        let length = recorded.bytes.len();
        for step in [1, 100, KIB_16] {
            assert_eq!(read_limited(recorded.bytes, step, length), whole);
            let short = read_limited(recorded.bytes, step, length - 1);
            assert_eq!(short, Err(HelloError::TooLong { limit: length - 1 }));
        }
        // Said as soon as the length is known.
        let short = read_limited(&recorded.bytes[..9], 1, length - 1);
        assert_eq!(short, Err(HelloError::TooLong { limit: length - 1 }));
        // Headers count.
        let (first, second) = recorded.bytes[5..].split_at(50);
        let two = [record(first), record(second)].concat();
        for step in [1, KIB_16] {
            assert_eq!(read_limited(&two, step, length + 5), whole);
            let short = read_limited(&two, step, length + 4);
            assert_eq!(short, Err(HelloError::TooLong { limit: length + 4 }));
        }
    }
    let mut reader = HelloReader::new(0);
    assert_eq!(reader.remaining(), 1);
    assert_eq!(reader.push(&[22]), Err(HelloError::TooLong { limit: 1 }));
    assert_eq!(HelloError::TooLong { limit: 1 }.alert(), 47);
}

#[test]
fn the_buffer_grows_with_what_comes_and_not_past_the_limit() {
    let bytes = [&[22, 3, 1, 0x10, 0, 1, 0, 0x10, 0][..], &[0; 3_000]].concat();
    for length in [1, 9, 600, 2_049, 3_009] {
        let mut reader = HelloReader::new(5_000);
        for byte in &bytes[..length] {
            assert_eq!(reader.push(&[*byte]), Ok(HelloProgress::More));
        }
        assert_eq!(reader.remaining(), 5_000 - length);
        assert!(reader.into_bytes().capacity() <= 4_096.min(2 * length).max(1));
    }
    let mut reader = HelloReader::new(2_500);
    for byte in &bytes[..2_100] {
        let _ = reader.push(&[*byte]);
    }
    assert!(reader.into_bytes().capacity() <= 2_500);
    let mut reader = HelloReader::new(5_000);
    assert_eq!(reader.push(&bytes), Ok(HelloProgress::More));
    assert_eq!(reader.into_bytes().capacity(), bytes.len(), "what came at once fits exactly");
}

#[test]
fn names_are_lower_case_and_have_no_dot_at_the_end() {
    let long = [&[b'a'; 63][..], b".", &[b'b'; 63], b".", &[b'c'; 63], b".", &[b'd'; 61]].concat();
    let cases: [(&[u8], Option<&str>); 9] = [
        (b"WWW.Example.COM", Some("www.example.com")),
        (b"example.com.", Some("example.com")),
        (b"localhost", Some("localhost")),
        (b"_srv.a-b.1x", Some("_srv.a-b.1x")),
        (b"1.2.3.x", Some("1.2.3.x")),
        (&long, Some(str::from_utf8(&long).unwrap())),
        (b"192.0.2.1", None),
        (b"2001:db8::1", None),
        (b"::", None),
    ];
    for (name, expected) in cases {
        let hello = hello(&with(&[named(name)]));
        assert_eq!(hello.server_name(), expected, "{}", name.escape_ascii());
        assert_eq!(hello.extensions().collect::<Vec<_>>(), [0]);
    }
    assert_eq!(hello(&with(&[])).server_name(), None);
}

#[test]
fn what_is_no_dns_name_is_refused() {
    let long = [&[b'a'; 63][..], b".", &[b'b'; 63], b".", &[b'c'; 63], b".", &[b'd'; 62]].concat();
    let too_long_label = [b'a'; 64];
    let cases: [&[u8]; 13] = [
        b".",
        b".a",
        b"a..b",
        b"a..",
        b"-a",
        b"a-.b",
        b"*.example.com",
        b"ex ample",
        b"\xc3\xbc.example",
        b"a\0b",
        b"a.123",
        &long,
        &too_long_label,
    ];
    for name in cases {
        let answer = read(&with(&[named(name)]), KIB_16);
        assert_eq!(answer, Err(HelloError::BadName), "{}", name.escape_ascii());
    }
    assert_eq!(HelloError::BadName.alert(), 47);
}

#[test]
fn one_name_is_allowed_and_other_kinds_of_names_end_the_list() {
    let host = [&[0][..], &prefixed(b"a.example")].concat();
    let list = |list: &[u8]| with(&[extension(0, &prefixed(list))]);
    let twice = list(&[&host[..], &host].concat());
    assert_eq!(read(&twice, 1), Err(HelloError::SeveralNames));
    assert_eq!(HelloError::SeveralNames.alert(), 47);
    let other = list(&[&host[..], &[1, 9, 9, 9]].concat());
    assert_eq!(hello(&other).server_name(), Some("a.example"));
    let malformed = Err(HelloError::Malformed { part: "server name" });
    for bytes in [&[][..], &[1, 9], &[0, 0, 0], &[0, 0, 5, b'a'], &[0]] {
        assert_eq!(read(&list(bytes), 1), malformed, "{bytes:?}");
    }
    let over = with(&[extension(0, &[prefixed(&host), vec![0]].concat())]);
    assert_eq!(read(&over, 1), malformed);
}

#[test]
fn lists_that_do_not_add_up_are_refused() {
    let cases: [(u16, &[u8], &str); 22] = [
        (10, &[], "groups"),
        (10, &[0, 0], "groups"),
        (10, &[0, 3, 0, 1, 0], "groups"),
        (10, &[0, 2, 0, 1, 0], "groups"),
        (13, &[0, 0], "signature algorithms"),
        (13, &[0, 2, 4, 3, 9], "signature algorithms"),
        (16, &[0, 0], "application protocols"),
        (16, &[0, 1, 0], "application protocols"),
        (16, &[0, 2, 2, b'h'], "application protocols"),
        (16, &[0, 2, 1, b'h', 0], "application protocols"),
        (43, &[0], "supported versions"),
        (43, &[1, 3], "supported versions"),
        (43, &[2, 3, 4, 0], "supported versions"),
        (43, &[4, 3, 4], "supported versions"),
        (51, &[0], "key shares"),
        (51, &[0, 1, 0], "key shares"),
        (51, &[0, 4, 0, 29, 0, 0], "key shares"),
        (51, &[0, 4, 0, 29, 0, 1], "key shares"),
        (51, &[0, 0, 0], "key shares"),
        (42, &[0], "early data"),
        (0xfe0d, &[], "encrypted ClientHello"),
        (0, &[], "server name"),
    ];
    for (code, body, part) in cases {
        let answer = read(&with(&[extension(code, body)]), 1);
        assert_eq!(answer, Err(HelloError::Malformed { part }), "{code} {body:?}");
    }
    assert_eq!(HelloError::Malformed { part: "groups" }.alert(), 50);
    assert_eq!(hello(&with(&[extension(51, &[0, 0])])).key_share_groups().count(), 0);
}

#[test]
fn a_hello_that_ends_too_soon_or_too_late_is_refused() {
    let bytes = with(&[named(b"a.example")]);
    let body = &bytes[9..];
    let plain = body.len() - 20;
    for length in 0..body.len() {
        let answer = read(&record(&message(&body[..length])), KIB_16);
        if length == plain {
            assert!(matches!(answer, Ok(HelloProgress::Hello(_))), "without extensions");
        } else {
            assert!(matches!(answer, Err(HelloError::Malformed { .. })), "{length}: {answer:?}");
        }
    }
    let over = [body, &[0]].concat();
    let malformed = Err(HelloError::Malformed { part: "extensions" });
    assert_eq!(read(&record(&message(&over)), 1), malformed);
    let mut session = body.to_vec();
    session[34] = 33;
    session.splice(35..35, [0; 33]);
    let malformed = Err(HelloError::Malformed { part: "fixed fields" });
    assert_eq!(read(&record(&message(&session)), 1), malformed);
    for (suites, part) in [(&[][..], "cipher suites"), (&[0], "cipher suites")] {
        let mut odd = body[..35].to_vec();
        odd.extend(prefixed(suites));
        odd.extend([1, 0]);
        assert_eq!(read(&record(&message(&odd)), 1), Err(HelloError::Malformed { part }));
    }
}

#[test]
fn extensions_come_once_and_pre_shared_keys_last() {
    let twice = with(&[extension(0x1234, b"a"), named(b"a"), extension(0x1234, b"")]);
    let duplicate = HelloError::DuplicateExtension { extension: 0x1234 };
    assert_eq!(duplicate.alert(), 47);
    assert_eq!(read(&twice, 1), Err(duplicate));
    // Side by side, and far apart.
    for step in [1, 61] {
        let many: Vec<_> = (0..1_000).map(|i| extension(0x1000 + i * step, &[])).collect();
        assert_eq!(hello(&with(&many)).extensions().count(), 1_000);
    }
    let psk = extension(41, b"whatever");
    assert_eq!(hello(&with(&[named(b"a"), psk.clone()])).server_name(), Some("a"));
    assert_eq!(read(&with(&[psk, named(b"a")]), 1), Err(HelloError::PskNotLast));
    assert_eq!(HelloError::PskNotLast.alert(), 47);
}

#[test]
fn early_data_and_the_kinds_of_ech_are_told_apart() {
    assert!(hello(&with(&[extension(42, &[])])).has_early_data());
    assert!(hello(&with(&[extension(0xfe0d, &[0, 1])])).has_ech());
    assert!(!hello(&with(&[extension(0xfe0d, &[1])])).has_ech(), "an inner one");
    assert!(!hello(&with(&[])).has_ech());
    let kyber = [&codes(&[0x6399])[..], &prefixed(b"key")].concat();
    let kyber = hello(&with(&[extension(51, &prefixed(&kyber))]));
    assert!(kyber.has_post_quantum_key_share());
}

#[test]
fn grease_is_what_rfc_8701_lists() {
    let all: Vec<_> = (0..=u16::MAX).filter(|code| is_grease(*code)).collect();
    let listed: Vec<_> = (0..16).map(|i| 0x0a0a + 0x1010 * i).collect();
    assert_eq!(all, listed);
}

/// The example of the specification: its hello has these suites, extensions and schemes.
#[test]
fn ja4_of_the_example_in_its_specification() {
    let bytes = offering(
        &[
            0x5a5a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013,
            0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
        ],
        &[
            extension(0xdada, &[]),
            extension(0x001b, &[]),
            named(b"example.com"),
            extension(0x0033, &[0, 0]),
            extension(
                0x0010,
                &[0, 12, 2, b'h', b'2', 8, b'h', b't', b't', b'p', b'/', b'1', b'.', b'1'],
            ),
            extension(0x4469, &[]),
            extension(0x0017, &[]),
            extension(0x002d, &[]),
            extension(
                0x000d,
                &prefixed(&codes(&[
                    0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601,
                ])),
            ),
            extension(0x0005, &[]),
            extension(0x0023, &[]),
            extension(0x0012, &[]),
            extension(0x002b, &[6, 0xfa, 0xfa, 3, 4, 3, 3]),
            extension(0xff01, &[]),
            extension(0x000b, &[]),
            extension(0x000a, &[0, 2, 0, 29]),
            extension(0x0015, &[]),
        ],
    );
    assert_eq!(hello(&bytes).ja4(), "t13d1516h2_8daaf6152771_e5627efa2ab1");
}

/// From a second implementation, a script that shares nothing with this one. Published lists have
/// that of curl, the hashes of Python and of Go, and the first hash of Chromium and of Firefox.
#[test]
fn ja4_of_the_recorded_hellos() {
    let expected = [
        ("curl-7.88", "t13d3112h2_e8f1e7e78f70_b26ce05bbdd6"),
        ("openssl-3.0-tls12", "t12d280700_d943125447b4_e7e480e5a997"),
        ("openssl-3.0-tls13", "t13d0411h2_16476d049b0b_78f1d400d464"),
        ("openssl-3.0-no-name", "t13i310900_e8f1e7e78f70_1f22a2ca17c4"),
        ("python-3.11", "t13d181100_85036bcba153_d41ae481755e"),
        ("gnutls-3.7", "t13d2914h2_723694b0fccc_2cc26d266019"),
        ("go-1.19", "t13d1910h2_9dc949149365_97f8aa674fd9"),
        ("rustls-0.23", "t13d1011h2_61a7ad8aa9b6_0d308c48d2a3"),
        ("chromium-156", "t13d1517h2_8daaf6152771_cb7bf5808d99"),
        ("firefox-153", "t13d1617h2_86a278354501_3cbfd9057e0d"),
    ];
    for (recorded, (name, ja4)) in RECORDED.iter().zip(expected) {
        assert_eq!((recorded.name, &*hello(recorded.bytes).ja4()), (name, ja4));
    }
    assert_eq!(RECORDED.len(), expected.len());
}

#[test]
fn ja4_of_what_is_rare() {
    let of = |bytes: &[u8]| hello(bytes).ja4();
    assert_eq!(
        of(&offering(&[0x0a0a], &[])),
        "t12i010000_000000000000_000000000000".replace("01", "00")
    );
    // SHA-256 of "1301".
    let none = of(&with(&[]));
    assert!(none.starts_with("t12i010000_") && none.ends_with("_000000000000"), "{none}");
    // Nothing but names: they count, and are not hashed.
    let named_only = of(&with(&[named(b"192.0.2.1")]));
    assert!(named_only.starts_with("t12d010100_") && named_only.ends_with("_000000000000"));
    let ends = [
        (&b"h"[..], "hh"),
        (b"http/1.1", "h1"),
        (&[0xab], "ab"),
        (&[0xab, 0xcd], "ad"),
        (&[0x30, 0xab], "3b"),
        (&[0x30, 0x31, 0xab, 0xcd], "3d"),
        (&[0x30, 0xab, 0xcd, 0x31], "01"),
    ];
    for (name, expected) in ends {
        let list = [&[name.len() as u8][..], name].concat();
        let ja4 = of(&with(&[extension(16, &prefixed(&list))]));
        assert_eq!(&ja4[8..10], expected, "{name:?}");
    }
    let many: Vec<_> = (0x100..0x200).collect();
    assert_eq!(&of(&offering(&many, &[]))[4..6], "99");
}

#[test]
fn debug_shows_what_is_on_offer() {
    let shown = format!("{:?}", hello(recorded("openssl-3.0-tls13").bytes));
    for part in ["Some(\"www.example.com\")", "[h2, http/1.1]", "versions: [0x0304]", "0x1302"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}

/// xorshift64*: the same mutations in every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        number as usize % bound
    }
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let at = rng.below(bytes.len());
    match rng.below(6) {
        0 => bytes[at] ^= 1 << rng.below(8),
        1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
        2 => drop(bytes.drain(at..bytes.len().min(at + 1 + rng.below(8)))),
        3 => {
            let other = RECORDED[rng.below(RECORDED.len())].bytes;
            let from = rng.below(other.len());
            let to = other.len().min(from + rng.below(64));
            bytes.splice(at..at, other[from..to].iter().copied());
        }
        4 => {
            // A length that is one off, most of which are low bytes of small numbers.
            bytes[at] = bytes[at].wrapping_add(if rng.below(2) == 0 { 1 } else { 255 });
        }
        _ => bytes.truncate(at + 1),
    }
    if bytes.is_empty() {
        bytes.push(22);
    }
}

#[test]
fn no_mutation_panics_or_depends_on_how_it_is_cut() {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    let (mut hellos, mut errors) = (0, 0);
    for round in 0..100_000 {
        let mut bytes = RECORDED[round % RECORDED.len()].bytes.to_vec();
        for _ in 0..=rng.below(4) {
            mutate(&mut rng, &mut bytes);
        }
        if rng.below(2) == 0 {
            // With the outer lengths mended, so that the mutation is reached.
            let body = bytes.get(9..).unwrap_or_default();
            bytes = record(&message(body));
        }
        let limit = [KIB_16, 1_000][rng.below(2)];
        let answer = read_limited(&bytes, bytes.len(), limit);
        assert_eq!(read_limited(&bytes, 1 + rng.below(300), limit), answer, "{bytes:?}");
        match answer {
            Ok(HelloProgress::Hello(hello)) => {
                hellos += 1;
                assert!(hello.lists.len() <= limit.min(bytes.len()), "{bytes:?}");
                assert_eq!(hello.ja4().len(), 36);
            }
            Err(_) => errors += 1,
            Ok(_) => {}
        }
    }
    assert!(hellos > 10_000 && errors > 10_000, "{hellos} hellos, {errors} errors");
}

/// The stack over a stream: what it says, and what the inner service saw.
type Seen = (Option<Arc<ClientHello>>, Vec<u8>);

fn conn<IO>(io: IO) -> Conn<IO> {
    let addr = "192.0.2.1:5000".parse().unwrap();
    Conn::new(io, ConnInfo::new(addr, addr))
}

async fn serve<IO>(layer: ClientHelloLayer, io: IO) -> Result<Seen, ClientHelloError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut stack = layer.layer(service_fn(|conn: Conn<Replay<IO>>| async move {
        let hello = conn.info().client_hello().cloned();
        let mut bytes = Vec::new();
        conn.into_io().read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>((hello, bytes))
    }));
    stack.call(conn(io)).await
}

async fn send(mut io: DuplexStream, bytes: &[u8]) -> Vec<u8> {
    io.write_all(bytes).await.unwrap();
    io.shutdown().await.unwrap();
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    answer
}

#[tokio::test(start_paused = true)]
async fn the_inner_service_knows_the_hello_and_gets_every_byte() {
    for recorded in RECORDED {
        let sent = [recorded.bytes, b"early data"].concat();
        for step in [1, 700, KIB_16] {
            let (near, far) = duplex(KIB_16);
            let io = Trickle::new(far, step);
            let (answer, seen) =
                tokio::join!(send(near, &sent), serve(ClientHelloLayer::new(), io));
            let (known, bytes) = seen.unwrap();
            assert_eq!(known.as_deref(), Some(&hello(recorded.bytes)));
            assert_eq!((bytes, answer), (sent.clone(), vec![]), "{} {step}", recorded.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_tls_is_passed_on_at_once() {
    // The client says this and waits, as those of SSH do not, but those of HTTP do.
    let (mut near, far) = duplex(KIB_16);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut stack =
        ClientHelloLayer::new().layer(service_fn(|conn: Conn<Replay<DuplexStream>>| async move {
            assert!(conn.info().client_hello().is_none());
            Ok::<_, Infallible>(conn.into_io().buffered().to_vec())
        }));
    let since = Instant::now();
    assert_eq!(stack.call(conn(far)).await.unwrap(), b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(since.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_hello_is_answered_with_its_alert() {
    let (near, far) = duplex(KIB_16);
    let bytes = with(&[named(b"not a name")]);
    let (answer, seen) =
        tokio::join!(send(near, &bytes), serve(ClientHelloLayer::new(), Trickle::new(far, 2)));
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 47]);
    assert!(matches!(seen, Err(ClientHelloError::Malformed(HelloError::BadName))), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hello_past_the_limit_is_refused() {
    let (near, far) = duplex(KIB_16);
    let bytes = recorded("chromium-156").bytes;
    let layer = ClientHelloLayer::new().limit(1_500);
    let (answer, seen) = tokio::join!(send(near, bytes), serve(layer, far));
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 47]);
    let too_long = HelloError::TooLong { limit: 1_500 };
    assert!(matches!(seen, Err(ClientHelloError::Malformed(error)) if error == too_long));
}

#[tokio::test(start_paused = true)]
async fn one_deadline_covers_all_of_a_slow_hello() {
    let (mut near, far) = duplex(KIB_16);
    let bytes = recorded("curl-7.88").bytes;
    let since = Instant::now();
    let slow = async {
        for byte in bytes {
            sleep(Duration::from_secs(1)).await;
            if near.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    };
    let (seen, ()) = tokio::join!(
        async {
            let seen = serve(ClientHelloLayer::new(), far).await;
            assert_eq!(since.elapsed(), Duration::from_secs(10));
            seen
        },
        slow
    );
    let limit = Duration::from_secs(10);
    assert!(matches!(seen, Err(ClientHelloError::Timeout { limit: l }) if l == limit));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_counts_from_the_first_poll_and_ends_with_the_hello() {
    let (mut near, far) = duplex(KIB_16);
    let layer = ClientHelloLayer::new().timeout(Duration::from_secs(2));
    let call = serve(layer, far);
    sleep(Duration::from_secs(5)).await;
    let bytes = recorded("curl-7.88").bytes;
    let client = async {
        sleep(Duration::from_secs(1)).await;
        near.write_all(bytes).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        near.shutdown().await.unwrap();
    };
    let (seen, ()) = tokio::join!(call, client);
    assert_eq!(seen.unwrap().1, bytes);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_without_end_is_allowed() {
    let (near, far) = duplex(KIB_16);
    let layer = ClientHelloLayer::new().timeout(Duration::MAX);
    let bytes = recorded("curl-7.88").bytes;
    let (_, seen) = tokio::join!(send(near, bytes), serve(layer, Trickle::new(far, 9)));
    assert_eq!(seen.unwrap().1, bytes);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_is_told_from_a_broken_transport() {
    let bytes = recorded("curl-7.88").bytes;
    for sent in [0, 1, 5, 100] {
        let (near, far) = duplex(KIB_16);
        let (answer, seen) =
            tokio::join!(send(near, &bytes[..sent]), serve(ClientHelloLayer::new(), far));
        assert_eq!(answer, []);
        assert!(matches!(seen, Err(ClientHelloError::HungUp { read }) if read == sent));
    }
    let (mut near, far) = duplex(KIB_16);
    near.write_all(bytes).await.unwrap();
    let seen = serve(ClientHelloLayer::new(), FailAfter::reading(far, 100)).await;
    assert!(matches!(seen, Err(ClientHelloError::Transport(_))), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_service_that_was_ready_is_the_one_that_is_called() {
    let inner = tower::limit::ConcurrencyLimit::new(
        service_fn(|_: Conn<Replay<DuplexStream>>| async { Ok::<_, Infallible>(()) }),
        1,
    );
    let mut stack = ClientHelloLayer::new().layer(inner);
    assert!(is_ready(&mut stack));
    let (mut near, far) = duplex(KIB_16);
    let call = stack.call(conn(far));
    assert!(!is_ready(&mut stack), "the one place is taken while the hello is read");
    near.write_all(b"GET /").await.unwrap();
    call.await.unwrap();
    assert!(is_ready(&mut stack));
}

fn is_ready<S: Service<Conn<DuplexStream>>>(stack: &mut S) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    matches!(stack.poll_ready(&mut cx), Poll::Ready(Ok(())))
}
