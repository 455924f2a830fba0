//! SIGTERM and SIGINT drain, a second one ends at once. SIGHUP loads certificates again.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use bartizan::net::{Drain, Phase};
use bartizan::tls::CertStore;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::upstream::Upstream;

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
    pub(crate) async fn obey(mut self, drain: Drain, grace: Duration, files: Files) {
        let mut draining = None;
        let reload = reloads(files);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => {
                    // If one is waiting already, it will see what this one would.
                    let _ = reload.try_send(());
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

/// What is made of files: the certificates that are served, and TLS to backends, for traffic and for
/// checks.
pub(crate) type Files = (Option<CertStore>, [Option<Upstream>; 2]);

/// A thread that loads files again whenever it is told. What it finds wrong is logged.
fn reloads((certs, upstream): Files) -> SyncSender<()> {
    let (tell, told) = sync_channel(1);
    thread::spawn(move || {
        while told.recv().is_ok() {
            let _ = certs.as_ref().map(CertStore::reload);
            upstream.iter().flatten().for_each(Upstream::reload);
        }
    });
    tell
}
