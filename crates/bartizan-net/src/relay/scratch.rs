//! The buffer that all copying on a thread shares.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::task::Poll;

use tokio::io::ReadBuf;

/// Lends `read` a buffer of [`SCRATCH`] bytes, whose contents mean nothing.
///
/// A buffer of its own for each stream would have to be small, and cost system calls, or large, and
/// cost memory while it is idle and page faults while it is young.
pub(super) fn with_scratch<T>(read: impl FnOnce(&mut ReadBuf<'_>) -> Poll<T>) -> Poll<T> {
    // Taken out meanwhile: a stream that is itself a relay's finds none and makes its own.
    let mut bytes = SCRATCH.take().unwrap_or_else(|| Box::new_uninit_slice(SCRATCH_LEN));
    let result = read(&mut ReadBuf::uninit(&mut bytes));
    SCRATCH.set(Some(bytes));
    result
}

thread_local! {
    static SCRATCH: Cell<Option<Box<[MaybeUninit<u8>]>>> = const { Cell::new(None) };
}

/// A quarter of the system calls of 16 KiB; more gains little, and falls out of the cache.
const SCRATCH_LEN: usize = 64 * 1024;
