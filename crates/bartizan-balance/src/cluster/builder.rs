//! Making a cluster.

use std::sync::{Arc, Mutex, OnceLock};

use arc_swap::ArcSwap;
use bartizan_net::Address;
use tokio::sync::watch;

use super::nudge::Nudged;
use super::{Cluster, ClusterError, ClusterLoad, Inner, Writing, check_names};
use crate::clock::now;
use crate::passive::Passive;
use crate::queue::Queue;
use crate::tenure::Tenures;
use crate::{Backend, MinHealthy, Observe, OnMarkedDown, OnMarkedUp, Outlier, SlowStart, Table};

/// What holds for a cluster all its life.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) panic_below: Option<MinHealthy>,
    // How many have to stay in, whatever requests show.
    pub(crate) keep: Option<MinHealthy>,
    pub(crate) all_backups: bool,
    pub(crate) passive: Option<Arc<Passive>>,
    pub(crate) on_marked_down: OnMarkedDown,
    pub(crate) on_marked_up: OnMarkedUp,
}

/// Collects the backends of a [`Cluster`].
///
/// | setting | default | HAProxy |
/// | --- | --- | --- |
/// | [`slow_start`](Self::slow_start) | none | `slowstart` |
/// | [`panic_below`](Self::panic_below) | never | – |
/// | [`all_backups`](Self::all_backups) | the first | `option allbackups` |
/// | [`full_load`](Self::full_load) | the sum of all `max` | `fullconn` |
/// | [`queue`](Self::queue) | any number | – |
/// | [`observe`](Self::observe) | no | `observe` |
/// | [`outlier`](Self::outlier) | no | – |
/// | [`on_marked_down`](Self::on_marked_down) | sessions go on | `on-marked-down` |
/// | [`on_marked_up`](Self::on_marked_up) | sessions go on | `on-marked-up` |
#[derive(Debug)]
#[must_use = "a cluster is made by `build`"]
pub struct ClusterBuilder {
    name: Arc<str>,
    backends: Vec<Arc<Backend>>,
    rules: Rules,
    full_load: Option<usize>,
    queue: usize,
    observe: Option<Observe>,
    outlier: Option<Outlier>,
    wrong: Option<ClusterError>,
}

impl ClusterBuilder {
    pub(super) fn new(name: Arc<str>) -> Self {
        let (backends, rules) = (Vec::new(), Rules::default());
        Self {
            name,
            backends,
            rules,
            full_load: None,
            queue: usize::MAX,
            observe: None,
            outlier: None,
            wrong: None,
        }
    }

    /// Adds a backend at `address`, `HOST:PORT`.
    pub fn backend(mut self, name: &str, address: &str) -> Self {
        match address.parse::<Address>() {
            Ok(address) => self.add(Backend::new(name, address)),
            Err(source) => {
                let wrong = ClusterError::Address { backend: name.into(), source };
                self.wrong.get_or_insert(wrong);
                self
            }
        }
    }

    /// Adds a backend.
    #[allow(clippy::should_implement_trait, reason = "a builder's verb, not arithmetic")]
    pub fn add(mut self, backend: Backend) -> Self {
        self.backends.push(Arc::new(backend));
        self
    }

    /// Lets backends that have recovered come back by degrees.
    pub fn slow_start(mut self, slow_start: SlowStart) -> Self {
        self.rules.slow_start = Some(slow_start).filter(|ramp| !ramp.window().is_zero());
        self
    }

    /// Uses all active backends, well or not, while fewer than this are well, unless none is and a
    /// backup is. Those that have to pass a check first and have not yet, and those that are not who
    /// they should be, stay out.
    pub fn panic_below(mut self, rule: MinHealthy) -> Self {
        self.rules.panic_below = Some(rule);
        self
    }

    /// Uses all backups when no active backend is left, not only the first one.
    pub fn all_backups(mut self, all: bool) -> Self {
        self.rules.all_backups = all;
        self
    }

    /// What is in flight in the whole cluster when backends get their [`max`](crate::Limits::max),
    /// rather than their [`min`](crate::Limits::min).
    pub fn full_load(self, in_flight: usize) -> Self {
        Self { full_load: Some(in_flight.max(1)), ..self }
    }

    /// At most this many wait for a free slot of any backend.
    pub fn queue(self, length: usize) -> Self {
        Self { queue: length, ..self }
    }

    /// Lets active checks take into account what becomes of requests.
    pub fn observe(self, observe: Observe) -> Self {
        Self { observe: Some(observe), ..self }
    }

    /// Takes backends out that answer badly.
    pub fn outlier(self, outlier: Outlier) -> Self {
        Self { outlier: Some(outlier), ..self }
    }

    /// What becomes of what is in flight at a backend that is marked down.
    ///
    /// To end it costs each request that has to wait for its answer one allocation.
    pub fn on_marked_down(mut self, then: OnMarkedDown) -> Self {
        self.rules.on_marked_down = then;
        self
    }

    /// What becomes of what is in flight at backups when an active backend is up again.
    pub fn on_marked_up(mut self, then: OnMarkedUp) -> Self {
        self.rules.on_marked_up = then;
        self
    }

    /// Makes the cluster. All backends are up. It may be empty.
    ///
    /// # Errors
    ///
    /// [`ClusterError`], for the first thing that is wrong.
    pub fn build(mut self) -> Result<Cluster, ClusterError> {
        self.wrong.map_or(Ok(()), Err)?;
        let passive = Passive::new(self.observe, self.outlier);
        self.rules.keep = passive.as_ref().and_then(|passive| passive.judge()).map(|j| j.keep());
        self.rules.passive = passive.map(Arc::new);
        check_names(&self.backends)?;
        let load = Arc::new(ClusterLoad::new(self.full_load));
        load.members(&self.backends);
        let members: Arc<[_]> = self.backends.into();
        let table = Table::new(Arc::clone(&members), &self.rules, Arc::clone(&load), now());
        let (membership, _) = watch::channel(table.membership());
        let (version, _) = watch::channel(table.version());
        let inner = Inner {
            name: self.name,
            rules: self.rules,
            table: ArcSwap::from_pointee(table),
            queue: Queue::new(self.queue, load),
            writing: Mutex::new(Writing::default()),
            membership,
            version,
            changes: OnceLock::new(),
            nudged: Nudged::default(),
            backup_tenures: Tenures::default(),
        };
        let cluster = Cluster { inner: Arc::new(inner) };
        // Nobody can track them yet, nor listen.
        let _ = cluster.welcome(&members);
        if members.iter().any(|member| member.tracked().is_some()) {
            cluster.refresh(now());
        }
        Ok(cluster)
    }
}
