//! The line that an agent says.

use std::fmt::Write;

use crate::probe::excerpt::Excerpt;
use crate::{AgentReply, AgentWeight, State};

/// Reads what an agent said: its first line, which ends with CR, LF or the reply.
///
/// The line is made of words in any order and any case, between spaces, tabs and commas; of several
/// words for the same thing, the last one counts.
///
/// | word | meaning |
/// | --- | --- |
/// | `75%` | this share of the configured weight |
/// | `maxconn:30` | at most so many at a time; 0: any number |
/// | `ready`, `drain`, `maint` | what the operator wants |
/// | `up` | it is up, unless other checks find it down |
/// | `down`, `stopped`, `fail`, `failed` | it is down, and how |
/// | `weight:20` | this weight, from 0 to 256 |
/// | `#` | the rest of the line describes the state that was told |
///
/// That is what HAProxy 2.6 reads, except that it knows neither `weight:` nor `failed` nor a `#` right
/// after a word, and ignores a line without an end. As there, a word of another kind is left out; it is told in
/// [`reason`](AgentReply::reason), if there is nothing else to tell.
///
/// # Errors
///
/// [`AgentReplyError`], if there is no word that can be used. All of these are the agent's fault.
pub fn parse_agent_reply(reply: &[u8]) -> Result<AgentReply, AgentReplyError> {
    let end = reply.iter().position(|byte| is_line_end(*byte)).unwrap_or(reply.len());
    let line = &reply[..end];
    if line.len() > LINE {
        return Err(AgentReplyError::TooLong);
    }
    let sharp = line.iter().position(|byte| *byte == b'#');
    let (words, about) = match sharp {
        Some(at) => (&line[..at], line[at + 1..].trim_ascii()),
        None => (line, &b""[..]),
    };
    let mut read = AgentReply::default();
    let (mut known, mut unknown, mut state) = (false, None, None);
    let is_gap = |byte: &u8| matches!(byte, b' ' | b'\t' | b',');
    for word in words.split(is_gap).filter(|word| !word.is_empty()) {
        if !take(word, &mut read) {
            unknown.get_or_insert(word);
            continue;
        }
        known = true;
        if is_health(word) {
            state = Some(word);
        }
    }
    if !known {
        return Err(match unknown {
            Some(word) => AgentReplyError::Unknown { word: Excerpt(word).to_string() },
            None => AgentReplyError::Empty,
        });
    }
    read.reason = reason(state, about, unknown);
    Ok(read)
}

/// An agent said nothing that can be used. The agent's fault.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AgentReplyError {
    /// The line has no word at all.
    #[error("the agent's line is empty; it has to say a word such as `up` or `75%`")]
    Empty,

    /// No word of the line is known.
    #[error("the agent says {word}, which is no word of the protocol")]
    Unknown {
        /// The first word, in quotes, printable and shortened.
        word: String,
    },

    /// The line is longer than 1 KiB.
    #[error("the agent's line is longer than 1 KiB; shorten its description")]
    TooLong,
}

pub(super) fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Takes one word in. Returns whether it is one.
fn take(word: &[u8], reply: &mut AgentReply) -> bool {
    let word = word.to_ascii_lowercase();
    match &*word {
        b"up" => reply.up = Some(true),
        b"down" | b"stopped" | b"fail" | b"failed" => reply.up = Some(false),
        b"ready" => reply.state = Some(State::Ready),
        b"drain" => reply.state = Some(State::Drain),
        b"maint" => reply.state = Some(State::Maintenance),
        word => {
            let max = word.strip_prefix(b"maxconn:").and_then(number);
            let Some(weight) = weight(word) else {
                reply.max = max.or(reply.max);
                return max.is_some();
            };
            reply.weight = Some(weight);
        }
    }
    true
}

fn is_health(word: &[u8]) -> bool {
    let words: [&[u8]; 5] = [b"up", b"down", b"stopped", b"fail", b"failed"];
    words.iter().any(|health| word.eq_ignore_ascii_case(health))
}

