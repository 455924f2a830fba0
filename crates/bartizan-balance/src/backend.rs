//! One server.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use bartizan_net::{Address, Superseded, Target};

use crate::health::HealthState;
use crate::latency::Latency;
use crate::live::Live;
use crate::load::Load;
use crate::passive::Tally;
use crate::{CheckState, Condition};

/// One server of a [`Cluster`](crate::Cluster): what it is, and its live state.
///
/// It lives as long as anybody holds its `Arc`, across every rebuild of the table, so what is
/// counted here is never lost.
// In this order: what each pick touches lies in the cache line of the `Arc`'s own counts.
#[derive(Debug)]
#[repr(C)]
pub struct Backend {
    pub(crate) load: Load,
    pub(crate) latency: Latency,
    id: BackendId,
    name: Arc<str>,
    address: Address,
    server_name: Option<Arc<str>>,
    role: Role,
    limits: Limits,
    weight: AtomicU16,
    // What was configured, which an agent's percentages are of.
    initial_weight: u16,
    // A maximum that an agent has set instead of the limits' own; `NO_MAX` if none has.
    max: AtomicU32,
    pub(crate) live: Live,
    pub(crate) tally: Tally,
    tracked: Option<Arc<Self>>,
}

/// Tells backends apart for the life of the process; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(NonZeroU64);

/// When a backend is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Always.
    #[default]
    Active,
    /// When no active backend is left.
    Backup,
}

/// What the operator wants of a backend, with HAProxy's meaning (`set server … state`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It takes part.
    #[default]
    Ready,
    /// No new clients; those who are pinned to it still get there, and what is in flight goes on.
    /// A weight of 0 means the same.
    Drain,
    /// Nobody new at all, pinned or not; what is in flight goes on, unless the cluster
    /// [ends it](crate::OnMarkedDown::ShutdownSessions). It comes back as after a recovery.
    Maintenance,
}

/// How much a backend takes at a time.
///
/// Whoever waits is offered the slots that requests of the same cluster give back: have a backend
/// with limits in one cluster. Requests count until the end of the response's body, connections
/// until they are closed.
///
/// | setting | default | HAProxy |
/// | --- | --- | --- |
/// | [`max`](Self::max) | no limit | `maxconn` |
/// | [`min`](Self::min) | as `max` | `minconn` |
/// | [`queue`](Self::queue) | no limit | `maxqueue` |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub(crate) max: Option<NonZeroU32>,
    pub(crate) min: Option<NonZeroU32>,
    pub(crate) queue: Option<NonZeroU32>,
}

impl Limits {
    /// No limits.
    pub const fn none() -> Self {
        Self { max: None, min: None, queue: None }
    }

    /// At most this many at a time; 0: any number.
    pub const fn max(self, max: u32) -> Self {
        Self { max: NonZeroU32::new(max), ..self }
    }

    /// Only this many at a time while the cluster has little to do; in proportion to its load up to
    /// [`max`](Self::max), which is reached at [`full_load`](crate::ClusterBuilder::full_load).
    /// Without a maximum, or above it, it does nothing; 0: none.
    pub const fn min(self, min: u32) -> Self {
        Self { min: NonZeroU32::new(min), ..self }
    }

    /// Whether there is a [`max`](Self::max), without which nothing is limited.
    pub const fn is_limited(&self) -> bool {
        self.max.is_some()
    }

    /// At most this many wait for this very backend; what would be one more goes to another. 0: any
    /// number.
    pub const fn queue(self, queue: u32) -> Self {
        Self { queue: NonZeroU32::new(queue), ..self }
    }
}

impl Backend {
    /// A server called `name`: active, of weight 1, without limits, and up until a check says
    /// otherwise.
    pub fn new(name: impl Into<Arc<str>>, address: Address) -> Self {
        Self {
            id: BackendId::next(),
            name: name.into(),
            address,
            server_name: None,
            role: Role::Active,
            limits: Limits::none(),
            load: Load::default(),
            latency: Latency::default(),
            weight: AtomicU16::new(1),
            initial_weight: 1,
            max: AtomicU32::new(NO_MAX),
            live: Live::new(),
            tally: Tally::default(),
            tracked: None,
        }
    }

