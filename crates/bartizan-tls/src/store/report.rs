//! Telling what is in force, what was found and what went wrong.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::SystemTime;

use super::entry::Entry;
use super::error::StoreError;
use super::generation::Generation;
use super::index::KeyKind;
use super::notice::Notice;

/// What a store has in force.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreStatus {
    /// The number of the generation, counted from 1.
    pub generation: u64,
    /// When it was loaded.
    pub loaded_at: SystemTime,
    /// How many certificates it has.
    pub certificates: usize,
    /// How many names they are for; a wildcard counts as one.
    pub names: usize,
    /// When the first of them expires; `None` if there is none.
    pub next_expiry: Option<SystemTime>,
    /// What an operator should know of it.
    pub notices: Vec<Notice>,
    /// Why a later one could not be loaded, and when that was tried last; `None` if none failed
    /// since.
    pub failure: Option<(Arc<str>, SystemTime)>,
}

impl StoreStatus {
    pub(crate) fn new(generation: &Generation, failure: Option<&Failure>) -> Self {
        Self {
            generation: generation.number,
            loaded_at: generation.loaded_at,
            certificates: generation.entries.len(),
            names: generation.names(),
            next_expiry: generation.entries.iter().map(|entry| entry.not_after).min(),
            notices: generation.notices.clone(),
            failure: failure.map(|failure| (Arc::clone(&failure.error), failure.at)),
        }
    }
}

/// One certificate of a store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CertSummary {
    /// The file, or the name that it was given.
    pub source: Arc<str>,
    /// The names that it is served under.
    pub names: Vec<String>,
    /// The kind of its key.
    pub key: KeyKind,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

impl CertSummary {
    pub(crate) fn new(entry: &Entry) -> Self {
        Self {
            source: Arc::clone(&entry.source),
            names: entry.patterns.iter().map(ToString::to_string).collect(),
            key: entry.kind,
            not_before: entry.not_before,
            not_after: entry.not_after,
        }
    }
}

/// Why a generation could not be loaded.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    error: Arc<str>,
    at: SystemTime,
}

impl Failure {
    pub(crate) fn new(error: &StoreError, at: SystemTime) -> Self {
        Self { error: error.to_string().into(), at }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.error == other.error
    }
}

/// Logs that a generation is in force, and what in it is new and should be known.
pub(crate) fn loaded(generation: &Generation, previous: Option<&Generation>) {
    let certificates = generation.entries.len();
    tracing::info!(generation = generation.number, certificates, "certificates loaded");
    let old: std::collections::HashSet<String> =
        previous.iter().flat_map(|p| &p.notices).map(ToString::to_string).collect();
    let mut told: HashMap<Discriminant<Notice>, usize> = HashMap::new();
    for notice in &generation.notices {
        let text = notice.to_string();
        if old.contains(&text) {
            continue;
        }
        let count = told.entry(discriminant(notice)).or_default();
        *count += 1;
        // A directory of thousands may have the same to say of each.
        match *count {
            ..=MOST => tell(notice, &text),
            n if n == MOST + 1 => {
                tell(notice, "more of this kind; `CertStore::status` has them all")
            }
            _ => {}
        }
    }
}

fn tell(notice: &Notice, text: &str) {
    if notice.is_harmless() {
        tracing::info!("{text}");
    } else {
        tracing::warn!("{text}");
    }
}

/// Notices of one kind that are logged for one generation.
const MOST: usize = 10;
