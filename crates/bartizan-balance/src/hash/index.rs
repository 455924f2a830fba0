//! Indexes for the tables in use.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::roster::{Roster, seed};
use crate::{Backend, Prepare, Table};

/// What leads from keys to backends.
pub(super) trait Index: fmt::Debug + Send + Sync + 'static {
    /// Positions in the order in which the key prefers them. May repeat itself, be endless, or end
    /// early.
    fn preferred(&self, hash: u64) -> impl Iterator<Item = usize>;

    fn bytes(&self) -> usize;
}

/// Makes indexes of one kind.
pub(super) trait Make: fmt::Debug + Send + Sync + 'static {
    type Index: Index;

    /// Makes one for these backends: those with a weight, by name, so that it does not depend on
    /// the order in which they were added.
    fn make(&self, entries: &[Entry<'_>]) -> Self::Index;
}

/// A backend that an index is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<'a> {
    pub(super) position: u32,
    pub(super) name: &'a str,
    pub(super) seed: u64,
    /// Never 0.
    pub(super) weight: u32,
}

/// The indexes for the newest table and the one before, which a racing reader may still have.
#[derive(Debug)]
pub(super) struct Indexes<M: Make> {
    make: M,
    kept: ArcSwap<Kept<M::Index>>,
    making: Mutex<()>,
}

/// See [`Indexes`].
#[derive(Debug)]
pub(super) struct Kept<I> {
    newest: Option<Arc<Indexed<I>>>,
    previous: Option<Arc<Indexed<I>>>,
}

/// An index, and what it is right for.
#[derive(Debug)]
pub(super) struct Indexed<I> {
    // Held, so that its address names this set of backends and no later one. Positions mean
    // something for it alone.
    members: Arc<[Arc<Backend>]>,
    weighing: u64,
    pub(super) roster: Roster,
    pub(super) index: I,
}

impl<M: Make> Indexes<M> {
    pub(super) fn new(make: M) -> Self {
        let kept = ArcSwap::from_pointee(Kept { newest: None, previous: None });
        Self { make, kept, making: Mutex::new(()) }
    }

    pub(super) fn maker(&self) -> &M {
        &self.make
    }

    pub(super) fn kept(&self) -> Guard<Arc<Kept<M::Index>>> {
        self.kept.load()
    }

    /// The index for this table; makes it if there is none.
    pub(super) fn for_table(&self, table: &Table) -> Arc<Indexed<M::Index>> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.kept.load();
        // Another thread may have made it meanwhile.
        if let Some(there) = kept.fitting(table) {
            return Arc::clone(there);
        }
        let made = Arc::new(Indexed::new(&self.make, table));
        let previous = kept.newest.clone();
        self.kept.store(Arc::new(Kept { newest: Some(Arc::clone(&made)), previous }));
        made
    }

    pub(super) fn bytes(&self) -> usize {
        let kept = self.kept.load();
        let bytes = |indexed: &Arc<Indexed<M::Index>>| {
            indexed.roster.bytes() + indexed.index.bytes() + size_of::<Indexed<M::Index>>()
        };
        kept.newest.iter().chain(&kept.previous).map(bytes).sum()
    }
}

impl<M: Make> Prepare for Indexes<M> {
    fn prepare(&self, table: &Table) {
        self.for_table(table);
    }
}

impl<I> Kept<I> {
    #[inline]
    pub(super) fn fitting(&self, table: &Table) -> Option<&Arc<Indexed<I>>> {
        let fits = |indexed: &&Arc<Indexed<I>>| indexed.fits(table);
        self.newest.as_ref().filter(fits).or_else(|| self.previous.as_ref().filter(fits))
    }
}

impl<I> Indexed<I> {
    #[inline]
    fn fits(&self, table: &Table) -> bool {
        self.weighing == table.weighing() && Arc::ptr_eq(&self.members, table.members())
    }
}

impl<I: Index> Indexed<I> {
    fn new(make: &impl Make<Index = I>, table: &Table) -> Self {
        let members = Arc::clone(table.members());
        let entry = |(position, member): (usize, &'_ Arc<Backend>)| (position, Arc::clone(member));
        let mut named: Vec<_> = members.iter().enumerate().map(entry).collect();
        named.retain(|(position, _)| table.weight(*position) > 0);
        named.sort_unstable_by(|(_, a), (_, b)| a.name().cmp(b.name()));
        let entries: Vec<_> = named
            .iter()
            .map(|(position, member)| Entry {
                position: *position as u32,
                name: member.name(),
                seed: seed(member.name()),
                weight: u32::from(table.weight(*position)),
            })
            .collect();
        let index = make.make(&entries);
        Self { roster: Roster::new(table), weighing: table.weighing(), index, members }
    }
}
