//! What is read from files, checked, and replaced as a whole.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use bartizan_net::{ErrorChain, Superseded};

use crate::watch::{self, Look, Reload, Watching};
use crate::{BadSpiffeId, LoadError, SystemRootsError};

/// Where a value comes from.
pub(crate) trait Source: Send + Sync + 'static {
    type Value: Send + Sync + 'static;

    /// What it is, for the log: `authorities of backends`.
    const WHAT: &'static str;

    /// Every file that a value is made of.
    fn paths(&self) -> Vec<PathBuf>;

    /// Reads the files and makes a value of them.
    fn load(&self) -> Result<Self::Value, SourceError>;

    /// Whether two values mean the same, so that the first may stay in force.
    fn is_same(a: &Self::Value, b: &Self::Value) -> bool;
}

/// One value, and whether there is a newer one.
pub(crate) struct Generation<T> {
    pub(crate) value: T,
    pub(crate) number: u64,
    pub(crate) superseded: Superseded,
}

/// The generations of a value. Clones are handles on the same ones.
pub(crate) struct Generations<S: Source> {
    shared: Arc<Shared<S>>,
}

struct Shared<S: Source> {
    source: S,
    current: ArcSwap<Generation<S::Value>>,
    // Held while a generation is made; the text of the last failure.
    failure: Mutex<Option<String>>,
    watching: OnceLock<Watching>,
}

impl<S: Source> Generations<S> {
    /// Reads the first one.
    pub(crate) fn load(source: S) -> Result<Self, SourceError> {
        let first = source.load()?;
        Ok(Self::starting_with(first, source))
    }

    /// The first one is at hand, as it is for a source without files.
    pub(crate) fn starting_with(value: S::Value, source: S) -> Self {
        let first = Generation { value, number: 1, superseded: Superseded::new() };
        let current = ArcSwap::from_pointee(first);
        let (failure, watching) = (Mutex::default(), OnceLock::new());
        Self { shared: Arc::new(Shared { source, current, failure, watching }) }
    }

    /// Reads the first one, and a further one whenever a file changes, until the last handle is gone.
    pub(crate) fn watch(source: S) -> Result<Self, SourceError> {
        let seen = watch::look(&source.paths());
        let generations = Self::load(source)?;
        generations.watch_from(seen)?;
        Ok(generations)
    }

    fn watch_from(&self, seen: Look) -> Result<(), SourceError> {
        if !self.shared.source.paths().is_empty() {
            let watching = watch::start(&self.shared, seen).map_err(SourceError::Watch)?;
            let _ = self.shared.watching.set(watching);
        }
        Ok(())
    }

    /// The one in force.
    pub(crate) fn current(&self) -> Arc<Generation<S::Value>> {
        self.shared.current.load_full()
    }

    /// Reads the files again. If they mean the same as before, the generation stays; its number is
    /// returned.
    pub(crate) fn reload(&self) -> Result<u64, SourceError> {
        self.shared.load_again()
    }

    pub(crate) fn source(&self) -> &S {
        &self.shared.source
    }
}

impl<S: Source> Shared<S> {
    fn load_again(&self) -> Result<u64, SourceError> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = self.current.load_full();
        let value = match self.source.load() {
            Ok(value) => value,
            Err(error) => {
                let text = ErrorChain(&error).to_string();
                // The same error once: a watch tries again and again.
                if failure.as_ref() != Some(&text) {
                    let generation = previous.number;
                    tracing::error!(error = %text, generation, "{} not loaded, the last ones stay in force", S::WHAT);
                }
                *failure = Some(text);
                return Err(error);
            }
        };
        *failure = None;
        if S::is_same(&previous.value, &value) {
            return Ok(previous.number);
        }
        let number = previous.number + 1;
        let next = Generation { value, number, superseded: Superseded::new() };
        self.current.store(Arc::new(next));
        // Afterwards: whoever sees the flag finds the new one.
        previous.superseded.set();
        tracing::info!(generation = number, "{} loaded", S::WHAT);
        Ok(number)
    }
}

