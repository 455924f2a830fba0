//! What became of picks, as far as that says something of the backend.

use http::StatusCode;

use crate::RetryAfter;

/// What became of a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The backend could not be dialled, or took nothing.
    DialFailed,
    /// It took the request, and no answer came.
    NoAnswer,
    /// It was dialled: all that is known of a connection that is passed on.
    Dialled,
    /// It answered with this status, or with one of gRPC that this one stands for.
    Answered {
        /// The status.
        status: StatusCode,
        /// When it wants to be asked again: of 429 and 503 with `Retry-After`.
        retry_after: Option<RetryAfter>,
    },
    /// Its answer broke off in the middle.
    BrokenOff,
}
