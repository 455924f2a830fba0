//! What a policy has passed over.

use super::{Rejected, Why};
use crate::Table;

/// Counts each backend once, however often chance or turns come back to it.
#[derive(Debug, Default)]
pub(super) struct Passed {
    rejected: Rejected,
    positions: [u32; KEPT],
    len: usize,
}

impl Passed {
    /// A backend that would have been preferred.
    pub(super) fn better(&mut self, table: &Table, position: usize, why: Why) {
        if let Some(member) = table.members().get(position).filter(|_| self.is_new(position)) {
            self.rejected.note(member.id(), why);
        }
    }

    /// A backend that was compared and found worse.
    pub(super) fn worse(&mut self, table: &Table, position: usize, why: Why) {
        if let Some(member) = table.members().get(position).filter(|_| self.is_new(position)) {
            self.rejected.note_worse(member.id(), why);
        }
    }

    /// Whether it can tell no more positions apart.
    pub(super) fn is_full(&self) -> bool {
        self.len == KEPT
    }

    pub(super) fn into_rejected(self) -> Rejected {
        self.rejected
    }

    fn is_new(&mut self, position: usize) -> bool {
        let position = position as u32;
        if self.positions.iter().take(self.len).any(|known| *known == position) {
            return false;
        }
        if let Some(free) = self.positions.get_mut(self.len) {
            *free = position;
            self.len += 1;
        }
        true
    }
}

/// Redraws and turns stop here and a walk begins, which meets everybody once.
const KEPT: usize = 8;
