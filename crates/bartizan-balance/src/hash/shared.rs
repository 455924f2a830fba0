//! What all policies of hashes have in common.

use std::sync::Arc;

use super::bound::{BalanceFactor, Bound};
use super::choose::Asked;
use super::index::{Indexed, Indexes, Make};
use crate::{Observer, Pick, PickContext, Policy, Prepare, Reason, RoundRobin, Table};

/// A policy of hashes with indexes of one kind. Clones share all of it.
#[derive(Debug)]
pub(super) struct Core<M: Make> {
    name: &'static str,
    indexes: Arc<Indexes<M>>,
    bound: Option<Arc<Bound>>,
    // For requests without a key.
    turns: Arc<RoundRobin>,
}

/// What a policy has of its `core`, the same for all of them.
macro_rules! is_its_core {
    ($policy:ty) => {
        impl $policy {
            /// No backend gets further above its share of what is in flight than this.
            pub fn bounded(self, factor: $crate::BalanceFactor) -> Self {
                Self { core: self.core.bounded(factor) }
            }

            /// What the indexes for the newest table and the one before take, in bytes.
            pub fn memory(&self) -> usize {
                self.core.bytes()
            }
        }

        impl Default for $policy {
            fn default() -> Self {
                Self::new()
            }
        }

        impl $crate::Policy for $policy {
            fn pick(
                &self,
                table: &$crate::Table,
                context: &$crate::PickContext<'_>,
            ) -> Option<$crate::Pick> {
                self.core.pick(table, context)
            }

            fn observer(&self) -> Option<std::sync::Arc<dyn $crate::Observer>> {
                self.core.observer()
            }

            fn preparation(&self) -> Option<std::sync::Arc<dyn $crate::Prepare>> {
                self.core.preparation()
            }
        }
    };
}
pub(super) use is_its_core;

impl<M: Make> Core<M> {
    pub(super) fn new(name: &'static str, make: M) -> Self {
        let indexes = Arc::new(Indexes::new(make));
        Self { name, indexes, bound: None, turns: Arc::new(RoundRobin::new()) }
    }

    pub(super) fn maker(&self) -> &M {
        self.indexes.maker()
    }

    pub(super) fn make(self, make: M) -> Self {
        Self { indexes: Arc::new(Indexes::new(make)), ..self }
    }

    pub(super) fn bounded(self, factor: BalanceFactor) -> Self {
        Self { bound: Some(Arc::new(Bound::new(factor))), ..self }
    }

    pub(super) fn bytes(&self) -> usize {
        self.indexes.bytes()
    }

    fn pick_with(
        &self,
        indexed: &Indexed<M::Index>,
        (table, context): (&Table, &PickContext<'_>),
        hash: u64,
    ) -> Option<Pick> {
        let slots = self.bound.as_ref().map(|bound| bound.slots(table));
        let asked = Asked { table, context, roster: &indexed.roster, hash, slots };
        let (position, rejected) = asked.choose(&indexed.index)?;
        let backend = Arc::clone(table.members().get(position)?);
        Some(Pick::new(backend, self.name, Reason::Key { hash }).rejected(rejected))
    }
}

impl<M: Make> Policy for Core<M> {
    fn pick(&self, table: &Table, context: &PickContext<'_>) -> Option<Pick> {
        let Some(hash) = context.hash else {
            return Some(Pick { policy: self.name, ..self.turns.pick(table, context)? });
        };
        let kept = self.indexes.kept();
        match kept.fitting(table) {
            Some(indexed) => self.pick_with(indexed, (table, context), hash),
            None => self.pick_with(&self.indexes.for_table(table), (table, context), hash),
        }
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        Some(Arc::clone(self.bound.as_ref()?) as _)
    }

    fn preparation(&self) -> Option<Arc<dyn Prepare>> {
        Some(Arc::clone(&self.indexes) as _)
    }
}

impl<M: Make> Clone for Core<M> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            indexes: Arc::clone(&self.indexes),
            bound: self.bound.clone(),
            turns: Arc::clone(&self.turns),
        }
    }
}