    /// Expects this name over TLS, instead of the address' host name.
    pub fn with_server_name(self, name: impl Into<Arc<str>>) -> Self {
        Self { server_name: Some(name.into()), ..self }
    }

    /// Gets this share, from 0 to 256, in relation to the others; above counts as 256. 0: as
    /// [`State::Drain`]. Default: 1.
    pub fn with_weight(self, weight: u16) -> Self {
        let initial_weight = weight.min(MAX_WEIGHT);
        Self { weight: AtomicU16::new(initial_weight), initial_weight, ..self }
    }

    /// Is used in this role.
    pub fn with_role(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// Takes no more than this at a time.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Is as well as `other`, which is checked instead of it: HAProxy's `track`. One server that is in
    /// several clusters, under whatever limits and weights, is then probed once.
    ///
    /// `other` has to be in a cluster that is checked, and may itself track a third.
    pub fn tracking(self, other: Arc<Self>) -> Self {
        Self { tracked: Some(other), ..self }
    }

    /// What tells it apart from all other backends of this process.
    pub fn id(&self) -> BackendId {
        self.id
    }

    /// Its name, unique in its cluster.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// When it is used.
    pub fn role(&self) -> Role {
        self.role
    }

    /// How much it takes at a time.
    pub fn limits(&self) -> Limits {
        match self.max.load(Ordering::Relaxed) {
            NO_MAX => self.limits,
            max => self.limits.max(max),
        }
    }

    /// The backend that is checked instead of this one.
    pub fn tracked(&self) -> Option<&Arc<Self>> {
        self.tracked.as_ref()
    }

    /// Its share in relation to the others, from 0 to 256. Set by
    /// [`Change::set_weight`](crate::Change::set_weight).
    pub fn weight(&self) -> u16 {
        self.weight.load(Ordering::Relaxed)
    }

    /// What the operator wants of it. Set by [`Change::set_state`](crate::Change::set_state).
    pub fn state(&self) -> State {
        self.live.wanted()
    }

    /// How many picks are in flight: requests until the end of the body, connections until closed.
    pub fn in_flight(&self) -> usize {
        self.load.in_flight()
    }

    /// How many wait for a free slot of this very backend.
    pub fn queued(&self) -> usize {
        self.load.queued()
    }

    /// Whether the checks find it well. Eligible is what is up in the [`Table`](crate::Table).
    pub fn is_up(&self) -> bool {
        self.live.checked() <= CheckState::Stopping
    }

    /// What it is, all in all, whatever its weight.
    pub fn condition(&self) -> Condition {
        self.live.look(HealthState::condition)
    }

    /// What is set when it is [marked down](crate::OnMarkedDown) for the next time.
    ///
    /// Pools ask before they dial: a connection from before a mark is to be used no more. A process
    /// that was frozen may have it still, a host that crashed has not, and would cost a timeout.
    pub fn until_marked_down(&self) -> Superseded {
        self.live.tenures.over()
    }

    /// Only the cluster may, because it has to publish a new table with it.
    pub(crate) fn set_weight(&self, weight: u16) {
        self.weight.store(weight.min(MAX_WEIGHT), Ordering::Relaxed);
    }

    pub(crate) fn initial_weight(&self) -> u16 {
        self.initial_weight
    }

    /// As for [`set_weight`](Self::set_weight). 0: any number.
    pub(crate) fn set_max(&self, max: u32) {
        self.max.store(max.min(NO_MAX - 1), Ordering::Relaxed);
    }
}

impl Target for Backend {
    fn address(&self) -> &Address {
        &self.address
    }

    fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref().or_else(|| self.address.server_name())
    }
}

impl BackendId {
    fn next() -> Self {
        // Never 0: that takes a process that makes a billion backends a second for centuries.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Self(NonZeroU64::new(id).unwrap_or(NonZeroU64::MAX))
    }

    /// The number, for logs and for keys of maps. Never 0, so an `Option` of an id is no larger.
    pub fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// HAProxy's.
pub(crate) const MAX_WEIGHT: u16 = 256;

const NO_MAX: u32 = u32::MAX;
