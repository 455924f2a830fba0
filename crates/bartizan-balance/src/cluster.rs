//! Named sets of backends.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use bartizan_net::{Address, AddressError};
use tokio::sync::watch;

use crate::{Backend, Table};

/// A named set of backends. Clones are handles on the same set.
///
/// Readers take its [`table`](Self::table) and never wait. Changes are made to a copy, checked, and
/// published in one step.
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    table: ArcSwap<Table>,
    // The number of `Probation`s: while there is one, what is added starts down.
    writing: Mutex<usize>,
    // Holds the number of the table's membership.
    membership: watch::Sender<u64>,
}

impl Cluster {
    /// Starts a cluster called `name`.
    pub fn builder(name: impl Into<Arc<str>>) -> ClusterBuilder {
        ClusterBuilder { name: name.into(), backends: Vec::new(), wrong: None }
    }

    /// Its name, for logs and errors.
    pub fn name(&self) -> &Arc<str> {
        &self.inner.name
    }

    /// The current snapshot. Hold it for one pick, not for longer.
    pub fn table(&self) -> Guard<Arc<Table>> {
        self.inner.table.load()
    }

    /// Changes the set of backends in one step.
    ///
    /// `change` gets the current ones. An `Arc` that it leaves in keeps its live state; one that it
    /// takes out is not picked any more, and what is in flight there goes on. May be called from
    /// any thread; two changes wait for each other.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]; the set then stays as it was.
    pub fn update(&self, change: impl FnOnce(&mut Vec<Arc<Backend>>)) -> Result<(), ClusterError> {
        let probations = self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.inner.table.load();
        let mut members = old.members().to_vec();
        change(&mut members);
        check_names(&members)?;
        if *probations > 0 {
            let stay: HashSet<_> = old.members().iter().map(|member| member.id()).collect();
            let added = members.iter().filter(|member| !stay.contains(&member.id()));
            added.for_each(|member| member.put_on_trial());
        }
        let membership = old.membership() + 1;
        self.inner.table.store(Arc::new(Table::new(members.into(), membership)));
        self.inner.membership.send_replace(membership);
        Ok(())
    }

    /// Records that a backend is up or down, and publishes it. Returns whether that is news.
    #[cfg(test)]
    pub(crate) fn set_up(&self, backend: &Backend, up: bool) -> bool {
        self.set_up_in(backend, backend.trial(), up)
    }

    /// With the writers' lock held.
    fn publish_up(&self, backend: &Backend, up: bool) -> bool {
        let news = backend.set_up(up);
        if news {
            let refreshed = self.inner.table.load().refreshed();
            self.inner.table.store(Arc::new(refreshed));
        }
        news
    }

    /// Records that a backend is up or down, and publishes it, unless it was put on trial since
    /// `trial`. Returns whether that is news.
    pub(crate) fn set_up_in(&self, backend: &Backend, trial: u64, up: bool) -> bool {
        let _writing = self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if backend.trial() != trial {
            return false;
        }
        self.publish_up(backend, up)
    }

    /// Sets all backends down, and from now on those that are added, in one step.
    pub(crate) fn on_probation(&self) -> Probation {
        let mut probations = self.inner.writing.lock().unwrap_or_else(PoisonError::into_inner);
        *probations += 1;
        let old = self.inner.table.load();
        old.members().iter().for_each(|member| member.put_on_trial());
        self.inner.table.store(Arc::new(old.refreshed()));
        Probation { cluster: self.clone() }
    }

    pub(crate) fn membership(&self) -> watch::Receiver<u64> {
        self.inner.membership.subscribe()
    }
}

/// While it is held, backends that are added to the cluster start down.
#[derive(Debug)]
pub(crate) struct Probation {
    cluster: Cluster,
}

impl Drop for Probation {
    fn drop(&mut self) {
        let lock = &self.cluster.inner.writing;
        *lock.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
    }
}

/// Collects the backends of a [`Cluster`].
#[derive(Debug)]
#[must_use = "a cluster is made by `build`"]
pub struct ClusterBuilder {
    name: Arc<str>,
    backends: Vec<Arc<Backend>>,
    wrong: Option<ClusterError>,
}

impl ClusterBuilder {
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

    /// Makes the cluster. All backends are up. It may be empty.
    ///
    /// # Errors
    ///
    /// [`ClusterError`], for the first thing that is wrong.
    pub fn build(self) -> Result<Cluster, ClusterError> {
        self.wrong.map_or(Ok(()), Err)?;
        check_names(&self.backends)?;
        let table = ArcSwap::from_pointee(Table::new(self.backends.into(), 0));
        let (membership, _) = watch::channel(0);
        let inner = Inner { name: self.name, table, writing: Mutex::new(0), membership };
        Ok(Cluster { inner: Arc::new(inner) })
    }
}

/// A set of backends makes no cluster. The operator's fault.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// A backend's address cannot be read.
    #[error("backend {backend}: {source}")]
    Address {
        /// The backend's name.
        backend: Arc<str>,
        /// What is wrong with the address.
        source: AddressError,
    },

    /// Two backends have the same name.
    #[error("two backends are called {name}; names tell them apart in logs and cookies")]
    DuplicateName {
        /// The name.
        name: Arc<str>,
    },
}

fn check_names(backends: &[Arc<Backend>]) -> Result<(), ClusterError> {
    let mut names = HashSet::with_capacity(backends.len());
    match backends.iter().find(|backend| !names.insert(backend.name())) {
        Some(twice) => Err(ClusterError::DuplicateName { name: Arc::clone(twice.name()) }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(cluster: &Cluster) -> Vec<String> {
        cluster.table().members().iter().map(|b| b.name().to_string()).collect()
    }

    #[test]
    fn what_is_left_in_keeps_its_state() {
        let web = Cluster::builder("web")
            .backend("a", "127.0.0.1:1")
            .backend("b", "127.0.0.1:2")
            .build()
            .unwrap();
        let b = Arc::clone(&web.table().members()[1]);
        web.set_up(&b, false);
        let c = Arc::new(Backend::new("c", "127.0.0.1:3".parse().unwrap()));
        web.update(|members| {
            members.remove(0);
            members.push(c);
        })
        .unwrap();
        assert_eq!(names(&web), ["b", "c"]);
        assert!(!web.table().is_eligible(0) && web.table().is_eligible(1));
        assert_eq!(web.table().members()[0].id(), b.id());
    }

    #[test]
    fn a_bad_change_changes_nothing() {
        let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
        let twin = Arc::new(Backend::new("a", "127.0.0.1:3".parse().unwrap()));
        let error = web.update(|members| members.push(twin)).unwrap_err();
        assert_eq!(error, ClusterError::DuplicateName { name: "a".into() });
        assert_eq!(names(&web), ["a"]);
    }

    #[test]
    fn a_bad_address_names_the_backend() {
        let error =
            Cluster::builder("web").backend("a", "nowhere").build().unwrap_err().to_string();
        assert!(error.contains("backend a") && error.contains("nowhere"), "{error}");
    }

    #[test]
    fn only_news_is_published() {
        let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
        let a = Arc::clone(&web.table().members()[0]);
        assert!(!web.set_up(&a, true));
        assert!(web.set_up(&a, false));
        assert_eq!(web.table().eligible_count(), 0);
        assert!(web.set_up(&a, true));
        assert_eq!(web.table().eligible_count(), 1);
    }
}
