//! How a backend is chosen.

use std::fmt;
use std::sync::Arc;

use crate::{Backend, BackendId, Table};

/// Chooses a backend from a table.
///
/// Synchronous, and free of allocation and locks where the definition allows: it runs once per
/// request. Policies are shared by the connections of a worker, so their state is atomic.
pub trait Policy {
    /// Chooses among the eligible backends that are not in [`PickContext::tried`]; `None` when
    /// there is none.
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick>;
}

impl<P: Policy + ?Sized> Policy for Arc<P> {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        (**self).pick(table, context)
    }
}

/// What a policy may know of the request.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct PickContext<'a> {
    /// Backends that failed for this request already.
    pub tried: &'a [BackendId],
}

impl<'a> PickContext<'a> {
    /// A first try of a request that nothing is known of.
    pub fn new() -> Self {
        Self::default()
    }

    /// A further try, after these backends failed.
    pub fn tried(self, tried: &'a [BackendId]) -> Self {
        Self { tried, ..self }
    }
}

/// A chosen backend, and why it was chosen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Pick {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Why.
    pub reason: Reason,
}

impl Pick {
    /// `backend`, because of `reason`.
    pub fn new(backend: Arc<Backend>, reason: Reason) -> Self {
        Self { backend, reason }
    }
}

/// Why a backend was chosen. Displays as a short text for traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It was its turn.
    Turn {
        /// Its position in the table.
        position: usize,
        /// How many backends before it were passed over, not being eligible or tried already.
        skipped: usize,
    },
    /// A policy that is not of this crate says so.
    Custom(&'static str),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Turn { position, skipped: 0 } => write!(f, "its turn at position {position}"),
            Self::Turn { position, skipped } => {
                write!(f, "its turn at position {position}, {skipped} passed over")
            }
            Self::Custom(text) => f.write_str(text),
        }
    }
}
