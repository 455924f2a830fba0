//! The live state of a backend: the state machine, and what is read of it without a lock.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use crate::clock::now;
use crate::cluster::Inner;
use crate::health::{Ejection, HealthState};
use crate::tenure::Tenures;
use crate::{Backend, CheckState, Condition, State};

/// What changes about a backend's health.
#[derive(Debug)]
pub(crate) struct Live {
    health: Mutex<HealthState>,
    // Copies of what `health` says: tables are made of thousands of them.
    checked: AtomicU8,
    wanted: AtomicU8,
    ejection: AtomicU8,
    audience: Mutex<Audience>,
    pub(crate) tenures: Tenures,
}

/// Who has to be told of changes.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    pub(crate) clusters: Vec<Weak<Inner>>,
    pub(crate) followers: Vec<Weak<Backend>>,
}

/// A condition that has become another.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    pub(crate) from: Condition,
    pub(crate) to: Condition,
    pub(crate) reason: Arc<str>,
    pub(crate) at: Instant,
}

impl Changed {
    /// Whether the backend has been marked down: as HAProxy does, by the operator as well. From down
    /// it may become worse still, and in panic what is down is in use.
    pub(crate) fn is_mark_down(&self) -> bool {
        self.from < self.to && self.to >= Condition::Down
    }

    /// Whether it has been marked up.
    pub(crate) fn is_mark_up(&self) -> bool {
        self.from >= Condition::Unproven && self.to == Condition::Up
    }
}

impl Live {
    pub(crate) fn new() -> Self {
        Self {
            health: Mutex::new(HealthState::new(now())),
            checked: AtomicU8::new(0),
            wanted: AtomicU8::new(0),
            ejection: AtomicU8::new(0),
            audience: Mutex::default(),
            tenures: Tenures::default(),
        }
    }

    /// Reads the state machine.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&HealthState) -> T) -> T {
        look(&self.lock())
    }

    /// Moves the state machine on. Whoever does has to announce the change, if there is one.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut HealthState) -> T,
    ) -> (T, Option<Changed>) {
        let mut health = self.lock();
        let (from, checked) = (health.condition(), health.checked());
        let result = change(&mut health);
        let to = health.condition();
        self.checked.store(health.checked() as u8, Ordering::Relaxed);
        self.wanted.store(health.wanted() as u8, Ordering::Relaxed);
        self.ejection.store(rank(health.ejection()), Ordering::Relaxed);
        // In maintenance a backend is checked no more, but those who track it hear of it.
        let changed = from != to || checked != health.checked();
        let changed = changed.then(|| Changed {
            from,
            to,
            reason: Arc::clone(health.reason()),
            at: health.moved(),
        });
        (result, changed)
    }

    pub(crate) fn checked(&self) -> CheckState {
        const STATES: [CheckState; 5] = [
            CheckState::Up,
            CheckState::Stopping,
            CheckState::Unproven,
            CheckState::Down,
            CheckState::Unfit,
        ];
        STATES[usize::from(self.checked.load(Ordering::Relaxed)).min(STATES.len() - 1)]
    }

    pub(crate) fn wanted(&self) -> State {
        match self.wanted.load(Ordering::Relaxed) {
            DRAIN => State::Drain,
            MAINTENANCE => State::Maintenance,
            _ => State::Ready,
        }
    }

    /// Whether requests have it ejected, and if so, until when.
    pub(crate) fn ejection(&self) -> Ejection {
        // Few are: only then the lock is taken.
        match self.ejection.load(Ordering::Relaxed) {
            IN => Ejection::In,
            _ => self.look(HealthState::ejection),
        }
    }

    /// Whether it is not to be used, whatever a table of before says of it.
    pub(crate) fn is_marked_down(&self) -> bool {
        self.checked() >= CheckState::Down || self.wanted() == State::Maintenance
    }

    pub(crate) fn audience(&self) -> MutexGuard<'_, Audience> {
        self.audience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HealthState> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Audience {
    pub(crate) fn clusters(&self) -> Vec<Arc<Inner>> {
        self.clusters.iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn followers(&self) -> Vec<Arc<Backend>> {
        self.followers.iter().filter_map(Weak::upgrade).collect()
    }

    /// Adds a cluster, once.
    pub(crate) fn join(&mut self, cluster: &Weak<Inner>) {
        self.clusters.retain(|other| other.strong_count() > 0);
        if !self.clusters.iter().any(|other| other.ptr_eq(cluster)) {
            self.clusters.push(Weak::clone(cluster));
        }
    }

    pub(crate) fn leave(&mut self, cluster: &Weak<Inner>) {
        self.clusters.retain(|other| other.strong_count() > 0 && !other.ptr_eq(cluster));
    }

    /// Adds a backend that tracks this one, once.
    pub(crate) fn followed_by(&mut self, backend: &Arc<Backend>) {
        self.followers.retain(|other| other.strong_count() > 0);
        let backend = Arc::downgrade(backend);
        if !self.followers.iter().any(|other| other.ptr_eq(&backend)) {
            self.followers.push(backend);
        }
    }
}

fn rank(ejection: Ejection) -> u8 {
    match ejection {
        Ejection::In => IN,
        Ejection::Out { .. } | Ejection::Rest { .. } => 1,
        Ejection::Trial => 2,
    }
}

const IN: u8 = 0;

const DRAIN: u8 = State::Drain as u8;

const MAINTENANCE: u8 = State::Maintenance as u8;
