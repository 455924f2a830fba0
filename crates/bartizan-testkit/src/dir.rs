//! A directory for the files of one test.

use std::fs;
use std::path::{Path, PathBuf};

/// A new, empty directory that is removed with all it holds when this is dropped.
#[derive(Debug)]
pub struct TestDir {
    dir: tempfile::TempDir,
}

impl TestDir {
    /// Creates the directory under the system's temporary one.
    ///
    /// # Panics
    ///
    /// If it cannot be created.
    #[expect(clippy::new_without_default, reason = "a default that touches the disk surprises")]
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("bartizan-").tempdir().unwrap() }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of `name` in the directory, whether it exists or not.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Writes `contents` to `name`, replacing what was there, and returns its absolute path.
    ///
    /// Folders in `name` are created. The file is written in place, so a concurrent reader may see
    /// half of it.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write(&self, name: impl AsRef<Path>, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).unwrap();
        }
        fs::write(&path, contents).unwrap();
        path
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::TestDir;

    #[test]
    fn a_file_holds_what_was_written_last() {
        let dir = TestDir::new();
        dir.write("a.pem", "first, and longer");
        let path = dir.write("a.pem", "second");

        assert_eq!(fs::read_to_string(path).unwrap(), "second");
    }

    #[test]
    fn folders_in_a_name_are_created() {
        let dir = TestDir::new();
        let path = dir.write("sites/one/cert.pem", "x");

        assert!(path.is_absolute());
        assert_eq!(path, dir.path().join("sites").join("one").join("cert.pem"));
        assert_eq!(fs::read(path).unwrap(), b"x");
    }

    #[test]
    fn nothing_is_left_when_it_is_dropped() {
        let dir = TestDir::new();
        let root = dir.path().to_owned();
        dir.write("sites/cert.pem", "x");
        assert!(root.exists());

        drop(dir);

        assert!(!root.exists());
    }

    #[test]
    fn two_directories_are_apart() {
        let (one, two) = (TestDir::new(), TestDir::new());
        one.write("a", "1");

        assert!(!two.join("a").exists());
    }
}
