//! Loading again when files change.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::mpsc::TrySendError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use bartizan_net::clock::{Clock, SystemClock};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use crate::stamp::Stamp;
use crate::store::may_belong_to;

/// Something made of files, which can be made anew.
pub(crate) trait Reload: Send + Sync + 'static {
    /// Every file and directory that it is made of.
    fn paths(&self) -> Vec<PathBuf>;

    /// Makes it anew, and says whether that went well. What is wrong is logged there.
    fn reload(&self) -> bool;
}

/// Keeps the thread that watches; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    tell: SyncSender<Event>,
}

#[cfg(test)]
impl Watching {
    /// Tells later whether the thread has ended.
    pub(crate) fn has_ended(&self) -> impl Fn() -> bool + use<> {
        let tell = self.tell.clone();
        move || matches!(tell.try_send(Event::Changed), Err(TrySendError::Disconnected(_)))
    }
}

#[derive(Debug)]
enum Event {
    Changed,
    Stop,
}

impl Drop for Watching {
    fn drop(&mut self) {
        // If there is no room, the thread wakes for what is there, and finds the store gone.
        let _ = self.tell.try_send(Event::Stop);
    }
}

/// How all files of `paths` look.
pub(crate) fn look(paths: &[PathBuf]) -> Look {
    let mut directories = BTreeSet::new();
    Look(stamps(paths, &mut directories))
}

/// Starts the thread. It loads again at once if the files do not look as they did when `seen` was
/// taken, before they were loaded.
///
/// # Errors
///
/// What the system says if it has no watches or threads left.
pub(crate) fn start<S: Reload>(store: &Arc<S>, seen: Look) -> Result<Watching, String> {
    let (tell, events) = sync_channel(1);
    let changed = tell.clone();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is an event as well. An error may stand for events that were lost.
        if !event.is_ok_and(|event| event.kind.is_access() && !is_written(&event)) {
            // If there is no room, the thread is about to look anyway.
            let _ = changed.try_send(Event::Changed);
        }
    });
    let watcher = watcher.map_err(|error| error.to_string())?;
    let paths = store.paths();
    let mut eye = Eye { watcher, watched: BTreeSet::new(), paths };
    // Before this returns, so that no change after that goes unnoticed.
    eye.look();
    let store = Arc::downgrade(store);
    thread::Builder::new()
        .name("bartizan-certs".to_owned())
        .spawn(move || run(&store, &events, eye, seen))
        .map_err(|error| error.to_string())?;
    Ok(Watching { tell })
}

/// A file was closed by somebody who had written to it.
fn is_written(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}

