//! The limits on time of a client connection.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use bartizan_net::IdleTimer;
use tokio::time::Instant;

use super::Settings;
use super::state::{Phase, State};

/// One timer for all limits of a connection: only one of them counts at a time.
#[derive(Debug)]
pub(super) struct Limits {
    settings: Settings,
    phase: Phase,
    timer: IdleTimer,
}

impl Limits {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, phase: Phase::Idle(0), timer: IdleTimer::new(settings.keep_alive) }
    }

    /// Lets the time of an idle phase count anew, and be short.
    pub(super) fn drain(&mut self) {
        self.settings.keep_alive = self.settings.keep_alive.min(DRAIN_IDLE);
        if let Phase::Idle(_) = self.phase {
            self.restart(self.settings.keep_alive);
        }
    }

    /// Ready with the phase that lasted too long.
    pub(super) fn poll_exceeded(&mut self, state: &State, cx: &mut Context<'_>) -> Poll<Phase> {
        let phase = state.phase();
        if phase != self.phase {
            self.phase = phase;
            // While busy the timer stays where it is: most requests are over before it fires.
            if phase != Phase::Busy {
                self.restart(self.limit(phase));
            }
        }
        loop {
            ready!(self.timer.poll_expired(cx));
            if phase != Phase::Busy {
                // What is done about it may take its time too, but not for ever.
                self.restart(self.settings.client);
                return Poll::Ready(phase);
            }
            // Looked at again in a while: an HTTP/2 stream may end without waking this task.
            self.restart(self.settings.keep_alive.max(DRAIN_IDLE));
        }
    }

    fn limit(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Idle(_) | Phase::Busy => self.settings.keep_alive,
            Phase::Head(_) => self.settings.header,
            Phase::Stalled(_) => self.settings.client,
            Phase::Lingering => LINGER,
        }
    }

    fn restart(&mut self, limit: Duration) {
        let now = Instant::now();
        self.timer.expire_at(now.checked_add(limit).unwrap_or(now + A_YEAR));
    }
}

/// A client that has an answer with `connection: close` under way to it sends nothing more; one
/// that was about to send has done so by then.
const DRAIN_IDLE: Duration = Duration::from_secs(1);

/// nginx lingers for 5 s after the last byte; but a client that goes on sending must not hold us.
const LINGER: Duration = Duration::from_secs(5);

const A_YEAR: Duration = Duration::from_secs(365 * 86_400);
