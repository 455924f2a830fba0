use super::*;

fn tls13(context: &[u8], hash: usize) -> Vec<u8> {
    [&[0x20; 64], context, &vec![7; hash]].concat()
}

fn key_exchange(group: u16, first: u8, len: usize) -> Vec<u8> {
    let mut message = vec![0xab; 64];
    message.push(3);
    message.extend(group.to_be_bytes());
    message.push(len as u8);
    message.push(first);
    message.resize(64 + 4 + len, 9);
    message
}

fn transcript(version: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let mut message = vec![1, 0, 0, 40, version[0], version[1]];
    message.resize(44, 0);
    message.extend(rest);
    message
}

#[test]
fn certificate_verify_of_tls_1_3_is_known_with_either_hash() {
    for hash in [32, 48] {
        let of = |context| SignedContent::of(&tls13(context, hash));
        assert_eq!(of(SERVER_CONTEXT), Some(SignedContent::Tls13Server));
        assert_eq!(of(CLIENT_CONTEXT), Some(SignedContent::Tls13Client));
    }
}

#[test]
fn certificate_verify_of_another_size_or_context_is_refused() {
    for hash in [0, 31, 33, 47, 49, 64] {
        assert_eq!(SignedContent::of(&tls13(SERVER_CONTEXT, hash)), None, "{hash}");
    }
    assert_eq!(SignedContent::of(&tls13(b"TLS 1.3, server CertificateVerifi\0", 32)), None);
    assert_eq!(SignedContent::of(&tls13(b"", 32)), None);
    let mut short = tls13(SERVER_CONTEXT, 32);
    short.remove(0);
    assert_eq!(SignedContent::of(&short), None);
}

#[test]
fn a_key_exchange_is_known_by_its_curve_and_its_exact_length() {
    for (group, len) in GROUPS {
        let message = key_exchange(group, 4, len);
        assert_eq!(SignedContent::of(&message), Some(SignedContent::Tls12KeyExchange));
        assert_eq!(SignedContent::of(&message[..message.len() - 1]), None, "short {group:#x}");
        assert_eq!(SignedContent::of(&[&message[..], &[0]].concat()), None, "long {group:#x}");
    }
    assert_eq!(SignedContent::of(&key_exchange(0x0017, 3, 65)), None, "not uncompressed");
    assert_eq!(SignedContent::of(&key_exchange(0x0017, 4, 32)), None, "length of another curve");
    assert_eq!(SignedContent::of(&key_exchange(0x0100, 4, 65)), None, "unknown group");
    let mut explicit = key_exchange(0x0017, 4, 65);
    explicit[64] = 1;
    assert_eq!(SignedContent::of(&explicit), None, "explicit curve");
}

#[test]
fn a_transcript_is_known_by_its_whole_client_hello_and_what_follows() {
    let good = transcript([3, 3], &[2, 0, 0, 0]);
    assert_eq!(SignedContent::of(&good), Some(SignedContent::Tls12Transcript));
    assert_eq!(SignedContent::of(&transcript([3, 3], &[])), None, "nothing behind");
    assert_eq!(SignedContent::of(&transcript([3, 3], &[11])), None, "no ServerHello");
    assert_eq!(SignedContent::of(&transcript([3, 1], &[2])), None, "TLS 1.0");
    assert_eq!(SignedContent::of(&good[..40]), None, "cut");
}

#[test]
fn what_other_protocols_sign_is_refused() {
    let ssh = b"\0\0\0\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x32\0\0\0\x04root";
    let certificate = [0x30, 0x82, 0x01, 0x22];
    for message in [&b""[..], b"eyJhbGciOiJFUzI1NiJ9.e30", ssh, &certificate, &[0x20; 64]] {
        assert_eq!(SignedContent::of(message), None);
    }
}