fn weight(word: &[u8]) -> Option<AgentWeight> {
    if let Some(percent) = word.strip_suffix(b"%") {
        return Some(AgentWeight::Percent(number(percent)?.min(MOST_PERCENT) as u16));
    }
    let weight = number(word.strip_prefix(b"weight:")?)?;
    (weight <= MOST_WEIGHT).then_some(AgentWeight::Absolute(weight as u16))
}

/// Digits alone: `str::parse` takes a sign as well.
fn number(digits: &[u8]) -> Option<u32> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let digits = is_number.then(|| str::from_utf8(digits).ok())??;
    digits.parse().ok()
}

/// What is left to tell people.
fn reason(state: Option<&[u8]>, about: &[u8], unknown: Option<&[u8]>) -> String {
    let mut reason = String::new();
    // Writing to a string cannot fail.
    if let Some(state) = state {
        let state = state.to_ascii_lowercase();
        let _ = write!(reason, "the agent says {}", state.escape_ascii());
        if !about.is_empty() {
            let _ = write!(reason, ": {}", printable(about));
            return reason;
        }
    }
    if let Some(word) = unknown {
        let also = if state.is_some() { ", and" } else { "the agent says" };
        let _ = write!(reason, "{also} {}, which is no word of the protocol", Excerpt(word));
    }
    reason
}

/// A description may be in any language, but must not break a log.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// All words of the protocol fit into a hundred bytes, and a description is one line in a log.
/// HAProxy's bound is its buffer, 16 KiB.
pub(super) const LINE: usize = 1024;

/// HAProxy's: 256 times the largest weight.
const MOST_PERCENT: u32 = 25_600;

