use proptest::prelude::*;

use super::*;

fn a_request(message: &[u8]) -> SignRequest {
    SignRequest::new(KeyId::from([7; 32]), SignatureScheme::RSA_PSS_SHA256, message)
}

proptest! {
    #[test]
    fn a_request_comes_back_whole_and_not_before(message in prop::collection::vec(any::<u8>(), 0..600)) {
        let request = a_request(&message);
        let bytes = super::request(&request).unwrap();
        for cut in 0..bytes.len() {
            prop_assert_eq!(body(&bytes[..cut], REQUEST_LIMIT), Ok(None));
        }
        let more = [&bytes[..], b"the next"].concat();
        let read = body(&more, REQUEST_LIMIT).unwrap().unwrap();
        prop_assert_eq!(read_request(read), Ok(request));
    }

    #[test]
    fn an_answer_comes_back_whole_and_not_before(signature in prop::collection::vec(any::<u8>(), 1..600)) {
        let bytes = answer(Ok(&signature)).unwrap();
        for cut in 0..bytes.len() {
            prop_assert_eq!(body(&bytes[..cut], ANSWER_LIMIT), Ok(None));
        }
        let read = body(&bytes, ANSWER_LIMIT).unwrap().unwrap();
        prop_assert_eq!(read_answer(read), Ok(Ok(signature)));
    }

    #[test]
    fn no_bytes_are_too_much_for_it(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(Some(body)) = body(&bytes, 32) {
            prop_assert!(body.len() <= 32);
        }
        let _ = read_request(&bytes);
        let _ = read_answer(&bytes);
    }
}

#[test]
fn refusals_come_back_as_they_were() {
    for refused in SigningRefused::ALL {
        let bytes = answer(Err(refused)).unwrap();
        let body = body(&bytes, ANSWER_LIMIT).unwrap().unwrap();
        assert_eq!(read_answer(body), Ok(Err(refused)));
    }
    assert_eq!(read_answer(&[99]), Err(SigningFrameError::Status(99)));
    assert_eq!(read_answer(&[]), Err(SigningFrameError::Short(0)));
    assert_eq!(read_answer(&[SIGNED]), Err(SigningFrameError::Short(1)), "no signature is none");
}

#[test]
fn another_version_or_too_much_is_told_from_the_head_alone() {
    assert_eq!(body_len(&[2], 10), Err(SigningFrameError::Version(2)));
    assert_eq!(body_len(&[VERSION, 0, 10], 10), Ok(Some(10)));
    assert_eq!(
        body_len(&[VERSION, 0, 11], 10),
        Err(SigningFrameError::Long { len: 11, limit: 10 })
    );
}

#[test]
fn a_message_beyond_a_frame_is_refused_where_it_is_sent() {
    let largest = usize::from(u16::MAX) - 34;
    assert!(request(&a_request(&vec![0; largest])).is_ok());
    let error = request(&a_request(&vec![0; largest + 1])).unwrap_err();
    assert_eq!(error, SigningFrameError::Long { len: 65_536, limit: 65_535 });
}

#[test]
fn a_request_without_a_whole_key_id_is_cut() {
    assert_eq!(read_request(&[8; 33]), Err(SigningFrameError::Short(33)));
    assert_eq!(read_request(&[8; 34]).unwrap().message, b"");
}
