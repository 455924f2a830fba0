//! SIGTERM and SIGINT drain, a second one ends at once. SIGHUP loads certificates again.

use std::io;
use std::time::Duration;

use bartizan::net::{Drain, Phase};
use bartizan::tls::CertStore;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the proxy obeys, caught from when this exists.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Catches them. Needs a tokio runtime around it, whose clock and events it uses.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Obeys them for as long as the process lives.
    pub(crate) async fn obey(mut self, drain: Drain, grace: Duration, certs: CertStore) {
        let mut draining = None;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => {
                    let certs = certs.clone();
                    // What it finds wrong it logs itself.
                    tokio::task::spawn_blocking(move || _ = certs.reload());
                    continue;
                }
            }
            if draining.is_some() {
                drain.advance(Phase::Closing);
                continue;
            }
            tracing::info!(?grace, "draining");
            let drain = drain.clone();
            draining = Some(tokio::spawn(async move { drain.run(Duration::ZERO, grace).await }));
        }
    }
}
