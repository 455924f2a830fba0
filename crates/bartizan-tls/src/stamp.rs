//! How a file looked, to tell whether it has changed without reading it.

use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What tells a file from what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
    /// Where there are such things: device, inode, and when the inode was changed last.
    inode: Option<(u64, u64, i64, i64)>,
}

impl Stamp {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self { len: meta.len(), modified: meta.modified().ok(), inode: inode(meta) }
    }

    /// `None` if there is no such file.
    pub(crate) fn look(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }

    /// Whether the last change was so long before `now` that a further one must look different.
    ///
    /// File systems count time in ticks: two writes within one leave the same stamp.
    pub(crate) fn is_settled(&self, now: SystemTime) -> bool {
        let changed = self.inode.and_then(|(.., secs, nanos)| {
            let since = Duration::new(u64::try_from(secs).ok()?, u32::try_from(nanos).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        });
        let long_ago = |time: SystemTime| now.duration_since(time).is_ok_and(|age| age >= TICKS);
        [changed, self.modified].into_iter().flatten().all(long_ago)
    }
}

/// One number for the looks of several files; `None` if one of them is not settled.
pub(crate) fn seal(stamps: &[Option<Stamp>], now: SystemTime) -> Option<u64> {
    if !stamps.iter().flatten().all(|stamp| stamp.is_settled(now)) {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    stamps.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(unix)]
fn inode(meta: &Metadata) -> Option<(u64, u64, i64, i64)> {
    use std::os::unix::fs::MetadataExt;
    Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

#[cfg(not(unix))]
fn inode(_: &Metadata) -> Option<(u64, u64, i64, i64)> {
    None
}

/// FAT has ticks of two seconds, more than any other.
const TICKS: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use bartizan_testkit::TestDir;

    use super::*;

    #[test]
    fn a_file_just_written_is_not_settled_and_is_a_while_later() {
        let dir = TestDir::new();
        let stamp = Stamp::look(&dir.write("a", "text"));
        let written = stamp.unwrap().modified.unwrap();
        assert_eq!(seal(&[stamp, None], written + Duration::from_secs(1)), None);
        let sealed = seal(&[stamp, None], written + Duration::from_secs(5));
        assert!(sealed.is_some());
        assert_ne!(seal(&[None, stamp], written + Duration::from_secs(5)), sealed);
        // A clock that was set back proves nothing.
        assert_eq!(seal(&[stamp], written - Duration::from_secs(60)), None);
        assert_eq!(Stamp::look(&dir.join("b")), None);
    }
}
