//! When connections to backends end because a certificate does.

use std::time::Duration;

/// When connections to backends end because a certificate does: the backend's own, or the one that
/// the backend was shown.
///
/// Some time before, a connection takes no more new work, and what is under way can end. That time
/// is drawn anew for each connection, between nothing and [`early`](Self::early_within), so that
/// thousands are not dialled anew at once. When the certificate has expired, the connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "give it to `TlsOriginateLayer::expiry`"]
pub struct ConnectionExpiry {
    pub(super) retires: bool,
    pub(super) cuts: bool,
    early: Duration,
}

impl ConnectionExpiry {
    /// Connections outlive certificates, as with HAProxy and nginx.
    pub fn never() -> Self {
        Self { retires: false, cuts: false, ..Self::default() }
    }

    /// A connection takes no new work near the end of the certificate, and is not cut.
    pub fn without_cut(self) -> Self {
        Self { cuts: false, ..self }
    }

    /// The longest time before the certificate's end from which on a connection takes no new work.
    /// Default: 5 min. Never more than a tenth of what was left when the connection was made.
    pub fn early_within(self, early: Duration) -> Self {
        Self { early, ..self }
    }

    /// How much earlier than the certificate one connection ends for new work, of which so much is
    /// left; `draw` is any number.
    pub(super) fn early(&self, left: Duration, draw: u32) -> Duration {
        self.early.min(left / 10).mul_f64(f64::from(draw) / f64::from(u32::MAX))
    }
}

impl Default for ConnectionExpiry {
    fn default() -> Self {
        Self { retires: true, cuts: true, early: Duration::from_secs(300) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_lies_between_nothing_and_a_tenth_of_what_is_left() {
        let expiry = ConnectionExpiry::default();
        let (day, minute) = (Duration::from_secs(86_400), Duration::from_secs(60));
        assert_eq!(expiry.early(day, 0), Duration::ZERO);
        assert_eq!(expiry.early(day, u32::MAX), Duration::from_secs(300));
        assert_eq!(expiry.early(minute, u32::MAX), Duration::from_secs(6));
    }
}
