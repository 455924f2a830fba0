//! What is private, for the fuzz targets in `fuzz/`. Compiled with `--cfg fuzzing` alone, which
//! cargo-fuzz and `fuzz/run` set; no part of the API.

use crate::host_guard::{bare, fold};

/// The host that a connection is asked for by an authority or a `Host` field.
pub fn host(authority: &[u8]) -> Option<String> {
    bare(authority).map(|host| fold(host).into_owned())
}
