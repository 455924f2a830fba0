//! From what is configured to entries: listing directories, finding side files, reading in
//! parallel.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;
use std::{fs, io, thread};

use bartizan_net::HostPattern;
use zeroize::Zeroizing;

use super::entry::{Chains, Entry, Parts};
use super::notice::Notice;
use crate::load::{self, LoadError, LoadProblem};
use crate::pem;
use crate::stamp::{Stamp, seal};

/// Where certificates come from.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) place: Place,
    /// Instead of the certificates' own names.
    pub(crate) names: Option<Arc<[HostPattern]>>,
}

#[derive(Clone)]
pub(crate) enum Place {
    /// A file or a directory, whichever is there at the time.
    Path(PathBuf),
    /// PEM text, and what was made of it.
    Memory {
        name: Arc<str>,
        pem: Arc<Zeroizing<Vec<u8>>>,
        made: OnceLock<Arc<Entry>>,
    },
    Ready(Arc<Entry>),
}

impl Source {
    /// The path whose certificates have other names than their own.
    fn renamed(&self) -> Option<&Path> {
        match &self.place {
            Place::Path(path) if self.names.is_some() => Some(path),
            _ => None,
        }
    }
}

/// What entries are loaded by.
pub(crate) struct Loading<'a> {
    pub(crate) staple: bool,
    pub(crate) now: SystemTime,
    /// The time by the clock that files are dated by.
    pub(crate) settled: SystemTime,
    /// Entries that are served already, by their source.
    pub(crate) known: HashMap<&'a str, &'a Arc<Entry>>,
}

/// A certificate to be loaded.
enum Job<'a> {
    File { cert: PathBuf, beside: Beside, names: Option<&'a [HostPattern]>, in_directory: bool },
    Memory(&'a Source),
    Ready(&'a Arc<Entry>),
}

/// Buffers for what is read, used again for the next: they hold keys, and to overwrite them each
/// time would cost more than to parse them.
#[derive(Default)]
struct Buffers {
    cert: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    issuer: Zeroizing<Vec<u8>>,
    ocsp: Zeroizing<Vec<u8>>,
    base64: Zeroizing<Vec<u8>>,
}

/// Where the side files of a certificate are.
#[derive(Default)]
struct Beside {
    key: Option<PathBuf>,
    ocsp: Option<PathBuf>,
    issuer: Option<PathBuf>,
}

/// Loads all entries, in the order of their sources and, in a directory, of their names.
///
/// # Errors
///
/// The first that cannot be loaded, in this order, and how many more cannot.
pub(crate) fn load(
    sources: &[Source],
    loading: &Loading<'_>,
) -> Result<Vec<Arc<Entry>>, (LoadError, usize)> {
    let mut jobs = Vec::new();
    let mut seen = HashSet::new();
    // What is said of a file by itself counts before what is said of its directory.
    let by_itself: HashSet<&Path> = sources.iter().filter_map(Source::renamed).collect();
    for source in sources {
        let names = source.names.as_deref();
        match &source.place {
            Place::Path(path) => {
                list(path, names, &by_itself, &mut jobs, &mut seen).map_err(|error| (error, 0))?;
            }
            Place::Memory { .. } => jobs.push(Job::Memory(source)),
            Place::Ready(entry) => jobs.push(Job::Ready(entry)),
        }
    }
    let chains = Chains::default();
    let mut errors = Vec::new();
    let mut entries = Vec::with_capacity(jobs.len());
    let work = |buffers: &mut Buffers, job: &Job<'_>| job.load(loading, &chains, buffers);
    for loaded in in_parallel(&jobs, work) {
        match loaded {
            Ok(entry) => entries.push(entry),
            Err(error) => errors.push(error),
        }
    }
    let further = errors.len().saturating_sub(1);
    errors.into_iter().next().map_or(Ok(entries), |first| Err((first, further)))
}

impl Job<'_> {
    fn load(
        &self,
        loading: &Loading<'_>,
        chains: &Chains,
        buffers: &mut Buffers,
    ) -> Result<Arc<Entry>, LoadError> {
        match self {
            Self::Ready(entry) => Ok(Arc::clone(entry)),
            Self::Memory(Source { place: Place::Memory { name, pem, made }, names }) => {
                if let Some(made) = made.get() {
                    return Ok(Arc::clone(made));
                }
                let certs = pem::parse(Path::new(&**name), pem)?;
                let parts = Parts {
                    source: Arc::clone(name),
                    certs,
                    key: None,
                    signer: None,
                    issuers: None,
                    ocsp: None,
                    names: names.as_deref(),
                    seal: None,
                };
                let entry = checked(parts, false, loading, chains)?;
                Ok(Arc::clone(made.get_or_init(|| entry)))
            }
            Self::Memory(_) => unreachable!("only what is in memory is such a job"),
            Self::File { cert, beside, names, in_directory } => {
                if let Some(known) = loading.unchanged(cert, beside) {
                    return Ok(known);
                }
                let parts = read_parts(cert, beside, loading, buffers)?;
                checked(Parts { names: *names, ..parts }, *in_directory, loading, chains)
            }
        }
    }
}

impl Loading<'_> {
    /// The entry that is served from there already, if nothing about its files has changed and it
    /// would be the same if it were made again.
    fn unchanged(&self, cert: &Path, beside: &Beside) -> Option<Arc<Entry>> {
        let known = self.known.get(&*cert.to_string_lossy())?;
        let look = |side: &Option<PathBuf>| side.as_deref().and_then(Stamp::look);
        let stamps =
            [Stamp::look(cert), look(&beside.key), look(&beside.issuer), look(&beside.ocsp)];
        let same = known.seal.is_some()
            && known.seal == seal(&stamps, self.settled)
            && !known.notices.iter().any(Notice::may_pass);
        same.then(|| Arc::clone(known))
    }
}

