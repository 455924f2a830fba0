//! What was chosen, and why.

use std::fmt;
use std::sync::Arc;

use crate::{Backend, BackendId, Table};

/// A chosen backend, and why it was chosen.
///
/// Displays as a short text for traces, with numbers in place of names; see
/// [`explain`](Self::explain).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pick {
    /// The backend.
    pub backend: Arc<Backend>,
    /// The name of the policy, or of what pinned the client.
    pub policy: &'static str,
    /// How many backends the policy would have preferred, and could not take.
    pub rank: u32,
    /// Why.
    pub reason: Reason,
    /// Which ones were looked at and not taken.
    pub rejected: Rejected,
}

impl Pick {
    /// `backend`, chosen by `policy` because of `reason`, as its first choice.
    pub fn new(backend: Arc<Backend>, policy: &'static str, reason: Reason) -> Self {
        Self { backend, policy, rank: 0, reason, rejected: Rejected::default() }
    }

    /// Instead of these.
    pub fn rejected(self, rejected: Rejected) -> Self {
        Self { rank: rejected.better, rejected, ..self }
    }

    /// Displays it with the names that `table` knows.
    pub fn explain<'a>(&'a self, table: &'a Table) -> impl fmt::Display + use<'a> {
        Explained { pick: self, table }
    }
}

impl fmt::Display for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        explain(self, None, f)
    }
}

struct Explained<'a> {
    pick: &'a Pick,
    table: &'a Table,
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        explain(self.pick, Some(self.table), f)
    }
}

fn explain(pick: &Pick, table: Option<&Table>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{} by {}: {}", pick.backend.name(), pick.policy, pick.reason)?;
    if pick.rejected.count == 0 {
        return Ok(());
    }
    write!(f, "; rank {}, rejected", pick.rank)?;
    for Rejection { backend, why } in pick.rejected.iter() {
        let position = table.and_then(|table| table.position(backend));
        match table.zip(position) {
            Some((table, position)) => write!(f, " {} ({why})", table.members()[position].name())?,
            None => write!(f, " #{backend} ({why})")?,
        }
    }
    match pick.rejected.count as usize - pick.rejected.iter().count() {
        0 => Ok(()),
        more => write!(f, " and {more} more"),
    }
}

/// Why a backend was chosen. Displays as a short text for traces.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// It was its turn.
    Turn {
        /// Its position in the table.
        position: usize,
    },
    /// It has the least to do, in relation to its weight.
    Least {
        /// What was in flight or waiting there.
        load: usize,
        /// Its weight, in sixteenths.
        weight: u32,
    },
    /// It was drawn.
    Drawn,
    /// It is the first one with a free slot.
    First {
        /// Its position in the table.
        position: usize,
    },
    /// Its expected latency is the lowest among those drawn.
    Latency {
        /// The expected time to an answer, in microseconds, times what is in flight, by weight.
        cost: f64,
    },
    /// The key belongs to it.
    Key {
        /// The hash of the key.
        hash: u64,
    },
    /// The client is pinned to it.
    Pinned,
    /// Its ejection is over, and this request finds out whether it works again.
    Trial,
    /// A slot of it became free, and this was the next in the queue.
    Queue,
    /// A policy that is not of this crate says so.
    Custom(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Turn { position } => write!(f, "its turn at position {position}"),
            Self::Least { load, weight } => {
                write!(f, "least load: {load} at weight {}", f64::from(*weight) / 16.0)
            }
            Self::Drawn => f.write_str("drawn"),
            Self::First { position } => write!(f, "first with room, at position {position}"),
            Self::Latency { cost } => write!(f, "lowest cost drawn: {cost:.0} µs"),
            Self::Key { hash } => write!(f, "key {hash:016x}"),
            Self::Pinned => f.write_str("pinned"),
            Self::Trial => f.write_str("on trial"),
            Self::Queue => f.write_str("next in the queue"),
            Self::Custom(text) => f.write_str(text),
        }
    }
}

/// Why a backend was not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// It may not be picked: down, draining, or a backup that is not needed.
    Ineligible,
    /// It has failed for this request.
    Tried,
    /// All of its slots are taken.
    Full,
    /// It has more than its share of what is in flight, so that its keys go on to the next.
    OverBound,
    /// It has recovered a moment ago and does not take this key yet.
    Warming,
    /// It has more to do, or is slower, than the one that was chosen.
    Busier,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ineligible => "ineligible",
            Self::Tried => "tried",
            Self::Full => "full",
            Self::OverBound => "over its bound",
            Self::Warming => "warming up",
            Self::Busier => "busier",
        })
    }
}

/// A backend that was looked at and not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rejection {
    /// The backend.
    pub backend: BackendId,
    /// Why not.
    pub why: Why,
}

/// The backends that were looked at and not chosen: the first few, and how many in all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rejected {
    first: [Option<Rejection>; KEPT],
    count: u32,
    better: u32,
}

impl Rejected {
    /// One that would have been preferred.
    pub fn note(&mut self, backend: BackendId, why: Why) {
        self.better = self.better.saturating_add(1);
        self.note_worse(backend, why);
    }

    /// One that was compared and found worse.
    pub fn note_worse(&mut self, backend: BackendId, why: Why) {
        if let Some(free) = self.first.iter_mut().find(|kept| kept.is_none()) {
            *free = Some(Rejection { backend, why });
        }
        self.count = self.count.saturating_add(1);
    }

    /// How many there were.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The first few.
    pub fn iter(&self) -> impl Iterator<Item = Rejection> {
        self.first.iter().copied().flatten()
    }
}

/// Enough for what is looked at as a rule, without an allocation.
const KEPT: usize = 3;
