//! Health, where it meets the cluster: who is told of what, and what is published then.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::broadcast;

use super::{Change, Cluster, Inner, Writing};
use crate::clock::now;
use crate::health::{CheckRules, Ejection, HealthState, KEPT, Observed, Token};
use crate::live::Changed;
use crate::{Backend, Condition, HealthChange, HealthChanges, HealthReport, Role, Table, Verdict};

/// Changes of condition that have yet to be announced.
pub(super) type Changes = Vec<(Arc<Backend>, Changed)>;

impl Cluster {
    /// Changes of health of its backends, from now on.
    pub fn health_changes(&self) -> HealthChanges {
        let changes = self.inner.changes.get_or_init(|| broadcast::Sender::new(KEPT));
        HealthChanges::new(changes.subscribe())
    }

    /// How a backend is, since when, and why. `None` if it is not in this cluster.
    pub fn health(&self, backend: &Backend) -> Option<HealthReport> {
        let table = self.table();
        let position = table.position(backend.id())?;
        let full = f64::from(table.weight(position)) * 16.0;
        let weight_factor = if full > 0.0 { f64::from(table.share(position)) / full } else { 0.0 };
        Some(backend.live.look(|health| HealthReport {
            condition: health.condition(),
            eligible: table.is_eligible(position),
            weight_factor,
            since: health.since(),
            age: now().saturating_duration_since(health.since()),
            reason: Arc::clone(health.reason()),
            counts: health.counts(),
        }))
    }

    /// Lets a set of checks judge all members, and from now on those that are added, in one step.
    pub(crate) fn attach(&self, rules: CheckRules) -> Attachment {
        let check = NEXT_CHECK.fetch_add(1, Ordering::Relaxed);
        let now = now();
        let mut writing = self.writing();
        writing.checks.push((check, rules));
        let table = self.inner.table.load();
        let attach = |member: &Arc<Backend>| attach(member, check, rules, now);
        let changed: Changes = table.members().iter().filter_map(attach).collect();
        self.publish(&writing, table.refreshed(&self.inner.rules, now));
        drop(writing);
        self.announce(changed);
        Attachment { say: Say { cluster: Arc::downgrade(&self.inner), check } }
    }

    /// Takes a verdict on a backend in, and publishes what comes of it. `None` if nobody wants it
    /// any more.
    pub(crate) fn observe(
        &self,
        backend: &Arc<Backend>,
        token: Token,
        verdict: &Verdict,
    ) -> Option<Observed> {
        let now = now();
        let observed = affect(backend, |health| {
            let observed = health.observe(token, verdict, now);
            if observed.is_some() && verdict.is_pass() && self.is_ended_by_a_pass(health) {
                health.eject(Ejection::In, "a check passed", now);
            }
            observed
        })?;
        if let Verdict::Agent(reply) = verdict
            && Change::is_news(backend, reply)
        {
            // Only names can be wrong in a change.
            let _ = self.update(|change| change.obey(backend, reply));
        }
        Some(observed)
    }

    /// Whether a check that passes takes back what requests have shown. Who wants to be left alone
    /// for a while is, though its checks pass.
    fn is_ended_by_a_pass(&self, health: &HealthState) -> bool {
        let may_end = matches!(health.ejection(), Ejection::Out { .. } | Ejection::Trial);
        may_end && self.judge().is_none_or(|judge| judge.unejects())
    }

    /// Tells members that this cluster has to hear of changes.
    pub(super) fn welcome(&self, members: &[Arc<Backend>]) -> Changes {
        let this = Arc::downgrade(&self.inner);
        let mut changed = Changes::new();
        for member in members {
            member.live.audience().join(&this);
            if let Some(tracked) = member.tracked() {
                tracked.live.audience().followed_by(member);
                let reason = format!("as {}, which it tracks", tracked.name());
                // Looked at with the lock held: who changes it meanwhile is heard after this.
                let follow = |health: &mut HealthState| {
                    health.follow(tracked.live.checked(), &reason, now());
                };
                let ((), change) = member.live.change(follow);
                changed.extend(change.map(|change| (Arc::clone(member), change)));
            }
        }
        changed
    }

