//! What a discovery holds, and what that makes of a cluster's members.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use bartizan_net::Target;
use tower::discover::Change;

use crate::{Backend, BackendId, Cluster};

/// The backends of a discovery by their keys.
#[derive(Debug)]
pub(super) struct Held<K> {
    entries: HashMap<K, Entry>,
}

#[derive(Debug)]
struct Entry {
    backend: Arc<Backend>,
    // Not while another backend has its name.
    placed: bool,
}

/// What a batch comes to.
#[derive(Debug, Default)]
struct Outcome {
    // `None`: the same as before.
    members: Option<Vec<Arc<Backend>>>,
    weights: Vec<(Arc<Backend>, u16)>,
    // Inserted in this batch, and left out.
    clashes: Vec<Arc<str>>,
    added: usize,
    removed: usize,
}

impl<K> Default for Held<K> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<K: Hash + Eq> Held<K> {
    /// Makes the changes to the cluster, in one step, and tells of them.
    pub(super) fn follow(&mut self, cluster: &Cluster, changes: Vec<Change<K, Arc<Backend>>>) {
        let mut outcome = Outcome::default();
        let updated = cluster.update(|change| {
            outcome = self.apply(change.members(), changes);
            if let Some(members) = outcome.members.take() {
                *change.members_mut() = members;
            }
            for (backend, weight) in &outcome.weights {
                change.set_weight_of(backend, *weight);
            }
        });
        let Outcome { clashes, added, removed, weights, .. } = outcome;
        let (cluster, weights) = (cluster.name(), weights.len());
        for backend in clashes {
            tracing::warn!(%cluster, %backend, "discovered backend left out: its name is taken");
        }
        match updated {
            Ok(()) if added + removed + weights == 0 => {}
            Ok(()) => tracing::info!(%cluster, added, removed, weights, "backends discovered"),
            Err(error) => tracing::warn!(%cluster, %error, "discovered backends left out"),
        }
    }

    fn apply(
        &mut self,
        members: &[Arc<Backend>],
        changes: Vec<Change<K, Arc<Backend>>>,
    ) -> Outcome {
        let mut seats = Seats::new(members);
        let mut outcome = Outcome::default();
        let mut waiting = Vec::new();
        // First what goes, because its names are free then.
        for (key, wanted) in last_of_each(changes) {
            let old = self.entries.remove(&key);
            let Some(wanted) = wanted else {
                seats.leave(old.as_ref());
                continue;
            };
            match old {
                Some(old) if is_same_server(&old.backend, &wanted) => {
                    if old.backend.weight() != wanted.weight() {
                        outcome.weights.push((Arc::clone(&old.backend), wanted.weight()));
                    }
                    // The operator may have taken it out.
                    match old.placed && seats.has(&old.backend) {
                        true => drop(self.entries.insert(key, old)),
                        false => waiting.push((key, old.backend, None)),
                    }
                }
                old => {
                    let seat = seats.leave(old.as_ref());
                    waiting.push((key, wanted, seat));
                }
            }
        }
        for (key, backend, seat) in waiting {
            let placed = seats.take(&backend, seat);
            if !placed {
                outcome.clashes.push(Arc::clone(backend.name()));
            }
            self.entries.insert(key, Entry { backend, placed });
        }
        for entry in self.entries.values_mut().filter(|entry| !entry.placed) {
            entry.placed = seats.take(&entry.backend, None);
        }
        (outcome.added, outcome.removed) = (seats.added, seats.removed);
        outcome.members = seats.into_members();
        outcome
    }
}

/// Members that change, without a search for each.
#[derive(Debug)]
struct Seats {
    seats: Vec<Option<Arc<Backend>>>,
    at: HashMap<BackendId, usize>,
    names: HashSet<Arc<str>>,
    added: usize,
    removed: usize,
}

impl Seats {
    fn new(members: &[Arc<Backend>]) -> Self {
        Self {
            seats: members.iter().cloned().map(Some).collect(),
            at: members.iter().enumerate().map(|(seat, member)| (member.id(), seat)).collect(),
            names: members.iter().map(|member| Arc::clone(member.name())).collect(),
            added: 0,
            removed: 0,
        }
    }

    fn has(&self, backend: &Backend) -> bool {
        self.at.contains_key(&backend.id())
    }

    /// Takes it out, if it was in. Returns the seat, for its successor.
    fn leave(&mut self, entry: Option<&Entry>) -> Option<usize> {
        let entry = entry.filter(|entry| entry.placed)?;
        let seat = self.at.remove(&entry.backend.id())?;
        self.seats[seat] = None;
        self.names.remove(entry.backend.name());
        self.removed += 1;
        Some(seat)
    }

    /// Puts it in, there or at the end, unless its name is taken.
    fn take(&mut self, backend: &Arc<Backend>, seat: Option<usize>) -> bool {
        if !self.names.insert(Arc::clone(backend.name())) {
            return false;
        }
        let seat = seat.unwrap_or(self.seats.len());
        if seat == self.seats.len() {
            self.seats.push(None);
        }
        self.seats[seat] = Some(Arc::clone(backend));
        self.at.insert(backend.id(), seat);
        self.added += 1;
        true
    }

    fn into_members(self) -> Option<Vec<Arc<Backend>>> {
        let changed = self.added + self.removed > 0;
        changed.then(|| self.seats.into_iter().flatten().collect())
    }
}

/// For each key what is said last, in the order in which the keys were named first. `None` removes.
fn last_of_each<K: Hash + Eq>(
    changes: Vec<Change<K, Arc<Backend>>>,
) -> Vec<(K, Option<Arc<Backend>>)> {
    let mut last: HashMap<K, (usize, Option<Arc<Backend>>)> = HashMap::new();
    for (turn, change) in changes.into_iter().enumerate() {
        let (key, wanted) = match change {
            Change::Insert(key, backend) => (key, Some(backend)),
            Change::Remove(key) => (key, None),
        };
        last.entry(key).or_insert((turn, None)).1 = wanted;
    }
    let mut last: Vec<_> = last.into_iter().collect();
    last.sort_unstable_by_key(|(_, (turn, _))| *turn);
    last.into_iter().map(|(key, (_, wanted))| (key, wanted)).collect()
}

/// Whether one can stay for the other: they differ in nothing that cannot be changed.
fn is_same_server(old: &Backend, new: &Backend) -> bool {
    let fixed = |backend: &Backend| (backend.role(), backend.limits());
    old.name() == new.name()
        && old.address() == new.address()
        && old.server_name() == new.server_name()
        && fixed(old) == fixed(new)
}