fn run<S: Reload>(store: &Weak<S>, events: &Receiver<Event>, mut eye: Eye, mut seen: Look) {
    // A file may be in order at another time although nothing about it changes: its date comes, or
    // the system had no descriptor left.
    let mut failed = false;
    loop {
        if store.strong_count() == 0 {
            return;
        }
        // Before reading: what changes meanwhile is seen the next time.
        let now = eye.look();
        if failed || now != seen {
            let Some(store) = store.upgrade() else { return };
            failed = !store.reload();
            seen = now;
        }
        match events.recv_timeout(LOOK_EVERY) {
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Event::Changed) => {
                if !settle(events, SystemClock) {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Waits until nothing has changed for a moment, but not for ever. Whether to go on.
fn settle(events: &Receiver<Event>, clock: impl Clock) -> bool {
    let since = clock.now();
    // A clock that is set back ends the wait, too.
    while clock.now().duration_since(since).is_ok_and(|waited| waited < LONGEST_WAIT) {
        match events.recv_timeout(QUIET) {
            Ok(Event::Changed) => {}
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => return true,
        }
    }
    true
}

/// What is looked at.
struct Eye {
    watcher: RecommendedWatcher,
    watched: BTreeSet<PathBuf>,
    paths: Vec<PathBuf>,
}

/// How files looked at some time; equal if nothing has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Look(Vec<(PathBuf, Option<Stamp>)>);

impl Eye {
    /// Looks at all files, and watches their directories if they are not watched yet.
    fn look(&mut self) -> Look {
        let mut directories = BTreeSet::new();
        let stamps = stamps(&self.paths, &mut directories);
        self.watch(directories);
        Look(stamps)
    }

    fn watch(&mut self, directories: BTreeSet<PathBuf>) {
        let wanted: BTreeSet<_> = directories.into_iter().take(MOST_WATCHES).collect();
        for gone in self.watched.difference(&wanted) {
            // Fails if the directory went first.
            let _ = self.watcher.unwatch(gone);
        }
        // One that was deleted and made again needs a new watch; to ask twice does no harm.
        let ask = |path: &PathBuf| self.watcher.watch(path, RecursiveMode::NonRecursive).is_ok();
        // One that is not there, or too many: they are looked at from time to time all the same.
        self.watched = wanted.into_iter().filter(ask).collect();
    }
}

/// Looks at all files of `paths`, and notes the directories in which something may change them.
fn stamps(paths: &[PathBuf], directories: &mut BTreeSet<PathBuf>) -> Vec<(PathBuf, Option<Stamp>)> {
    let mut stamps = Vec::new();
    for path in paths {
        directories.extend(parents(path));
        if path.is_dir() {
            directories.insert(path.clone());
            for file in files_in(path) {
                if fs::symlink_metadata(&file).is_ok_and(|meta| meta.is_symlink()) {
                    directories.extend(parents(&file));
                }
                stamps.push(look_at(file));
            }
        } else {
            // A side file may come or go.
            stamps.extend(may_belong_to(path).into_iter().map(look_at));
        }
    }
    stamps
}

/// The directories in which a change can make `path` another file: that of each link on its way,
/// and those in which the way to it can come back.
fn parents(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut at = path.to_path_buf();
    for _ in 0..MOST_LINKS {
        let parent = match at.parent() {
            Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
            Some(parent) => parent.to_path_buf(),
            None => break,
        };
        let next = fs::read_link(&at).map(|to| parent.join(to));
        // A link in the way to it, as in Kubernetes: `..data` beside it is what is turned.
        if let Ok(real) = fs::canonicalize(&parent) {
            found.push(real);
        }
        found.extend(turns(&parent));
        found.push(parent);
        match next {
            Ok(next) => at = next,
            Err(_) => break,
        }
    }
    found
}

/// Where a link on the way to `directory` lies, or a part of that way is missing.
fn turns(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let may_turn = |at: &&Path| fs::symlink_metadata(at).map_or(true, |meta| meta.is_symlink());
    let places = directory.ancestors().filter(may_turn).filter_map(Path::parent);
    places.map(|place| if place.as_os_str().is_empty() { Path::new(".") } else { place }.into())
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = found.map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn look_at(path: PathBuf) -> (PathBuf, Option<Stamp>) {
    let stamp = Stamp::look(&path);
    (path, stamp)
}

/// A certificate and its key are written one after the other; nobody takes longer in between.
const QUIET: Duration = Duration::from_millis(100);

/// A directory in which something changes all the time is read every two seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Network file systems tell of no changes that others make. A look costs a microsecond a file.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The system grants a user 8,192 of them on small machines, for all programs.
const MOST_WATCHES: usize = 1_024;

/// As many links as Linux follows.
const MOST_LINKS: usize = 40;

#[cfg(test)]
mod tests {
    use bartizan_testkit::TestDir;

    use super::*;

    /// Goes on by some time whenever it is asked.
    #[derive(Debug)]
    struct Ticking(std::sync::atomic::AtomicU64);

    impl Clock for Ticking {
        fn now(&self) -> std::time::SystemTime {
            let millis = self.0.fetch_add(5, std::sync::atomic::Ordering::Relaxed);
            std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
        }
    }

    #[test]
    fn a_burst_is_waited_out_but_not_for_ever() {
        let (tell, events) = sync_channel(1_000);
        for _ in 0..200 {
            tell.send(Event::Changed).unwrap();
        }
        assert!(settle(&events, Ticking(0.into())));
        assert!(events.try_recv().is_err(), "a second of events, all of them taken");
        for _ in 0..1_000 {
            tell.send(Event::Changed).unwrap();
        }
        assert!(settle(&events, Ticking(0.into())));
        assert!(events.try_recv().is_ok(), "given up after two seconds");
        while events.try_recv().is_ok() {}
        tell.send(Event::Stop).unwrap();
        assert!(!settle(&events, Ticking(0.into())));
    }

    #[test]
    fn side_files_of_a_bundle_are_looked_at() {
        let dir = TestDir::new();
        dir.write("site.pem.rsa", "");
        let paths = [dir.join("site.pem")];
        let before = look(&paths);
        for file in ["site.pem.rsa.ocsp", "site.pem.ecdsa.key", "site.pem.issuer", "site.key"] {
            let written = dir.write(file, "new");
            assert_ne!(look(&paths), before, "{file}");
            fs::remove_file(written).unwrap();
            assert_eq!(look(&paths), before, "{file}");
        }
    }
}
