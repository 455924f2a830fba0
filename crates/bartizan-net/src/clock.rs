//! The one place where wall time is read.
//!
//! Intervals and deadlines come from `tokio::time::Instant`, which tests can pause. Wall time is
//! needed for what is dated: the validity of certificates. It comes from a [`Clock`], so that a
//! test can be in any year.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

/// Tells the wall time.
pub trait Clock: Debug + Send + Sync {
    /// The wall time now.
    fn now(&self) -> SystemTime;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a unit struct is its own constructor")]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the clock module")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> SystemTime {
        (**self).now()
    }
}

/// A clock that stands still, for tests and for dry runs at another date.
impl Clock for SystemTime {
    fn now(&self) -> SystemTime {
        *self
    }
}