    /// The members have changed: those who come are judged by all checks, those who go by none.
    pub(super) fn admit(
        &self,
        writing: &Writing,
        old: &[Arc<Backend>],
        new: &[Arc<Backend>],
        now: Instant,
    ) -> Changes {
        let this = Arc::downgrade(&self.inner);
        let ids = |members: &[Arc<Backend>]| {
            members.iter().map(|member| member.id()).collect::<HashSet<_>>()
        };
        let (were, are) = (ids(old), ids(new));
        for gone in old.iter().filter(|member| !are.contains(&member.id())) {
            gone.live.audience().leave(&this);
            for (check, _) in &writing.checks {
                gone.live.change(|health| health.detach(*check));
            }
        }
        let added: Vec<_> =
            new.iter().filter(|member| !were.contains(&member.id())).cloned().collect();
        // Those who track them may have been there before.
        let mut changed = self.welcome(&added);
        let each = added.iter().flat_map(|member| writing.checks.iter().map(move |c| (member, *c)));
        changed
            .extend(each.filter_map(|(member, (check, rules))| attach(member, check, rules, now)));
        changed
    }

    /// What the time alone changes.
    pub(super) fn move_on(&self, table: &Table, now: Instant) -> Changes {
        let mut changed = Changes::new();
        let is_over = |ejection: Ejection| ejection.ends().is_some_and(|until| until <= now);
        // A request waits for this: only who is out is asked with a lock.
        let out = table.members().iter().filter(|member| is_over(member.live.ejection()));
        for member in out {
            let ((), change) = member.live.change(|health| {
                if is_over(health.ejection()) {
                    health.eject(Ejection::Trial, "its ejection is over", now);
                }
            });
            changed.extend(change.map(|change| (Arc::clone(member), change)));
        }
        changed
    }

    /// Tells of changes that this cluster has published already. Its lock must not be held.
    pub(super) fn announce(&self, changed: Changes) {
        for (backend, change) in changed {
            announce(&backend, &change, Some(&self.inner));
        }
    }

    /// A backend has changed: the next table shows it.
    pub(super) fn refresh(&self, now: Instant) {
        let writing = self.writing();
        let table = self.inner.table.load();
        self.publish(&writing, table.refreshed(&self.inner.rules, now));
    }

    /// These have changed in what is no condition: the other clusters that have them show it as well.
    /// This one's lock must not be held.
    pub(super) fn refresh_others(&self, touched: &[Arc<Backend>], now: Instant) {
        let mut others: Vec<Arc<Inner>> = Vec::new();
        for backend in touched {
            let clusters = backend.live.audience().clusters();
            for inner in clusters {
                let is_known = |other: &Arc<Inner>| Arc::ptr_eq(other, &inner);
                if !is_known(&self.inner) && !others.iter().any(is_known) {
                    others.push(inner);
                }
            }
        }
        others.into_iter().for_each(|inner| Self { inner }.refresh(now));
    }

    fn tell(&self, backend: &Arc<Backend>, change: &Changed) {
        if change.from == change.to {
            return;
        }
        if [change.from, change.to].contains(&Condition::Maintenance) {
            self.maintenance(backend);
        }
        let change = HealthChange {
            cluster: Arc::clone(self.name()),
            backend: Arc::clone(backend),
            from: change.from,
            to: change.to,
            reason: Arc::clone(&change.reason),
            at: change.at,
        };
        change.trace();
        if let Some(changes) = self.inner.changes.get() {
            // Nobody may listen at the moment.
            let _ = changes.send(change);
        }
    }

    /// Tells of a change as the thread does that has made it.
    #[cfg(test)]
    pub(crate) fn announce_for_tests(&self, backend: &Arc<Backend>, change: Changed) {
        announce(backend, &change, None);
    }

