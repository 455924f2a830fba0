//! Loading again when files change.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::Shared;
use super::config::Config;
use super::error::StoreError;
use super::stamp::Stamp;

/// Keeps the thread that watches; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    tell: Sender<Event>,
}

#[derive(Debug)]
enum Event {
    Changed,
    Stop,
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Fails only if the thread has ended.
        let _ = self.tell.send(Event::Stop);
    }
}

/// How all files of a store look.
pub(crate) fn look(config: &Config) -> Look {
    let mut directories = BTreeSet::new();
    Look(stamps(&config.paths(), &mut directories))
}

/// Starts the thread. It loads again at once if the files do not look as they did when `seen` was
/// taken, before they were loaded.
pub(crate) fn start(store: &Arc<Shared>, seen: Look) -> Result<Watching, StoreError> {
    let (tell, events) = channel();
    let changed = tell.clone();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is an event as well. An error may stand for events that were lost.
        if !event.is_ok_and(|event| event.kind.is_access() && !is_written(&event)) {
            // Fails only while everything ends.
            let _ = changed.send(Event::Changed);
        }
    });
    let watcher = watcher.map_err(|error| StoreError::Watch(error.to_string()))?;
    let paths = store.config.paths();
    let mut eye = Eye { watcher, watched: BTreeSet::new(), paths };
    // Before this returns, so that no change after that goes unnoticed.
    eye.look();
    let store = Arc::downgrade(store);
    thread::Builder::new()
        .name("bartizan-certs".to_owned())
        .spawn(move || run(&store, &events, eye, seen))
        .map_err(|error| StoreError::Watch(error.to_string()))?;
    Ok(Watching { tell })
}

/// A file was closed by somebody who had written to it.
fn is_written(event: &notify::Event) -> bool {
    use notify::event::{AccessKind, AccessMode, EventKind};
    matches!(event.kind, EventKind::Access(AccessKind::Close(AccessMode::Write)))
}

fn run(store: &Weak<Shared>, events: &Receiver<Event>, mut eye: Eye, mut seen: Look) {
    loop {
        // Before reading: what changes meanwhile is seen the next time.
        let now = eye.look();
        if now != seen {
            let Some(store) = store.upgrade() else { return };
            // A failure is logged there. It is tried again at the next change.
            let _ = store.reload();
            seen = now;
        }
        match events.recv_timeout(LOOK_EVERY) {
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Event::Changed) => {
                if !settle(events) {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Waits until nothing has changed for a moment, but not for ever. Whether to go on.
fn settle(events: &Receiver<Event>) -> bool {
    for _ in 0..MOST_QUIETS {
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
            stamps.extend([path.clone()].into_iter().chain(beside(path)).map(look_at));
        }
    }
    stamps
}

/// The directories in which a change can make `path` another file: that of each link on its way.
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
        found.push(parent);
        match next {
            Ok(next) => at = next,
            Err(_) => break,
        }
    }
    found
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<_> = found.map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn beside(path: &Path) -> impl Iterator<Item = PathBuf> {
    let with = |extension: &str| {
        let mut appended = path.as_os_str().to_owned();
        appended.push(".");
        appended.push(extension);
        [PathBuf::from(appended), path.with_extension(extension)]
    };
    SIDE_FILES.map(with).into_iter().flatten()
}

fn look_at(path: PathBuf) -> (PathBuf, Option<Stamp>) {
    let stamp = Stamp::look(&path);
    (path, stamp)
}

const SIDE_FILES: [&str; 5] = ["key", "ocsp", "issuer", "ecdsa", "rsa"];

/// A certificate and its key are written one after the other; nobody takes longer in between.
const QUIET: Duration = Duration::from_millis(100);

/// So that a directory in which something changes all the time is read every two seconds.
const MOST_QUIETS: usize = 20;

/// Network file systems tell of no changes that others make. A look costs a microsecond a file.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The system grants a user 8,192 of them on small machines, for all programs.
const MOST_WATCHES: usize = 1_024;

/// As many links as Linux follows.
const MOST_LINKS: usize = 40;
