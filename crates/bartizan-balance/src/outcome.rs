//! What became of picks, as far as that says something of the backend.

use std::time::Duration;

use http::StatusCode;

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
    /// It answered with this status.
    Answered {
        /// The status.
        status: StatusCode,
        /// When it wants to be asked again: of 429 and 503 with `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Its answer broke off in the middle.
    BrokenOff,
}
