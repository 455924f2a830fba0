//! Which token stands for which backend.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use bartizan_balance::{Backend, BackendId, Prepare, Table};

use super::dates::Dates;
use super::keys::{Ring, StickyKey};
use super::token::{self, Form, Token};

/// The tokens of a cluster's backends.
///
/// Made anew when backends or keys change, by whoever changes them, so requests find them ready.
pub(super) struct Tokens {
    cluster: Arc<str>,
    index: ArcSwap<Index>,
    writing: Mutex<()>,
}

/// The tokens at one moment.
#[derive(Default)]
pub(super) struct Index {
    ring: Option<Arc<Ring>>,
    members: Option<Arc<[Arc<Backend>]>>,
    // Looking a token up takes a time that depends on a secret hash of it, not on how much of it is
    // right, and what is looked up is a MAC: nobody can feel his way to one byte by byte.
    found: HashMap<Token, Found>,
    // For each key.
    issued: HashMap<u64, Arc<[Issued]>>,
}

#[derive(Clone, Copy)]
struct Found {
    backend: BackendId,
    key: usize,
    form: Form,
}

#[derive(Clone, Copy)]
struct Issued {
    plain: Token,
    dated: Token,
}

/// A cookie that is genuine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Genuine {
    /// The backend that it stands for.
    pub(super) backend: BackendId,
    /// Whether it was made with the current key.
    pub(super) current: bool,
    pub(super) dates: Dates,
}

impl Tokens {
    /// None until keys and backends are known.
    pub(super) fn new(cluster: Arc<str>) -> Self {
        Self { cluster, index: ArcSwap::default(), writing: Mutex::new(()) }
    }

    pub(super) fn index(&self) -> Guard<Arc<Index>> {
        self.index.load()
    }

    /// Makes tokens with these keys from now on.
    pub(super) fn rekey(&self, ring: &Arc<Ring>) {
        self.update(|old| (Some(Arc::clone(ring)), old.members.clone()));
    }

    fn update(
        &self,
        change: impl FnOnce(&Index) -> (Option<Arc<Ring>>, Option<Arc<[Arc<Backend>]>>),
    ) {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.index.load();
        let (ring, members) = change(&old);
        self.index.store(Arc::new(old.next(&self.cluster, ring, members)));
    }
}

impl Prepare for Tokens {
    fn prepare(&self, table: &Table) {
        let known = self.index.load();
        // Also called when only weights have changed.
        if known.members.as_ref().is_some_and(|members| Arc::ptr_eq(members, table.members())) {
            return;
        }
        self.update(|old| (old.ring.clone(), Some(Arc::clone(table.members()))));
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Index {
    /// The next one; with the tokens of this one where they stay the same.
    fn next(
        &self,
        cluster: &str,
        ring: Option<Arc<Ring>>,
        members: Option<Arc<[Arc<Backend>]>>,
    ) -> Self {
        let (Some(ring), Some(members)) = (ring.clone(), members.clone()) else {
            return Self { ring, members, ..Self::default() };
        };
        let same_keys = self.ring.as_ref().is_some_and(|old| Arc::ptr_eq(old, &ring));
        let mut found = HashMap::with_capacity(members.len() * ring.keys().len() * 2);
        let mut issued = HashMap::with_capacity(members.len());
        for member in members.iter() {
            let kept = self.issued.get(&member.id().get()).filter(|_| same_keys).cloned();
            let tokens: Arc<[Issued]> = kept.unwrap_or_else(|| {
                ring.keys().iter().map(|key| Issued::new(key, cluster, member.name())).collect()
            });
            for (key, of_key) in tokens.iter().enumerate() {
                for (token, form) in [(of_key.plain, Form::Plain), (of_key.dated, Form::Dated)] {
                    let new = Found { backend: member.id(), key, form };
                    // A key that is there twice counts as the more current of the two.
                    found.entry(token).or_insert(new);
                }
            }
            issued.insert(member.id().get(), tokens);
        }
        Self { ring: Some(ring), members: Some(members), found, issued }
    }

    /// What a cookie's value stands for, if it is genuine.
    pub(super) fn resolve(&self, value: &[u8]) -> Option<Genuine> {
        let said = token::read(value)?;
        let found = self.found.get(&said.token)?;
        let dates = match (found.form, said.dated) {
            (Form::Plain, None) => Dates::default(),
            (Form::Dated, Some((dates, seal))) => {
                let key = self.ring.as_ref()?.keys().get(found.key)?;
                token::is_sealed(key, &said.token, dates, &seal).then_some(dates)?
            }
            _ => return None,
        };
        Some(Genuine { backend: found.backend, current: found.key == 0, dates })
    }

    /// What the token in front of a cookie's value stands for, if it is genuine.
    pub(super) fn resolve_prefix(&self, value: &[u8]) -> Option<Genuine> {
        let (token, _) = token::read_prefix(value)?;
        let found = self.found.get(&token).filter(|found| found.form == Form::Plain)?;
        let (backend, current) = (found.backend, found.key == 0);
        Some(Genuine { backend, current, dates: Dates::default() })
    }

    /// The value of a new cookie for the backend of this number; `None` if there is no such backend
    /// any more.
    pub(super) fn issue(&self, backend: u64, dates: Dates) -> Option<Vec<u8>> {
        let key = self.ring.as_ref()?.keys().first()?;
        let issued = self.issued.get(&backend)?.first()?;
        let token = if dates.is_none() { &issued.plain } else { &issued.dated };
        let mut value = Vec::with_capacity(VALUE);
        token::write(&mut value, key, token, dates);
        Some(value)
    }
}

impl Issued {
    fn new(key: &StickyKey, cluster: &str, backend: &str) -> Self {
        let token = |form| token::token(key, form, cluster, backend);
        Self { plain: token(Form::Plain), dated: token(Form::Dated) }
    }
}

/// A token, two dates and a seal.
const VALUE: usize = 72;
