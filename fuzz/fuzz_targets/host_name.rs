//! Host names: what is taken is as DNS compares it, and reads the same as it is shown.
#![no_main]

use bartizan_tls::fuzzing::name;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(name_) = name(text) else { return };
    assert_eq!(name_.folded, name_.key);
    let plain = name_.key.strip_prefix('.').unwrap_or(&name_.key);
    assert!((1..=253).contains(&plain.len()));
    assert!(plain.split('.').all(|label| (1..=63).contains(&label.len())));
    let in_use = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b);
    assert!(plain.bytes().all(in_use), "{plain}");
    let is_wildcard = plain.len() < name_.key.len();
    assert_eq!(name_.shown, format!("{}{}", if is_wildcard { "*" } else { "" }, name_.key));
    assert_eq!((name_.covers_key, name_.covers_below), (!is_wildcard, is_wildcard));
    let Ok(again) = name(&name_.shown) else { panic!("{} is none", name_.shown) };
    assert_eq!((again.key, again.shown), (name_.key, name_.shown));
});
