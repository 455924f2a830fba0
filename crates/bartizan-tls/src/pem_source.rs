//! Where PEM comes from: a file, or memory.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where PEM comes from: a file, which is read when it is needed and may be watched, or memory.
///
/// A path turns into one by itself: `"/etc/ssl/clients.pem".into()`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PemSource {
    path: Arc<Path>,
    /// In place of what is in the file. Then the path is but a name.
    memory: Option<Arc<[u8]>>,
}

impl PemSource {
    /// PEM text, or DER where that is taken, in memory. `name` stands for the file in errors.
    pub fn memory(name: &str, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { path: Path::new(name).into(), memory: Some(bytes.into()) }
    }

    /// The file; `None` for one in memory.
    pub fn path(&self) -> Option<&Path> {
        self.memory.is_none().then_some(&*self.path)
    }

    /// The file's path, or what stands for it in errors.
    pub(crate) fn name(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        self.memory.as_deref()
    }
}

impl From<&Path> for PemSource {
    fn from(path: &Path) -> Self {
        Self { path: path.into(), memory: None }
    }
}

impl From<PathBuf> for PemSource {
    fn from(path: PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

impl From<&PathBuf> for PemSource {
    fn from(path: &PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

impl From<&str> for PemSource {
    fn from(path: &str) -> Self {
        Self::from(Path::new(path))
    }
}

impl fmt::Debug for PemSource {
    /// Without the bytes: they may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.memory.is_some() { "Memory" } else { "File" };
        f.debug_tuple(kind).field(&self.path).finish()
    }
}
