//! When open connections end because a certificate is good no more.

use std::time::Duration;

/// When open connections end because a certificate is good no more.
///
/// Such a connection is asked to finish (`connection: close`, GOAWAY) at once, and is cut some time
/// later if it has not. That time is drawn anew for each between half and all of
/// [`within`](Self::within), so that thousands do not come back at once.
///
/// | reason | default |
/// | --- | --- |
/// | a CRL or a change of CAs withdraws a client's identity | ends |
/// | a client's certificate expires | goes on |
/// | the server's own certificate expires | goes on |
#[derive(Clone, Copy, Debug)]
#[must_use = "give it to `CertStoreBuilder::withdrawal`"]
pub struct Withdrawal {
    pub(crate) on_trust_change: bool,
    pub(crate) on_client_expiry: bool,
    pub(crate) on_server_expiry: bool,
    pub(crate) within: Duration,
}

impl Withdrawal {
    /// Whether connections end when the client's certificate is found revoked, or its authority no
    /// longer trusted, in a new generation.
    pub fn on_trust_change(self, ends: bool) -> Self {
        Self { on_trust_change: ends, ..self }
    }

    /// Whether connections end when the client's certificate expires.
    pub fn on_client_expiry(self, ends: bool) -> Self {
        Self { on_client_expiry: ends, ..self }
    }

    /// Whether connections end when the certificate that they were served expires.
    pub fn on_server_expiry(self, ends: bool) -> Self {
        Self { on_server_expiry: ends, ..self }
    }

    /// How long such a connection has for what it is doing, at most. Default: 10 s.
    pub fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// The time of one connection; `draw` is any number.
    pub(crate) fn time(&self, draw: u32) -> Duration {
        let half = self.within / 2;
        half.saturating_add(half.mul_f64(f64::from(draw) / f64::from(u32::MAX)))
    }
}

impl Default for Withdrawal {
    fn default() -> Self {
        Self {
            on_trust_change: true,
            on_client_expiry: false,
            on_server_expiry: false,
            within: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_lies_between_half_and_all() {
        let withdrawal = Withdrawal::default().within(Duration::from_secs(8));
        assert_eq!(withdrawal.time(0), Duration::from_secs(4));
        assert_eq!(withdrawal.time(u32::MAX), Duration::from_secs(8));
        assert_eq!(withdrawal.time(u32::MAX / 2).as_secs_f64().round(), 6.0);
        assert_eq!(Withdrawal::default().within(Duration::MAX).time(0), Duration::MAX / 2);
    }
}