    /// Records that a backend is up or down, and publishes it. Returns whether that is news.
    #[cfg(test)]
    pub(crate) fn set_up(&self, backend: &Arc<Backend>, up: bool) -> bool {
        let was = backend.is_up();
        let state = if up { crate::CheckState::Up } else { crate::CheckState::Down };
        affect(backend, |health| health.follow(state, "the test says so", now()));
        backend.is_up() != was
    }
}

/// Moves the state machine of a backend on, and tells all that it concerns. No cluster's lock may be
/// held.
pub(crate) fn affect<T>(backend: &Arc<Backend>, change: impl FnOnce(&mut HealthState) -> T) -> T {
    let (result, changed) = backend.live.change(change);
    if let Some(changed) = changed {
        announce(backend, &changed, None);
    }
    result
}

/// `published`: who has published it already.
fn announce(backend: &Arc<Backend>, change: &Changed, published: Option<&Arc<Inner>>) {
    // Their locks are taken one at a time: nothing is held meanwhile.
    let clusters = backend.live.audience().clusters();
    for inner in clusters {
        let is_published = published.is_some_and(|published| Arc::ptr_eq(published, &inner));
        let cluster = Cluster { inner };
        if !is_published {
            cluster.refresh(change.at);
        }
        cluster.tell(backend, change);
    }
    end_sessions(backend, change);
    let followers = backend.live.audience().followers();
    for follower in followers {
        let reason = format!("as {}, which it tracks: {}", backend.name(), change.reason);
        // As it is by now: another thread may have changed it again, and told of that before.
        affect(&follower, |health| health.follow(backend.live.checked(), &reason, change.at));
    }
}

/// Ends what is in flight where it should be no more. All tables must show the change already: who
/// still picks by an older one then finds out ([`Cluster::watch`]).
fn end_sessions(backend: &Arc<Backend>, change: &Changed) {
    if change.is_mark_down() {
        backend.live.tenures.end();
    }
    let relieves = backend.role() == Role::Active && backend.weight() > 0;
    if !(change.is_mark_up() && relieves) {
        return;
    }
    // Whose sessions go on do not look out for it.
    let clusters = backend.live.audience().clusters();
    clusters.iter().for_each(|cluster| cluster.backup_tenures.end());
}

fn attach(
    member: &Arc<Backend>,
    check: u64,
    rules: CheckRules,
    now: Instant,
) -> Option<(Arc<Backend>, Changed)> {
    if member.tracked().is_some() {
        return None; // It is checked elsewhere.
    }
    let (_, change) = member.live.change(|health| health.attach(check, rules, now));
    change.map(|change| (Arc::clone(member), change))
}

/// While it is held, a set of checks has a say in a cluster.
#[derive(Debug)]
#[must_use = "dropped, it ends the say of the checks"]
pub(crate) struct Attachment {
    say: Say,
}

/// The say of a set of checks in a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Say {
    cluster: Weak<Inner>,
    check: u64,
}

impl Attachment {
    pub(crate) fn say(&self) -> Say {
        self.say.clone()
    }

    /// The same say once more: it ends with whichever is dropped first.
    pub(crate) fn again(&self) -> Self {
        Self { say: self.say() }
    }
}

impl Say {
    /// What verdicts on this backend have to carry. `None` if these checks have no say there.
    pub(crate) fn token(&self, backend: &Backend) -> Option<Token> {
        backend.live.look(|health| health.token(self.check))
    }

    /// The cluster, if anybody has it still.
    pub(crate) fn cluster(&self) -> Option<Cluster> {
        self.cluster.upgrade().map(|inner| Cluster { inner })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let Some(cluster) = self.say.cluster() else { return };
        let mut writing = cluster.writing();
        let Some(place) = writing.checks.iter().position(|(check, _)| *check == self.say.check)
        else {
            return;
        };
        writing.checks.remove(place);
        for member in cluster.table().members().iter() {
            member.live.change(|health| health.detach(self.say.check));
        }
    }
}

static NEXT_CHECK: AtomicU64 = AtomicU64::new(1);