/// Reads a certificate with what is beside it.
fn read_parts<'a>(
    cert: &Path,
    beside: &'a Beside,
    loading: &Loading<'_>,
    buffers: &'a mut Buffers,
) -> Result<Parts<'a>, LoadError> {
    let Buffers { cert: text, key, issuer, ocsp, base64 } = buffers;
    let read = |side: &Option<PathBuf>, buffer: &mut Vec<u8>| {
        let meta = side.as_deref().map(|side| load::read_into(side, buffer)).transpose()?;
        Ok::<_, LoadError>(meta.as_ref().map(Stamp::of))
    };
    let stamps = [
        Some(Stamp::of(&load::read_into(cert, text)?)),
        read(&beside.key, key)?,
        read(&beside.issuer, issuer)?,
        read(&beside.ocsp, ocsp)?,
    ];
    let certs = pem::parse_with(cert, text, base64)?;
    // A key in the file itself comes first, as with HAProxy.
    let own_key = !certs.keys.is_empty();
    let key =
        beside.key.as_ref().filter(|_| !own_key).map(|path| pem::parse_with(path, key, base64));
    let issuers = beside.issuer.as_ref().map(|path| pem::parse_with(path, issuer, base64));
    let response = beside.ocsp.as_deref().filter(|_| loading.staple);
    Ok(Parts {
        source: cert.to_string_lossy().into(),
        certs,
        key: key.transpose()?,
        signer: None,
        issuers: issuers.transpose()?,
        ocsp: response.map(|path| (path, ocsp.as_slice())),
        names: None,
        seal: seal(&stamps, loading.settled),
    })
}

/// Makes the entry. A certificate that is named by itself must be valid when it comes; one among
/// others in a directory is noted, and so is one that has expired while it was served: neither may
/// hold up everything else that is to be loaded.
fn checked(
    parts: Parts<'_>,
    in_directory: bool,
    loading: &Loading<'_>,
    chains: &Chains,
) -> Result<Arc<Entry>, LoadError> {
    let file = parts.certs.path.clone();
    let entry = Entry::new(parts, chains, loading.now)?;
    let is_served = loading.known.get(&*entry.source).is_some_and(|known| known.is_same(&entry));
    if !in_directory
        && !is_served
        && let Some(problem) = entry.date_problem(loading.now)
    {
        return Err(LoadError::new(&file, Some(entry.sections.0 as usize), problem));
    }
    Ok(Arc::new(entry))
}

/// Finds the files of `path`, if they have not been found before.
fn list<'a>(
    path: &Path,
    names: Option<&'a [HostPattern]>,
    by_itself: &HashSet<&Path>,
    jobs: &mut Vec<Job<'a>>,
    seen: &mut HashSet<PathBuf>,
) -> Result<(), LoadError> {
    let unreadable = |e| LoadError::new(path, None, LoadProblem::Unreadable(e));
    let is_dir = match fs::metadata(path) {
        Ok(meta) => meta.is_dir(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return list_bundle(path, names, by_itself, jobs, seen, e);
        }
        Err(e) => return Err(unreadable(e)),
    };
    if !is_dir {
        if names.is_none() && by_itself.contains(path) {
            return Ok(());
        }
        if seen.insert(path.to_owned()) {
            let beside = Beside::find(path, |side| side.is_file());
            jobs.push(Job::File { cert: path.to_owned(), beside, names, in_directory: false });
        }
        return Ok(());
    }
    let mut listed = HashSet::new();
    for found in fs::read_dir(path).map_err(unreadable)? {
        let found = found.map_err(unreadable)?;
        let file = found.file_type().map_err(unreadable)?;
        // A link to a directory is no certificate; one to a file is.
        if file.is_file() || (file.is_symlink() && found.path().is_file()) {
            listed.insert(found.file_name());
        }
    }
    let mut certs: Vec<&OsString> = listed.iter().filter(|name| is_cert(name)).collect();
    certs.sort();
    for name in certs {
        let cert = path.join(name);
        if !by_itself.contains(&*cert) && seen.insert(cert.clone()) {
            let is_listed =
                |side: &Path| side.file_name().is_some_and(|name| listed.contains(name));
            let beside = Beside::find(&cert, is_listed);
            jobs.push(Job::File { cert, beside, names, in_directory: true });
        }
    }
    Ok(())
}

