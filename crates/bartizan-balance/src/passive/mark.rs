//! What an outcome says of a backend.

use http::{HeaderMap, Response, StatusCode};

use super::RetryAfter;
use crate::Outcome;

/// What an outcome says of a backend, as far as ejections go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// It does what it should.
    Good,
    /// It answered with a status from 500 on.
    Error,
    /// It answered with 502, 503 or 504.
    Gateway,
    /// It could not be dialled, or did not answer: nothing that it said.
    Local,
}

impl Mark {
    pub(super) fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::DialFailed | Outcome::NoAnswer | Outcome::BrokenOff => Self::Local,
            Outcome::Dialled => Self::Good,
            Outcome::Answered { status, .. } => match status.as_u16() {
                502..=504 => Self::Gateway,
                500.. => Self::Error,
                _ => Self::Good,
            },
        }
    }
}

/// The outcome of a response: its status, or what stands for the `grpc-status` of its head.
pub(crate) fn of_response<B>(response: &Response<B>) -> Outcome {
    let status = match response.status() {
        StatusCode::OK => grpc(response.headers()).unwrap_or(StatusCode::OK),
        status => status,
    };
    let waits = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let retry_after = waits.then(|| RetryAfter::of(response.headers())).flatten();
    Outcome::Answered { status, retry_after }
}

/// The HTTP status that stands for a gRPC status, as in Envoy and in `google/rpc/code.proto`.
///
/// Only a response that has nothing but a head has it there ("Trailers-Only" in gRPC over HTTP/2).
fn grpc(head: &HeaderMap) -> Option<StatusCode> {
    let status: u8 = head.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let status = match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        // 2 (unknown), 13 (internal), 15 (data loss), and what is yet to be defined.
        _ => 500,
    };
    StatusCode::from_u16(status).ok()
}
