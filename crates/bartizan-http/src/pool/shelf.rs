//! Where unused connections lie.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use bartizan_balance::BackendId;

/// A stack of entries per backend, in as many parts as there are cores.
///
/// A thread puts into its own part and takes from there first, so on a worker's own shelf the locks
/// are never contended. The entry put last is taken first: the others may expire.
pub(crate) struct Shelf<T> {
    parts: Box<[Mutex<Part<T>>]>,
    cap: usize,
}

type Part<T> = HashMap<BackendId, Vec<T>, BuildHasherDefault<IdHasher>>;

impl<T> Shelf<T> {
    /// Holds up to `cap` entries per backend and part.
    pub(crate) fn new(cap: usize) -> Self {
        let parts = thread::available_parallelism().map_or(1, usize::from).min(MAX_PARTS);
        Self { parts: (0..parts).map(|_| Mutex::default()).collect(), cap }
    }

    pub(crate) fn take(&self, id: BackendId) -> Option<T> {
        let own = own_part();
        let count = self.parts.len();
        (0..count).find_map(|i| lock(&self.parts[(own + i) % count]).get_mut(&id)?.pop())
    }

    /// Puts an entry in; gives it back when its stack is full.
    pub(crate) fn put(&self, id: BackendId, entry: T) -> Option<T> {
        let mut part = lock(&self.parts[own_part() % self.parts.len()]);
        let stack = part.entry(id).or_default();
        if stack.len() < self.cap {
            stack.push(entry);
            return None;
        }
        Some(entry)
    }

    /// Takes out what `keep` does not want, and forgets backends that have nothing left.
    pub(crate) fn extract(&self, mut keep: impl FnMut(&mut T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for part in &self.parts {
            lock(part).retain(|_, stack| {
                taken.extend(stack.extract_if(.., |entry| !keep(entry)));
                !stack.is_empty()
            });
        }
        taken
    }
}

fn lock<T>(part: &Mutex<Part<T>>) -> MutexGuard<'_, Part<T>> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number for this thread, handed out in turn.
fn own_part() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<Option<usize>> = const { Cell::new(None) };
    }
    OWN.get().unwrap_or_else(|| {
        let own = NEXT.fetch_add(1, Ordering::Relaxed);
        OWN.set(Some(own));
        own
    })
}

/// Spreads numbers that count up. Nobody outside chooses them, so they need no keyed hash.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(GOLDEN).rotate_left(32);
    }
}

/// 2^64 divided by the golden ratio: Knuth's multiplicative hash.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A miss asks every part.
const MAX_PARTS: usize = 64;

#[cfg(test)]
mod tests {
    use bartizan_balance::Backend;

    use super::*;

    fn id() -> BackendId {
        Backend::new("a", "127.0.0.1:1".parse().unwrap()).id()
    }

    #[test]
    fn gives_back_the_last_one_first_and_only_of_that_backend() {
        let (shelf, a, b) = (Shelf::new(8), id(), id());
        for n in 0..3 {
            assert_eq!(shelf.put(a, n), None);
        }
        assert_eq!(shelf.take(b), None);
        assert_eq!(
            [shelf.take(a), shelf.take(a), shelf.take(a), shelf.take(a)],
            [Some(2), Some(1), Some(0), None]
        );
    }

    #[test]
    fn a_full_stack_takes_no_more_and_retain_makes_room() {
        let (shelf, a) = (Shelf::new(2), id());
        assert_eq!([shelf.put(a, 0), shelf.put(a, 1), shelf.put(a, 2)], [None, None, Some(2)]);
        assert_eq!(shelf.extract(|n| *n != 0), [0]);
        assert_eq!(shelf.put(a, 3), None);
        assert_eq!([shelf.take(a), shelf.take(a), shelf.take(a)], [Some(3), Some(1), None]);
    }

    #[test]
    fn another_threads_entry_is_found() {
        let (shelf, a) = (Shelf::new(2), id());
        thread::scope(|scope| scope.spawn(|| shelf.put(a, 7)).join().unwrap());
        assert_eq!(shelf.take(a), Some(7));
    }
}
