//! Which side of a direction has failed.

use std::io;

#[derive(Debug)]
pub(super) enum Failed {
    Read(io::Error),
    Write(io::Error),
}
