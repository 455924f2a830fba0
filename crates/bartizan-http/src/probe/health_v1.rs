//! The messages of gRPC's health checking protocol, and what an answer means.
//!
//! Sources: `doc/health-checking.md`, `doc/PROTOCOL-HTTP2.md` and `doc/statuscodes.md` of gRPC.

use bartizan_balance::Verdict;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap};
use http::{HeaderName, StatusCode};
use prost::Message;

use super::ask::Looked;

/// `grpc.health.v1.HealthCheckRequest`. Written by hand, since two messages of one field each are less
/// than a generator and its file.
#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`. An enumeration is an `int32` on the wire.
#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// The body of a request for `service`: a message that is not compressed, in its frame.
pub(super) fn request(service: &str) -> Bytes {
    let message = CheckRequest { service: service.to_owned() }.encode_to_vec();
    let mut framed = BytesMut::with_capacity(FRAME_HEAD + message.len());
    framed.put_u8(0);
    // A name of 4 GiB would be cut here, and refused by every server.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// Whether the head of the answer is one of gRPC.
///
/// # Errors
///
/// The verdict, if it is not.
pub(super) fn look_at_head(status: StatusCode, headers: &HeaderMap) -> Result<(), Verdict> {
    if status != StatusCode::OK {
        return Err(Verdict::fail(format!("it answered HTTP {status}, where gRPC answers 200 OK")));
    }
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    match kind.strip_prefix(b"application/grpc") {
        Some(b"" | [b'+' | b';', ..]) => Ok(()),
        _ => {
            let kind = readable(kind);
            Err(Verdict::fail(format!("it answered with the content type {kind:?}, not gRPC's")))
        }
    }
}

/// What the answer says of `service`. The head has been looked at.
///
/// # Errors
///
/// The verdict, if it is no pass.
pub(super) fn look_at_answer(
    service: &str,
    headers: &HeaderMap,
    looked: &Looked,
) -> Result<(), Verdict> {
    if !looked.whole {
        return Err(Verdict::fail(format!("the answer has more than {MAX_ANSWER} bytes")));
    }
    // What has no message to send may put its status into the head: "trailers only".
    let ends = [Some(headers), looked.trailers.as_ref()];
    let end = ends.into_iter().flatten().find(|end| end.contains_key(&GRPC_STATUS));
    let Some(end) = end else {
        return Err(Verdict::fail("the answer has no grpc-status: something cut off its trailers"));
    };
    let code = end.get(&GRPC_STATUS).map_or(&b""[..], |code| code.as_bytes());
    if code != b"0" {
        return Err(Verdict::fail(of_code(service, code, end)));
    }
    match message(&looked.bytes).map_err(Verdict::fail)? {
        SERVING => Ok(()),
        status => Err(Verdict::fail(of_status(status))),
    }
}

/// The status in the one message of the answer.
fn message(body: &[u8]) -> Result<i32, String> {
    let Some((head, message)) = body.split_first_chunk::<FRAME_HEAD>() else {
        return Err("the answer is over before its message".into());
    };
    let [compressed, length @ ..] = *head;
    if compressed != 0 {
        return Err("the answer is compressed, which was not asked for".into());
    }
    let length = u32::from_be_bytes(length);
    if usize::try_from(length) != Ok(message.len()) {
        let there = message.len();
        return Err(format!(
            "the answer announces a message of {length} bytes, and has {there} bytes after that"
        ));
    }
    let response = CheckResponse::decode(message);
    response
        .map(|response| response.status)
        .map_err(|error| format!("the answer's message is no answer to a check of health: {error}"))
}

fn of_status(status: i32) -> String {
    match status {
        0 => "it says UNKNOWN".into(),
        2 => "it says NOT_SERVING".into(),
        3 => "it says SERVICE_UNKNOWN".into(),
        other => format!("it says {other}, which is no status of health"),
    }
}

fn of_code(service: &str, code: &[u8], end: &HeaderMap) -> String {
    let number = std::str::from_utf8(code).ok().and_then(|code| code.parse::<usize>().ok());
    let name = match number.and_then(|number| CODES.get(number)) {
        Some(name) => (*name).to_owned(),
        None => format!("code {:?}", readable(code)),
    };
    let said = match end.get(&GRPC_MESSAGE).map(|message| percent_decoded(message.as_bytes())) {
        Some(message) if !message.is_empty() => format!("{name}: {message}"),
        _ => name,
    };
    match number {
        Some(NOT_FOUND) => format!("its health service does not know {service:?} ({said})"),
        Some(UNIMPLEMENTED) => format!(
            "it has no health service: add grpc.health.v1.Health to the server, or check it in \
             another way ({said})"
        ),
        _ => format!("gRPC failed with {said}"),
    }
}

/// `Percent-Encoded` of the protocol. What is no escape stands for itself, as it demands.
fn percent_decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len().min(MAX_TEXT));
    let mut rest = text;
    while let [first, after @ ..] = rest
        && bytes.len() < MAX_TEXT
    {
        rest = after;
        bytes.push(*first);
        if *first == b'%'
            && let [high, low, after @ ..] = after
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            bytes.pop();
            bytes.push(high << 4 | low);
            rest = after;
        }
    }
    readable(&bytes)
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

/// What a peer has said, fit for one line of a log.
fn readable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";

/// A response of the protocol has two bytes. This leaves room for fields to come.
pub(super) const MAX_ANSWER: usize = 4096;

/// Of what a peer says, for people.
const MAX_TEXT: usize = 256;

/// Whether the message is compressed, and its length in four bytes.
const FRAME_HEAD: usize = 5;

const SERVING: i32 = 1;

const NOT_FOUND: usize = 5;

const UNIMPLEMENTED: usize = 12;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The names of the codes, in order.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[cfg(test)]
mod tests;
