//! Watching over a served connection whose certificates may cease to be good.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bartizan_net::clock::Clock;
use bartizan_net::{DrainWatch, Phase};
use tokio::time::{Instant, Sleep, sleep};

use crate::store::{Member, Withdrawal, WithdrawnWhy};

/// Asks a connection to end when its time has come, and says when it has to have ended.
///
/// ```text
/// Watching ─ withdrawn, or a date reached ─▶ Ending ─ its time is up ─▶ ready
/// ```
pub(super) struct Vigil {
    member: Member,
    asked: DrainWatch,
    rules: Withdrawal,
    clock: Arc<dyn Clock>,
    expiry: Option<(SystemTime, WithdrawnWhy)>,
    // Until the expiry is looked at again, or until the connection is cut.
    timer: Option<Pin<Box<Sleep>>>,
    ending: bool,
}

impl Vigil {
    pub(super) fn new(
        member: Member,
        rules: Withdrawal,
        clock: Arc<dyn Clock>,
        expiry: Option<(SystemTime, WithdrawnWhy)>,
    ) -> Self {
        let asked = member.drain();
        Self { member, asked, rules, clock, expiry, timer: None, ending: false }
    }

    /// What the connection has to obey beside the server's drain.
    pub(super) fn drain(&self) -> DrainWatch {
        self.member.drain()
    }

    /// Ready when the connection has to be cut, with the reason.
    pub(super) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<WithdrawnWhy> {
        loop {
            if self.ending {
                if let Some(timer) = &mut self.timer {
                    ready!(timer.as_mut().poll(cx));
                }
                return Poll::Ready(self.why());
            }
            if self.asked.poll_reached(Phase::Announced, cx).is_ready() {
                self.ending = true;
                self.timer = Some(Box::pin(sleep(self.rules.time(self.member.draw()))));
                continue;
            }
            ready!(self.poll_expiry(cx));
        }
    }

    /// Ready when a date was reached, and the connection has been asked to end for it.
    fn poll_expiry(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((at, why)) = &self.expiry else { return Poll::Pending };
        loop {
            let Ok(left) = at.duration_since(self.clock.now()) else {
                self.member.withdraw(why.clone());
                return Poll::Ready(());
            };
            // Certificates are good to the end of a second. Looked at again from time to time: the
            // clock may be set, and a timer does not go on while the machine sleeps.
            let nap = (left + Duration::from_secs(1)).min(LONGEST_NAP);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(nap)));
            ready!(timer.as_mut().poll(cx));
            timer.as_mut().reset(Instant::now() + nap);
        }
    }

    fn why(&self) -> WithdrawnWhy {
        self.member.why().cloned().unwrap_or(WithdrawnWhy::ClientExpired)
    }
}

const LONGEST_NAP: Duration = Duration::from_secs(60);
