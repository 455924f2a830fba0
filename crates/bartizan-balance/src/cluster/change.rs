//! A change of a cluster, made in one step.

use std::sync::Arc;
use std::time::Instant;

use super::{ClusterError, check_names};
use crate::backend::MAX_WEIGHT;
use crate::health::HealthState;
use crate::live::Changed;
use crate::{AgentReply, AgentWeight, Backend, State, Table};

/// What [`Cluster::update`](crate::Cluster::update) is to do: all of it, or, if anything is wrong,
/// nothing.
#[derive(Debug)]
pub struct Change {
    table: Arc<Table>,
    // Only if they may become others: to copy thousands takes long.
    members: Option<Vec<Arc<Backend>>>,
    settings: Vec<(Arc<Backend>, Setting)>,
    wrong: Option<ClusterError>,
}

#[derive(Clone, Copy, Debug)]
enum Setting {
    Weight(u16),
    // And who wants it.
    State(State, &'static str),
    Max(u32),
}

impl Change {
    pub(super) fn new(table: Arc<Table>) -> Self {
        Self { table, members: None, settings: Vec::new(), wrong: None }
    }

    /// The backends as they would be by now.
    pub fn members(&self) -> &[Arc<Backend>] {
        self.members.as_deref().unwrap_or(self.table.members())
    }

    /// The backends, to be put into any order, taken out, or exchanged.
    pub fn members_mut(&mut self) -> &mut Vec<Arc<Backend>> {
        self.members.get_or_insert_with(|| self.table.members().to_vec())
    }

    /// Adds a backend, at the end.
    pub fn add(&mut self, backend: impl Into<Arc<Backend>>) {
        self.members_mut().push(backend.into());
    }

    /// Takes the backend of this name out. Wrong if there is none.
    pub fn remove(&mut self, name: &str) {
        if let Some(backend) = self.named(name) {
            self.members_mut().retain(|member| member.id() != backend.id());
        }
    }

    /// Has these backends and no others. Those that were there keep their live state.
    pub fn replace_all(&mut self, backends: impl IntoIterator<Item = Arc<Backend>>) {
        *self.members_mut() = backends.into_iter().collect();
    }

    /// Gives the backend of this name a share from 0 to 256; 0 means that it drains. Wrong if there
    /// is no such backend, or if it is more.
    pub fn set_weight(&mut self, name: &str, weight: u16) {
        if weight > MAX_WEIGHT {
            self.wrong.get_or_insert_with(|| ClusterError::Weight { backend: name.into(), weight });
        }
        self.set(name, Setting::Weight(weight));
    }

    /// Wants the backend of this name to take part, to drain, or to be left alone. Wrong if there is
    /// no such backend.
    pub fn set_state(&mut self, name: &str, state: State) {
        self.set(name, Setting::State(state, OPERATOR));
    }

    /// Gives this backend a share, without a search for it.
    pub(crate) fn set_weight_of(&mut self, backend: &Arc<Backend>, weight: u16) {
        self.settings.push((Arc::clone(backend), Setting::Weight(weight)));
    }

    /// Whether an agent says anything but what is so already: agents say the same most of the time,
    /// and a new table is not for nothing.
    pub(crate) fn is_news(backend: &Backend, reply: &AgentReply) -> bool {
        let weight = reply.weight.map(|weight| weight_of(backend, weight));
        let limits = backend.limits();
        weight.is_some_and(|weight| weight != backend.weight())
            || reply.state.is_some_and(|state| state != backend.state())
            || reply.max.is_some_and(|max| limits.max(max) != limits)
    }

    /// Does with this backend as its agent says.
    pub(crate) fn obey(&mut self, backend: &Arc<Backend>, reply: &AgentReply) {
        let settings = [
            reply.weight.map(|weight| Setting::Weight(weight_of(backend, weight))),
            reply.state.map(|state| Setting::State(state, AGENT)),
            reply.max.map(Setting::Max),
        ];
        self.settings.extend(settings.into_iter().flatten().map(|set| (Arc::clone(backend), set)));
    }

    fn set(&mut self, name: &str, setting: Setting) {
        if let Some(backend) = self.named(name) {
            self.settings.push((backend, setting));
        }
    }

    fn named(&mut self, name: &str) -> Option<Arc<Backend>> {
        let found = match &self.members {
            Some(members) => members.iter().find(|member| **member.name() == *name),
            None => self.table.position_of_name(name).map(|place| &self.table.members()[place]),
        };
        let found = found.cloned();
        if found.is_none() {
            self.wrong.get_or_insert_with(|| ClusterError::UnknownName { name: name.into() });
        }
        found
    }

    /// Does what does not depend on the cluster.
    pub(super) fn apply(self, now: Instant) -> Result<Applied, ClusterError> {
        self.wrong.map_or(Ok(()), Err)?;
        self.members.as_deref().map_or(Ok(()), check_names)?;
        let mut applied = Applied { members: self.members, changed: vec![], touched: vec![] };
        for (backend, setting) in self.settings {
            match setting {
                Setting::Weight(weight) => backend.set_weight(weight),
                Setting::Max(max) => backend.set_max(max),
                Setting::State(state, reason) => {
                    let want = |health: &mut HealthState| health.want(state, reason, now);
                    if let ((), Some(change)) = backend.live.change(want) {
                        applied.changed.push((backend, change));
                        continue;
                    }
                }
            }
            applied.touched.push(backend);
        }
        Ok(applied)
    }
}

/// What a change has come to.
#[derive(Debug)]
pub(super) struct Applied {
    /// The members, if they may be others.
    pub(super) members: Option<Vec<Arc<Backend>>>,
    /// Whose condition has changed.
    pub(super) changed: Vec<(Arc<Backend>, Changed)>,
    /// Who has changed in what is no condition.
    pub(super) touched: Vec<Arc<Backend>>,
}

/// The weight that an agent wants, in HAProxy's range.
fn weight_of(backend: &Backend, weight: AgentWeight) -> u16 {
    match weight {
        AgentWeight::Absolute(weight) => weight.min(MAX_WEIGHT),
        AgentWeight::Percent(percent) => {
            let weight = u32::from(backend.initial_weight()) * u32::from(percent);
            // Only 0 % is nothing: a backend of weight 1 that is half as good must not go out.
            let weight = weight.div_ceil(100);
            weight.min(u32::from(MAX_WEIGHT)) as u16
        }
    }
}

const OPERATOR: &str = "the operator wants it so";

const AGENT: &str = "its agent wants it so";

#[cfg(test)]
mod tests {
    use bartizan_net::Address;

    use super::*;

    #[test]
    fn only_no_percent_of_a_weight_is_none() {
        let address = || Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        for (weight, percent, expected) in [
            (1, 75, 1),
            (1, 0, 0),
            (1, 100, 1),
            (3, 50, 2),
            (100, 75, 75),
            (0, 75, 0),
            (200, 300, 256),
        ] {
            let backend = Backend::new("a", address()).with_weight(weight);
            assert_eq!(weight_of(&backend, AgentWeight::Percent(percent)), expected, "{weight}");
        }
    }
}
