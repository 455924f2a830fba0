//! What is private, for the fuzz targets in `fuzz/`. Compiled with `--cfg fuzzing` alone, which
//! cargo-fuzz and `fuzz/run` set; no part of the API.

use bartizan_net::fold_host;

use crate::host_guard::bare;

/// The host that a connection is asked for by an authority or a `Host` field.
pub fn host(authority: &[u8]) -> Option<String> {
    bare(authority).map(|host| fold_host(host).into_owned())
}
