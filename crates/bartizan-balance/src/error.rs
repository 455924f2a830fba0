//! Why a balanced request failed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bartizan_net::BoxError;

/// Why [`Balance`](crate::Balance) could not get a request answered.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum BalanceError {
    /// No backend is eligible: all are down, or there is none.
    #[error("no backend of {cluster} is eligible")]
    NoBackend {
        /// The cluster's name.
        cluster: Arc<str>,
    },

    /// The backend that the client is pinned to cannot be had, and the
    /// [contract](crate::StickyContract) allows no other. The request was not sent.
    #[error("{cluster}: the client is pinned to {backend}, which is down")]
    PinnedDown {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The backend's name.
        backend: Arc<str>,
    },

    /// All slots are taken, and as many requests wait for one as may. The request was not sent.
    #[error("{cluster}: all slots are taken, and the queue is full")]
    QueueFull {
        /// The cluster's name.
        cluster: Arc<str>,
    },

    /// No slot became free in time. The request was not sent.
    #[error("{cluster}: no slot became free within {waited:?}")]
    QueueTimeout {
        /// The cluster's name.
        cluster: Arc<str>,
        /// How long it was to wait.
        waited: Duration,
    },

    /// No backend could be dialled, though there are eligible ones. The request was not sent.
    #[error("{cluster}: dialling {backend} failed, after {tries} tries in all")]
    Dial {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The backend that was tried last.
        backend: Arc<str>,
        /// How many backends were dialled.
        tries: u32,
        /// Why the last one failed.
        source: BoxError,
    },

    /// A backend took the request and failed.
    #[error("{cluster}: {backend} failed")]
    Call {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The backend.
        backend: Arc<str>,
        /// How it failed.
        source: BoxError,
    },
}

/// The error of a call that gives its request back, because nothing of it was sent.
///
/// [`Balance`](crate::Balance) treats that as a failed dial: whatever the request is, it goes to
/// another backend.
pub struct NotSent<Req> {
    // A mutex only to be `Sync`, as boxed errors must be.
    request: Mutex<Req>,
    source: BoxError,
}

impl<Req> NotSent<Req> {
    /// Gives `request` back, which was not sent because of `source`.
    pub fn new(request: Req, source: BoxError) -> Self {
        Self { request: Mutex::new(request), source }
    }

    /// The request and the reason.
    pub fn into_parts(self) -> (Req, BoxError) {
        (self.request.into_inner().unwrap_or_else(PoisonError::into_inner), self.source)
    }
}

impl<Req> fmt::Debug for NotSent<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotSent").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<Req> fmt::Display for NotSent<Req> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was not sent")
    }
}

impl<Req> std::error::Error for NotSent<Req> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// The error of a call that was sent, at least in part, and not answered with a single byte.
///
/// [`Balance`](crate::Balance) sends what is safe to repeat ([`Resend`](crate::Resend)) again, to
/// another backend while there is one.
#[derive(Debug, thiserror::Error)]
#[error("the backend answered nothing")]
pub struct Unanswered(#[source] BoxError);

impl Unanswered {
    /// Not answered because of `source`.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self(source.into())
    }
}

/// The error of a call that failed because of its request: the client broke off, or asked for what
/// nobody serves. It says nothing of the backend, so [`Observe`](crate::Observe) and
/// [`Outlier`](crate::Outlier) are not told of it, or clients could have backends taken out.
#[derive(Debug, thiserror::Error)]
#[error("the request could not be sent on, which is no fault of the backend")]
pub struct BadRequest(#[source] BoxError);

impl BadRequest {
    /// Failed because of `source`.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self(source.into())
    }
}
