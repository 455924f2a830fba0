//! OCSP responses: what is stapled is in date, and is what was given.
#![no_main]

use std::time::Duration;

use bartizan_fuzz::{fixtures, now};
use bartizan_tls::StapleProblem;
use bartizan_tls::fuzzing::staple;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|response: &[u8]| {
    let missing = staple(response, fixtures::P256, None, now());
    assert_eq!(missing, Err(StapleProblem::IssuerMissing));
    match staple(response, fixtures::P256, Some(fixtures::CA), now()) {
        Ok((der, begins, ends)) => {
            assert_eq!(der, response);
            assert!(begins < ends && ends > now() && begins <= now() + Duration::from_secs(300));
            let other = staple(response, fixtures::RSA, Some(fixtures::CA), now());
            assert!(other.is_err(), "good for two certificates");
            let late = staple(response, fixtures::P256, Some(fixtures::CA), ends);
            assert!(late.is_err(), "good at its end");
        }
        Err(problem) => assert!(!problem.to_string().is_empty()),
    }
});
