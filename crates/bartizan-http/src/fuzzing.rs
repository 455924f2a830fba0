//! What is private, for the fuzz targets in `fuzz/`. Compiled with `--cfg fuzzing` alone, which
//! cargo-fuzz and `fuzz/run` set; no part of the API.

use bartizan_net::fold_host;

use crate::host_guard::bare;
use crate::pool::{Announced, FrameReader};

/// The host that a connection is asked for by an authority or a `Host` field.
pub fn host(authority: &[u8]) -> Option<String> {
    bare(authority).map(|host| fold_host(host).into_owned())
}

/// What an HTTP/2 backend announces in these bytes, which come in these parts: the limit of streams
/// that its settings have, or `None` for that it goes away.
pub fn announced<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<Option<Option<u32>>> {
    let (mut reader, mut found) = (FrameReader::default(), Vec::new());
    for part in parts {
        reader.read(part, |announced| {
            found.push(match announced {
                Announced::Settings { max_streams } => Some(max_streams),
                Announced::GoAway => None,
            });
        });
    }
    found
}
