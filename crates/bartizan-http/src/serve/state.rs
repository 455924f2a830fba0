//! What the task, the stream and the requests of one client connection know of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

use bartizan_net::ConnInfo;

/// The shared state of one client connection.
#[derive(Debug)]
pub(super) struct State {
    pub(super) info: Arc<ConnInfo>,
    pub(super) h2: bool,
    in_flight: AtomicUsize,
    // Counts ends of requests: it tells one idle time from the next.
    finished: AtomicUsize,
    head_begun: AtomicBool,
    stalled: AtomicBool,
    // Counts what went on after a stall: it tells one stall from the next.
    unstalled: AtomicUsize,
    // Replies over HTTP/2 with more to come that the client's window has no room for.
    blocked: AtomicUsize,
    draining: AtomicBool,
    unread: AtomicBool,
    lingering: AtomicBool,
    end: AtomicU8,
}

/// What a connection is doing, as far as limits on time go. Equal phases are the same stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No request is in flight, and none has begun.
    Idle(usize),
    /// A request's head has begun.
    Head(usize),
    /// The client does not read what is written.
    Stalled(usize),
    /// All is written, and what the client still sends is thrown away.
    Lingering,
    /// A request is in flight. Its own parts have their own limits.
    Busy,
}

/// How the stream is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum End {
    No = 0,
    /// As if the client had closed it.
    Quiet = 1,
    /// With a 408 first.
    HeadTimeout = 2,
}

impl State {
    pub(super) fn new(info: Arc<ConnInfo>, h2: bool) -> Self {
        Self {
            info,
            h2,
            in_flight: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            head_begun: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            unstalled: AtomicUsize::new(0),
            blocked: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            lingering: AtomicBool::new(false),
            end: AtomicU8::new(End::No as u8),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        if self.lingering.load(Ordering::Relaxed) {
            return Phase::Lingering;
        }
        if self.stalled.load(Ordering::Relaxed) {
            return Phase::Stalled(self.unstalled.load(Ordering::Relaxed));
        }
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        if in_flight > 0 {
            let blocked = self.blocked.load(Ordering::Relaxed) == in_flight;
            let unstalled = self.unstalled.load(Ordering::Relaxed);
            return if blocked { Phase::Stalled(unstalled) } else { Phase::Busy };
        }
        let finished = self.finished.load(Ordering::Relaxed);
        let begun = self.head_begun.load(Ordering::Relaxed);
        if begun { Phase::Head(finished) } else { Phase::Idle(finished) }
    }

    pub(super) fn note_read(&self) {
        // An HTTP/2 client sends frames of many kinds; a head among them cannot be told from here.
        if !self.h2 && self.in_flight.load(Ordering::Relaxed) == 0 {
            self.head_begun.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn note_write(&self, pending: bool) {
        if pending {
            self.stalled.store(true, Ordering::Relaxed);
        } else if self.stalled.load(Ordering::Relaxed) {
            self.stalled.store(false, Ordering::Relaxed);
            self.unstalled.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A request's body was given up before its end.
    pub(super) fn note_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    /// Whether the client may still be sending. From here on, it lingers.
    pub(super) fn begin_lingering(&self) -> bool {
        let unread = !self.h2 && self.unread.load(Ordering::Relaxed);
        if unread {
            self.lingering.store(true, Ordering::Relaxed);
        }
        unread
    }

    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) -> End {
        match self.end.load(Ordering::Relaxed) {
            0 => End::No,
            1 => End::Quiet,
            _ => End::HeadTimeout,
        }
    }

    pub(super) fn set_end(&self, end: End) {
        self.end.store(end as u8, Ordering::Relaxed);
    }
}

/// A request from its head to the end of its answer's body.
#[derive(Debug)]
pub(super) struct InFlight {
    state: Arc<State>,
    blocked: bool,
}

impl InFlight {
    pub(super) fn new(state: Arc<State>) -> Self {
        state.in_flight.fetch_add(1, Ordering::Relaxed);
        state.head_begun.store(false, Ordering::Relaxed);
        Self { state, blocked: false }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Over HTTP/2, a reply is asked for more when the client's window has room for it. From when
    /// it has given something until it is asked again, it is the client that is awaited.
    pub(super) fn note_blocked(&mut self, blocked: bool) {
        if self.blocked == blocked || !self.state.h2 {
            return;
        }
        self.blocked = blocked;
        if blocked {
            self.state.blocked.fetch_add(1, Ordering::Relaxed);
        } else {
            self.state.blocked.fetch_sub(1, Ordering::Relaxed);
            self.state.unstalled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.note_blocked(false);
        self.state.finished.fetch_add(1, Ordering::Relaxed);
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
