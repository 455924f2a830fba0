//! The backends of a table, ordered by what they have to do.

use std::sync::Arc;

use super::tree::{OUT, Tree, key_of};
use crate::policy::passed::Passed;
use crate::{Backend, PickContext, Table, Why};

/// HAProxy's tree of `leastconn`, of the newest table that was seen.
#[derive(Debug, Default)]
pub(super) struct Index {
    table: Option<Table>,
    tree: Tree,
    // Leaves that are out for one pick; kept for its memory.
    aside: Vec<(usize, u64)>,
}

impl Index {
    /// Follows a table, if it is newer than the one known.
    pub(super) fn follow(&mut self, table: &Table) {
        if self.table.as_ref().is_some_and(|known| known.version() >= table.version()) {
            return;
        }
        self.tree.renumber();
        let old = self.table.replace(table.clone());
        match old {
            Some(old) if Arc::ptr_eq(old.members(), table.members()) => {
                self.update(&old, table);
            }
            old => self.rebuild(old, table),
        }
    }

    /// The least busy backend, queued again as if it had one more to do.
    pub(super) fn pick(
        &mut self,
        context: &PickContext<'_>,
        passed: &mut Passed,
    ) -> Option<(Arc<Backend>, usize, u32)> {
        self.tree.renumber();
        let Self { table: Some(table), tree, aside } = self else { return None };
        for position in context.tried.iter().filter_map(|id| table.position(*id)) {
            aside.push((position, tree.leaf(position)));
            tree.put(position, OUT);
        }
        let mut chosen = None;
        while let Some(position) = tree.least() {
            let Some(member) = table.members().get(position) else { break };
            let (load, share) = (load(member), table.share(position));
            if !table.has_room(position) {
                passed.better(table, position, Why::Full);
                tree.put(position, OUT);
            } else if key(load, share) > key_of(tree.leaf(position)) {
                // Somebody who does not tell has sent something there.
                tree.queue(position, key(load, share));
            } else {
                chosen = Some((position, tree.leaf(position)));
                tree.queue(position, key(load + 1, share));
                break;
            }
        }
        // The last first: if one was tried twice, only its first leaf is the right one.
        while let Some((position, leaf)) = aside.pop() {
            if chosen.is_some_and(|(_, least)| leaf < least) {
                passed.better(table, position, Why::Tried);
            }
            tree.put(position, leaf);
        }
        let (position, _) = chosen?;
        let member = table.members().get(position)?;
        Some((member.clone(), load(member), table.share(position)))
    }

    /// Takes up what a backend has to do by now.
    pub(super) fn changed(&mut self, backend: &Backend) {
        self.tree.renumber();
        let Self { table: Some(table), tree, .. } = self else { return };
        let Some(position) = table.position(backend.id()) else { return };
        match live(table, position) {
            None => tree.put(position, OUT),
            Some(key) if key == key_of(tree.leaf(position)) => {}
            Some(key) => tree.queue(position, key),
        }
    }

    /// Takes up that a backend is about to get one more.
    pub(super) fn expect(&mut self, backend: &Backend) {
        self.tree.renumber();
        let Self { table: Some(table), tree, .. } = self else { return };
        let position = table.position(backend.id());
        if let Some(position) = position.filter(|position| table.is_eligible(*position)) {
            tree.queue(position, key(load(backend) + 1, table.share(position)));
        }
    }

    /// Queues anew whose eligibility or weight has changed, as HAProxy does.
    fn update(&mut self, old: &Table, table: &Table) {
        let words = old.eligible_words().iter().zip(table.eligible_words());
        let shares = old.shares().chunks(64).zip(table.shares().chunks(64));
        for (first, ((was, is), (before, now))) in (0..).step_by(64).zip(words.zip(shares)) {
            if was == is && before == now {
                continue;
            }
            for (bit, (before, now)) in before.iter().zip(now).enumerate() {
                if (was ^ is) >> bit & 1 == 1 || before != now {
                    match live(table, first + bit) {
                        Some(key) => self.tree.queue(first + bit, key),
                        None => self.tree.put(first + bit, OUT),
                    }
                }
            }
        }
    }

    /// Queues other members, those that stay where they were.
    fn rebuild(&mut self, old: Option<Table>, table: &Table) {
        let mut stays = Vec::new();
        let mut comes = Vec::new();
        for (position, member) in table.members().iter().enumerate() {
            let Some(key) = live(table, position) else { continue };
            let place = old.as_ref().and_then(|old| old.position(member.id()));
            let leaf = place.map_or(OUT, |place| self.tree.leaf(place));
            match leaf != OUT && key_of(leaf) == key {
                true => stays.push((leaf, position)),
                false => comes.push((key, position)),
            }
        }
        stays.sort_unstable();
        self.tree = Tree::new(table.members().len());
        let stays = stays.into_iter().map(|(leaf, position)| (key_of(leaf), position));
        for (key, position) in stays.chain(comes) {
            self.tree.queue(position, key);
        }
    }
}

/// HAProxy's key, of `fwlc_queue_srv`: what is there and one more, by weight; but 0 for the idle.
pub(super) fn key(load: usize, share: u32) -> u32 {
    if load == 0 {
        return 0;
    }
    let key = (load as u64 + 1).saturating_mul(SCALE) / u64::from(share.max(1));
    u32::try_from(key).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

pub(super) fn load(backend: &Backend) -> usize {
    backend.in_flight() + backend.queued()
}

/// The key of a backend by its counts, if it may be picked.
fn live(table: &Table, position: usize) -> Option<u32> {
    let member = table.members().get(position)?;
    let takes = table.is_eligible(position) && table.has_room(position);
    takes.then(|| key(load(member), table.share(position)))
}

/// HAProxy's greatest weight, in sixteenths.
const SCALE: u64 = 4096;