impl<S: Source> Reload for Shared<S> {
    fn paths(&self) -> Vec<PathBuf> {
        self.source.paths()
    }

    fn reload(&self) -> bool {
        self.load_again().is_ok()
    }
}

impl<S: Source> Clone for Generations<S> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S: Source> fmt::Debug for Generations<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generations")
            .field("what", &S::WHAT)
            .field("current", &self.shared.current.load().number)
            .finish_non_exhaustive()
    }
}

/// What TLS towards backends is made of cannot be read, or not be watched. The operator's fault.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file is at fault.
    #[error(transparent)]
    Load(#[from] LoadError),

    /// The operating system trusts nobody.
    #[error(transparent)]
    SystemRoots(#[from] SystemRootsError),

    /// Nobody is named who could vouch for a backend.
    #[error(
        "no roots to verify backends by; name a file of authorities, take those of the system, or \
         choose to go by pins alone"
    )]
    NoRoots,

    /// To go by pins alone takes one at least.
    #[error("no pin to verify backends by; add the SHA-256 digest of the backend's public key")]
    NoPins,

    /// The name that certificates are to be for is none.
    #[error(
        "`{name}` is neither a host name nor an IP address, so no certificate is for it; correct \
         it (without a wildcard, a port or brackets)"
    )]
    BadName {
        /// The name.
        name: String,
    },

    /// A SPIFFE ID or trust domain is none.
    #[error(transparent)]
    BadSpiffeId(#[from] BadSpiffeId),

    /// Certificates are to be judged by their names and by their SPIFFE IDs.
    #[error(
        "both names and SPIFFE IDs are set to verify backends by, of which one decides; leave out \
         the others"
    )]
    NamesAndSpiffe,

    /// Changes of files cannot be noticed.
    #[error(
        "the files cannot be watched for changes: {0}; raise fs.inotify.max_user_watches, or load \
         without watching"
    )]
    Watch(String),
}

#[cfg(test)]
mod tests {
    use bartizan_testkit::TestDir;

    use super::*;
    use crate::load::{self, LoadProblem};

    struct Text(PathBuf);

    impl Source for Text {
        type Value = Vec<u8>;
        const WHAT: &'static str = "texts";

        fn paths(&self) -> Vec<PathBuf> {
            vec![self.0.clone()]
        }

        fn load(&self) -> Result<Vec<u8>, SourceError> {
            let text = load::read_bytes(&self.0)?;
            if text.starts_with(b"bad") {
                return Err(LoadError::new(&self.0, None, LoadProblem::NoCertificate).into());
            }
            Ok(text.to_vec())
        }

        fn is_same(a: &Vec<u8>, b: &Vec<u8>) -> bool {
            a == b
        }
    }

    #[test]
    fn what_is_bad_or_the_same_leaves_the_generation_in_force() {
        let dir = TestDir::new();
        let path = dir.write("text", "one");
        let texts = Generations::load(Text(path)).unwrap();
        let first = texts.current();
        assert_eq!(texts.reload().unwrap(), 1, "the same");
        dir.write("text", "bad");
        assert!(texts.reload().is_err());
        assert!(!first.superseded.is_set() && texts.current().value == b"one");
        dir.write("text", "two");
        assert_eq!(texts.reload().unwrap(), 2);
        assert!(first.superseded.is_set() && texts.current().value == b"two");
        assert!(!texts.current().superseded.is_set());
    }

    #[test]
    fn a_file_that_is_replaced_is_noticed() {
        let dir = TestDir::new();
        let texts = Generations::watch(Text(dir.write("text", "one"))).unwrap();
        dir.write("next", "two");
        std::fs::rename(dir.join("next"), dir.join("text")).unwrap();
        let deadline = std::time::Duration::from_secs(20);
        let end = tokio::time::Instant::now() + deadline;
        while texts.current().number == 1 {
            assert!(tokio::time::Instant::now() < end, "not noticed in {deadline:?}");
            std::thread::yield_now();
        }
        assert_eq!(texts.current().value, b"two");
    }
}
