//! How a part runs a future beside the one it is in.

use std::future::Future;

/// Runs a future to its end, apart from the caller.
///
/// [`TokioSpawn`] suits every runtime and needs futures that are `Send`. [`LocalSpawn`] takes any
/// future, on runtimes that stay on one thread, such as those of [`Workers`](crate::Workers).
pub trait Spawn<F> {
    /// Starts `future`.
    fn spawn(&self, future: F);
}

/// Spawns with `tokio::spawn`.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a unit struct is its own constructor")]
pub struct TokioSpawn;

impl<F> Spawn<F> for TokioSpawn
where
    F: Future<Output = ()> + Send + 'static,
{
    fn spawn(&self, future: F) {
        drop(tokio::spawn(future));
    }
}

/// Spawns with `tokio::task::spawn_local`: inside a `LocalRuntime` or a `LocalSet` only.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "a unit struct is its own constructor")]
pub struct LocalSpawn;

impl<F> Spawn<F> for LocalSpawn
where
    F: Future<Output = ()> + 'static,
{
    fn spawn(&self, future: F) {
        drop(tokio::task::spawn_local(future));
    }
}
