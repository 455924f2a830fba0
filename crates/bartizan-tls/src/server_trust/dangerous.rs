//! Verification switched off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Pin;

/// The decision to verify nothing of a cluster's backends: any chain, any name and any date are
/// accepted, so whoever answers at their address can read and change what is sent to them.
///
/// That the backend has the key of what it presents is checked all the same, and pins count if
/// there are any. When it is put to use, a tracing event (target `bartizan_tls`, warn) names the
/// cluster, once for each value and its clones.
///
/// A backend with a certificate of its own needs none of this: [`ServerTrust`](super::ServerTrust)
/// takes it as a root, or its key as a pin.
#[derive(Clone, Debug)]
#[must_use = "give it to `ServerTrust::dangerous`"]
pub struct DangerousNoVerify {
    cluster: Arc<str>,
    pub(super) pins: Vec<Pin>,
    told: Arc<AtomicBool>,
}

impl DangerousNoVerify {
    /// For the backends of the cluster of this name, which is for the log alone.
    pub fn for_cluster(name: impl Into<Arc<str>>) -> Self {
        Self { cluster: name.into(), pins: Vec::new(), told: Arc::default() }
    }

    /// Adds a pin. With some, one of them has to match.
    pub fn pin(mut self, pin: Pin) -> Self {
        self.pins.push(pin);
        self
    }

    pub(super) fn tell(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                cluster = %self.cluster.escape_debug(),
                pins = self.pins.len(),
                "the certificates of backends are NOT verified: whoever answers at their address \
                 is believed; give their authority as roots, or pin their keys"
            );
        }
    }
}
