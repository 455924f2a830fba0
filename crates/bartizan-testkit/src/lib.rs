//! Test support for the bartizan crates: certificates, backends and transports to test against.
//!
//! | module | what it stands in for |
//! | --- | --- |
//! | [`ca`] | an authority, the certificates it issues, also expired and not yet valid ones, its revocation lists and OCSP responses |
//! | [`client_hellos`] | what real TLS clients say first, recorded |
//! | [`dir`] | a directory of files, gone when it is dropped |
//! | [`http_backend`] | a web server that behaves |
//! | [`misbehave`] | servers that refuse, hang, reset, lie or answer too early |
//! | [`flaky_io`] | a transport that trickles, or that fails after so many bytes |
//!
//! Everything listens on loopback, on ports that the system chooses, and stops when its handle is
//! dropped. What a server has seen is in its [`Counts`], and `until` waits for them, so that no
//! test has to sleep.
//!
//! # Panics
//!
//! Everything here panics on failure instead of returning an error: a test that cannot set its
//! scene has failed, and the panic says where.

#![allow(clippy::unwrap_used, reason = "test support: a panic here is a failed test")]

pub mod ca;
pub mod client_hellos;
pub mod dir;
pub mod flaky_io;
pub mod http_backend;
pub mod misbehave;

mod fill;
mod listen;
mod raw;

pub use ca::{Crl, KeyType, Leaf, Minted, Ocsp, OcspHash, TestCa};
pub use dir::TestDir;
pub use flaky_io::{FailAfter, Trickle};
pub use http_backend::{Head, HttpBackend};
pub use listen::Counts;
pub use misbehave::{Fault, Misbehaving, refused_addr};
