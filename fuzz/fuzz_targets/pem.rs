//! PEM sections: what is read, written again, reads the same; errors cite no key.
#![no_main]

use bartizan_fuzz::{assert_cites_nothing, to_pem};
use bartizan_tls::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let sections = match fuzzing::pem(text) {
        Ok(sections) => sections,
        Err(error) => return assert_cites_nothing(&error.to_string(), text),
    };
    assert!(sections.windows(2).all(|pair| pair[0].0 < pair[1].0), "two have the same number");
    let again: String = sections.iter().map(|(_, label, der)| to_pem(label, der)).collect();
    let again = fuzzing::pem(again.as_bytes()).expect("just written");
    let bare = |sections: Vec<(usize, &'static str, Vec<u8>)>| -> Vec<_> {
        sections.into_iter().map(|(_, label, der)| (label, der)).collect()
    };
    assert_eq!(bare(again), bare(sections));
});
