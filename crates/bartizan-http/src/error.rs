//! What can go wrong with a request, and what the client is told of it.

use std::error::Error as StdError;
use std::time::Duration;

use bartizan_balance::{BalanceError, SessionEnded};
use bartizan_net::{BoxError, DialError};
use http::StatusCode;

/// Why a backend's connection could not answer a request.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The backend was silent for too long, before or within the answer.
    #[error("the backend was silent for {limit:?}")]
    Timeout {
        /// The limit.
        limit: Duration,
    },

    /// The connection broke, or what came over it is not HTTP.
    #[error("the connection to the backend failed")]
    Connection(#[source] BoxError),

    /// The backend answered `101 Switching Protocols` to a request that asked for no such thing.
    #[error("the backend switched protocols without being asked")]
    UnaskedUpgrade,

    /// CONNECT asks for a tunnel, which a pool of HTTP connections is not.
    #[error("CONNECT is not served")]
    Connect,

    /// The request names no host, several, or what is none. The client's fault.
    #[error("the request does not name one host, which it has to")]
    BadHost,

    /// The TLS handshake with the backend agreed on another protocol than the pool is set to.
    #[error(
        "the backend agreed on {agreed:?} by ALPN, but the pool is set to {wanted}; offer it only that"
    )]
    WrongProtocol {
        /// What the pool is set to.
        wanted: &'static str,
        /// What was agreed on.
        agreed: String,
    },

    /// The backend takes no HTTP/2 streams, though it accepts connections.
    #[error("the backend takes no streams: raise its SETTINGS_MAX_CONCURRENT_STREAMS")]
    NoStreams,

    /// New connections could not be used any more when the request was to be sent: the backend ended
    /// them at once, such as with `GOAWAY`, or what they rest on was replaced each time.
    #[error(
        "each new connection was outdated at once: does the backend end them (GOAWAY), or are \
         identities replaced, all the time?"
    )]
    Outdated,
}

/// Why a request's body cannot be read. The client's fault.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ClientBodyError {
    /// The client sent nothing for too long.
    #[error("the client sent nothing of its body for {limit:?}")]
    Timeout {
        /// The limit.
        limit: Duration,
    },

    /// The connection broke, or the body's framing is wrong.
    #[error("the client's body cannot be read")]
    Broken(#[source] BoxError),
}

/// The status that a client is to see for an error of a request service.
///
/// | status | for |
/// | --- | --- |
/// | 400, 408 | a request body that is broken, or that stopped coming |
/// | 400 | a request that does not name one host, where that is needed |
/// | 405 | CONNECT |
/// | 503 | no backend is eligible, or the last one was [marked down](SessionEnded) before it had the request |
/// | 504 | a backend that could not be connected to, or did not answer, in time |
/// | 502 | everything else that is wrong with backends |
/// | 500 | errors that this crate does not know |
pub fn status_of(error: &(dyn StdError + 'static)) -> StatusCode {
    let mut status = StatusCode::INTERNAL_SERVER_ERROR;
    let mut next = Some(error);
    while let Some(error) = next {
        // The innermost that is known says most.
        status = known(error).unwrap_or(status);
        next = error.source();
    }
    status
}

fn known(error: &(dyn StdError + 'static)) -> Option<StatusCode> {
    if let Some(error) = error.downcast_ref::<BalanceError>() {
        return Some(match error {
            // As HAProxy: a request that was sent has lost its server, and gets a 502.
            BalanceError::Dial { source, .. } if source.is::<SessionEnded>() => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            BalanceError::NoBackend { .. }
            | BalanceError::PinnedDown { .. }
            | BalanceError::QueueFull { .. }
            | BalanceError::QueueTimeout { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        });
    }
    if let Some(error) = error.downcast_ref::<SendError>() {
        return Some(match error {
            SendError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            SendError::Connect => StatusCode::METHOD_NOT_ALLOWED,
            SendError::BadHost => StatusCode::BAD_REQUEST,
            _ => StatusCode::BAD_GATEWAY,
        });
    }
    if let Some(error) = error.downcast_ref::<DialError>() {
        let timeout = error.is_timeout();
        return Some(if timeout { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::BAD_GATEWAY });
    }
    match error.downcast_ref::<ClientBodyError>()? {
        ClientBodyError::Timeout { .. } => Some(StatusCode::REQUEST_TIMEOUT),
        ClientBodyError::Broken(_) => Some(StatusCode::BAD_REQUEST),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn call(source: impl Into<BoxError>) -> BalanceError {
        BalanceError::Call { cluster: "web".into(), backend: "a".into(), source: source.into() }
    }

    #[test]
    fn the_innermost_known_error_decides() {
        let limit = Duration::from_secs(1);
        let address = "127.0.0.1:1".parse().unwrap();
        let dial = |source: BoxError| BalanceError::Dial {
            cluster: "web".into(),
            backend: "a".into(),
            tries: 4,
            source,
        };
        let refused = Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        let cases: [(BoxError, u16); 13] = [
            (BalanceError::NoBackend { cluster: "web".into() }.into(), 503),
            (BalanceError::QueueFull { cluster: "web".into() }.into(), 503),
            (BalanceError::QueueTimeout { cluster: "web".into(), waited: limit }.into(), 503),
            (BalanceError::PinnedDown { cluster: "web".into(), backend: "a".into() }.into(), 503),
            (dial(DialError::Timeout { address, limit }.into()).into(), 504),
            (
                dial(
                    DialError::Connect { addr: "127.0.0.1:1".parse().unwrap(), source: refused }
                        .into(),
                )
                .into(),
                502,
            ),
            (dial(SessionEnded::MarkedDown.into()).into(), 503),
            (call(SessionEnded::MarkedDown).into(), 502),
            (call(SendError::Timeout { limit }).into(), 504),
            (call(SendError::Connection("broken".into())).into(), 502),
            (call(SendError::Connection(ClientBodyError::Timeout { limit }.into())).into(), 408),
            (call("who knows").into(), 502),
            ("who knows".into(), 500),
        ];
        for (error, status) in cases {
            assert_eq!(status_of(&*error).as_u16(), status, "{error:?}");
        }
    }
}
