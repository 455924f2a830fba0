//! Asking backends over HTTP whether they work.
//!
//! A probe takes a service of HTTP connections to backends: [`HttpOnce`], which makes a new one each
//! time, or the [`HttpPool`](crate::HttpPool) of the traffic. What an answer has to be like is decided
//! by what is pure: [`expect`] and, for gRPC, [`health_v1`].

mod ask;
mod expect;
mod grpc;
mod health_v1;
mod once;
mod request;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use bartizan_balance::Verdict;
use bartizan_net::BoxError;

pub use expect::Expect;
pub use grpc::GrpcProbe;
pub use once::HttpOnce;
pub use request::HttpProbe;

/// A probe under way. Boxed, because the futures of what is asked have no names.
pub type Probing = Pin<Box<dyn Future<Output = Result<Verdict, Infallible>> + Send>>;

/// Why a probe cannot be what it was to be. The configuration's fault.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum HttpProbeError {
    /// The path cannot stand in a request.
    #[error(
        "{path:?} is no path to ask for: begin with a slash, leave out the fragment, and \
         percent-encode spaces and what is not ASCII"
    )]
    Path {
        /// The path.
        path: String,
    },

    /// The host cannot stand in a request.
    #[error("{host:?} is no host to ask for: give a name or an address, and a port if need be")]
    Host {
        /// The host.
        host: String,
    },

    /// The pattern is no regular expression, or too large a one.
    #[error("the pattern for the body cannot be used")]
    Pattern(#[source] BoxError),
}

#[cfg(test)]
mod grpc_tests;
#[cfg(test)]
mod tests;