/// HAProxy's way to name a certificate that exists once for each kind of key: `X` stands for
/// `X.ecdsa` and `X.rsa`.
fn list_bundle<'a>(
    path: &Path,
    names: Option<&'a [HostPattern]>,
    by_itself: &HashSet<&Path>,
    jobs: &mut Vec<Job<'a>>,
    seen: &mut HashSet<PathBuf>,
    error: io::Error,
) -> Result<(), LoadError> {
    let kinds = BUNDLE.map(|kind| appended(path, kind));
    let there: Vec<_> = kinds.into_iter().filter(|file| file.is_file()).collect();
    if there.is_empty() {
        return Err(LoadError::new(path, None, LoadProblem::Unreadable(error)));
    }
    there.iter().try_for_each(|file| list(file, names, by_itself, jobs, seen))
}

impl Beside {
    /// The side files of `cert`, whose own name they have with something appended, or with another
    /// extension.
    fn find(cert: &Path, exists: impl Fn(&Path) -> bool) -> Self {
        let find = |extension: &str| {
            let places = [appended(cert, extension), cert.with_extension(extension)];
            places.into_iter().find(|side| side != cert && exists(side))
        };
        let [key, ocsp, issuer] = BESIDE.map(find);
        Self { key, ocsp, issuer }
    }
}

/// Every file that may be looked at for the certificate `path`, that itself included.
pub(crate) fn may_belong_to(path: &Path) -> Vec<PathBuf> {
    let kinds = BUNDLE.map(|kind| appended(path, kind));
    let certs = [path.to_owned()].into_iter().chain(kinds);
    let with_sides = |cert: PathBuf| {
        let sides = BESIDE.map(|side| [appended(&cert, side), cert.with_extension(side)]);
        sides.into_iter().flatten().chain([cert]).collect::<Vec<_>>()
    };
    certs.flat_map(with_sides).collect()
}

fn appended(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// Whether a file of a directory is a certificate, by its name.
fn is_cert(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    let extension = Path::new(name).extension();
    !hidden && !extension.is_some_and(|e| SIDE_FILES.iter().any(|side| e == *side))
}

/// Does `work` on each of `items`, on all cores, and keeps their order. Each core has buffers.
fn in_parallel<T: Sync, R: Send, B: Default>(
    items: &[T],
    work: impl Fn(&mut B, &T) -> R + Sync,
) -> Vec<R> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = cores.min(items.len() / WORTH_A_THREAD + 1);
    if threads == 1 {
        let mut buffers = B::default();
        return items.iter().map(|item| work(&mut buffers, item)).collect();
    }
    let chunks: Vec<&[T]> = items.chunks(WORTH_A_THREAD).collect();
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, Vec<R>)> = thread::scope(|scope| {
        let take = || {
            let (mut mine, mut buffers) = (Vec::new(), B::default());
            while let at = next.fetch_add(1, Ordering::Relaxed)
                && let Some(chunk) = chunks.get(at)
            {
                let done = chunk.iter().map(|item| work(&mut buffers, item)).collect();
                mine.push((at, done));
            }
            mine
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(take)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        // A panic in there is one here.
        joined
            .flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().flat_map(|(_, results)| results).collect()
}

/// What can lie beside a certificate.
const BESIDE: [&str; 3] = ["key", "ocsp", "issuer"];

/// Names that HAProxy passes over in a directory: `crt` in its manual.
const SIDE_FILES: [&str; 4] = ["key", "issuer", "ocsp", "sctl"];

/// The preferred kind last would be the default's; the order is that of a directory.
const BUNDLE: [&str; 2] = ["ecdsa", "rsa"];

/// A certificate takes some 30 us, a thread about as much to start.
const WORTH_A_THREAD: usize = 64;
