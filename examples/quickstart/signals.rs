//! Ctrl-C.

use std::io;
use std::time::Duration;

use bartizan::net::Phase;
use bartizan::prelude::Drain;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT (Ctrl-C), SIGTERM, and SIGHUP (the terminal was closed).
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on none of them ends the program by itself.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The first signal starts the drain, the second ends it.
    pub(crate) async fn obey(mut self, drain: Drain) {
        self.next().await;
        // Not `eprintln`, which panics when nobody is left to print to, as after a SIGHUP.
        tracing::info!(
            "finishing what is under way, for up to {GRACE:?}; Ctrl-C again ends at once"
        );
        tokio::select! {
            () = drain.run(Duration::ZERO, GRACE) => {}
            () = self.next() => drain.advance(Phase::Closing),
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

const GRACE: Duration = Duration::from_secs(10);
