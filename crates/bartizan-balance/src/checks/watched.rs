//! One member, as a set of checks sees it.

use std::sync::Arc;

use futures_util::future::AbortHandle;

use super::target::ProbeTarget;
use crate::cluster::Cluster;
use crate::health::{Observed, Token};
use crate::{Backend, CheckState, Pace, Verdict};

/// A member, for one time of membership.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) backend: Arc<Backend>,
    /// What its probes are given.
    pub(super) probed: Arc<Backend>,
    pub(super) token: Token,
    /// When the members were compared last, it was there.
    pub(super) seen: u64,
    /// Drops the probe that runs.
    abort: Option<AbortHandle>,
    // As what it has been told to stay down.
    told: Option<CheckState>,
    has_panicked: bool,
    /// Whether what answers is an agent.
    pub(super) has_agent: bool,
}

impl Watched {
    pub(super) fn new(backend: Arc<Backend>, token: Token, target: &ProbeTarget) -> Self {
        let probed = target.of(&backend);
        let (abort, told, has_panicked, has_agent) = (None, None, false, false);
        Self { backend, probed, token, seen: 0, abort, told, has_panicked, has_agent }
    }

    pub(super) fn runs(&mut self, abort: AbortHandle) {
        self.abort = Some(abort);
    }

    /// Ends the probe that runs: nobody wants its verdict any more.
    pub(super) fn abandon(&mut self) {
        if let Some(abort) = self.abort.take() {
            abort.abort();
        }
    }

    /// Takes in what a probe found; nothing if it panicked. Returns how soon to probe again, or `None`
    /// if nobody wants to know any more.
    pub(super) fn found(&mut self, verdict: Option<Verdict>, cluster: &Cluster) -> Option<Pace> {
        self.abort = None;
        let verdict = verdict.unwrap_or_else(|| self.panicked(cluster));
        self.has_agent = matches!(verdict, Verdict::Agent(_));
        // Of what is up, which most are, it is not asked.
        let down_as = (!self.backend.is_up()).then(|| self.backend.condition());
        let observed = cluster.observe(&self.backend, self.token, &verdict)?;
        if down_as.is_none() {
            self.told = None;
        }
        // A change, and its reason, the cluster has told.
        let is_told = down_as.is_none_or(|was| was != self.backend.condition());
        self.trace(is_told, observed, &verdict, cluster);
        Some(observed.pace)
    }

    fn panicked(&mut self, cluster: &Cluster) -> Verdict {
        if !std::mem::replace(&mut self.has_panicked, true) {
            let (cluster, backend) = (cluster.name(), self.backend.name());
            tracing::error!(%cluster, %backend, "the probe panicked, which is a defect of it");
        }
        Verdict::fail("the probe panicked")
    }

    /// Tells the first reason of each kind why it stays down, unless it `is_told`.
    fn trace(&mut self, is_told: bool, observed: Observed, verdict: &Verdict, cluster: &Cluster) {
        let up = observed.state <= CheckState::Stopping;
        if up {
            self.told = None;
        }
        if !up && !is_told && self.told != Some(observed.state) && !verdict.is_pass() {
            let (cluster, backend) = (cluster.name(), self.backend.name());
            let reason = verdict.reason();
            tracing::warn!(%cluster, %backend, reason, "backend stays {:?}", observed.state);
        }
        if !up {
            self.told = Some(observed.state);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.abandon();
    }
}