const MOST_WEIGHT: u32 = crate::backend::MAX_WEIGHT as u32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> AgentReply {
        parse_agent_reply(line.as_bytes()).unwrap_or_else(|error| panic!("{line:?}: {error}"))
    }

    fn plain() -> AgentReply {
        AgentReply::default()
    }

    #[test]
    fn each_word_means_what_it_means_to_haproxy() {
        let state = |state| AgentReply { state: Some(state), ..plain() };
        let weight = |weight| AgentReply { weight: Some(weight), ..plain() };
        let max = |max| AgentReply { max: Some(max), ..plain() };
        let health =
            |up, reason: &str| AgentReply { up: Some(up), reason: reason.into(), ..plain() };
        for (line, reply) in [
            ("75%", weight(AgentWeight::Percent(75))),
            ("0%", weight(AgentWeight::Percent(0))),
            ("99999%", weight(AgentWeight::Percent(25_600))),
            ("weight:256", weight(AgentWeight::Absolute(256))),
            ("maxconn:30", max(30)),
            ("MaxConn:0", max(0)),
            ("ready", state(State::Ready)),
            ("DRAIN", state(State::Drain)),
            ("maint", state(State::Maintenance)),
            ("up", health(true, "the agent says up")),
            ("down", health(false, "the agent says down")),
            ("Stopped", health(false, "the agent says stopped")),
            ("fail", health(false, "the agent says fail")),
            ("failed", health(false, "the agent says failed")),
        ] {
            for end in ["", "\n", "\r\n", "\r", "\nmaint\n"] {
                assert_eq!(read(&format!("{line}{end}")), reply, "{line}{end:?}");
            }
        }
    }

    #[test]
    fn words_stand_in_any_order_between_blanks_and_commas_and_the_last_counts() {
        let reply = read(" ,up\t50% maxconn:3,ready, drain  20%,maxconn:7 down,");
        assert_eq!(reply.up, Some(false));
        assert_eq!(reply.state, Some(State::Drain));
        assert_eq!(reply.weight, Some(AgentWeight::Percent(20)));
        assert_eq!(reply.max, Some(7));
    }

    #[test]
    fn a_description_tells_of_a_state() {
        let down = read("down 5%#  disk is full, up \t\r\n");
        assert_eq!(down.reason, "the agent says down: disk is full, up");
        assert_eq!((down.up, down.weight), (Some(false), Some(AgentWeight::Percent(5))));
        assert_eq!(read("5% # busy").reason, "");
        assert_eq!(read("down # a\x1b[1mb").reason, "the agent says down: a\u{fffd}[1mb");
        assert_eq!(read("down#").reason, "the agent says down");
    }

    #[test]
    fn a_word_that_is_none_is_left_out_and_told() {
        let reply = read("75% yellow");
        assert_eq!(reply.weight, Some(AgentWeight::Percent(75)));
        assert_eq!(reply.reason, r#"the agent says "yellow", which is no word of the protocol"#);
        let expected = r#"the agent says up, and "75", which is no word of the protocol"#;
        assert_eq!(read("75 up").reason, expected);
        assert_eq!(read("yellow down # disk").reason, "the agent says down: disk");
    }

    #[test]
    fn a_line_without_a_word_is_an_error() {
        use AgentReplyError::{Empty, TooLong, Unknown};
        for line in ["", " \t,", "\nup", "# up"] {
            assert_eq!(parse_agent_reply(line.as_bytes()), Err(Empty), "{line}");
        }
        for word in
            ["75", "%", "-5%", "+5%", "5%5", "5%%", "maxconn:", "maxconn:-1", "maxconn:5000000000"]
        {
            let unknown = Err(Unknown { word: format!("\"{word}\"") });
            assert_eq!(parse_agent_reply(word.as_bytes()), unknown);
        }
        for word in ["weight:257", "weight:", "ups", "nolb", "up\0"] {
            assert!(parse_agent_reply(word.as_bytes()).is_err(), "{word}");
        }
        let line = |len: usize| [b"up #".to_vec(), vec![b'x'; len - 4]].concat();
        assert!(parse_agent_reply(&line(LINE)).is_ok());
        assert_eq!(parse_agent_reply(&line(LINE + 1)), Err(TooLong));
    }

    fn word(reply: &AgentReply) -> Vec<String> {
        let weight = reply.weight.map(|weight| match weight {
            AgentWeight::Percent(percent) => format!("{percent}%"),
            AgentWeight::Absolute(weight) => format!("weight:{weight}"),
        });
        let state = reply.state.map(|state| match state {
            State::Drain => "drain".to_owned(),
            State::Maintenance => "maint".to_owned(),
            _ => "ready".to_owned(),
        });
        let up = reply.up.map(|up| if up { "up" } else { "down" }.to_owned());
        let max = reply.max.map(|max| format!("maxconn:{max}"));
        [weight, state, up, max].into_iter().flatten().collect()
    }

    fn replies() -> impl Strategy<Value = AgentReply> {
        let weight = prop_oneof![
            (0u16..=25_600).prop_map(AgentWeight::Percent),
            (0u16..=256).prop_map(AgentWeight::Absolute),
        ];
        let states = vec![State::Ready, State::Drain, State::Maintenance];
        let state = prop::sample::select(states);
        let parts = (
            prop::option::of(any::<bool>()),
            prop::option::of(state),
            prop::option::of(weight),
            prop::option::of(any::<u32>()),
        );
        parts.prop_map(|(up, state, weight, max)| AgentReply { up, state, weight, max, ..plain() })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_is_said_is_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            words in "[a-z0-9%:#, \t\r\n]{0,60}",
        ) {
            for said in [&bytes[..], words.as_bytes()] {
                if let Ok(reply) = parse_agent_reply(said) {
                    prop_assert!(!reply.reason.contains(char::is_control));
                    prop_assert!(reply.reason.len() < 500);
                }
            }
        }

        #[test]
        fn what_is_written_is_read_again(
            reply in replies(),
            about in "[a-z é]{0,20}",
            turn in 0usize..4,
            gap in "[ \t,]{1,3}",
        ) {
            let mut words = word(&reply);
            prop_assume!(!words.is_empty());
            let turn = turn % words.len();
            words.rotate_left(turn);
            let line = format!("{}{gap}#{about}\r\n", words.join(&gap));
            let read = parse_agent_reply(line.as_bytes());
            let Ok(read) = read else { panic!("{line}: {read:?}") };
            let about = about.trim();
            prop_assert_eq!(reply.up.is_some() && !about.is_empty(), read.reason.ends_with(&format!(": {about}")));
            prop_assert_eq!(AgentReply { reason: String::new(), ..read }, reply);
        }
    }
}
