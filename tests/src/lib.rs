//! Support for tests of the whole stack, which drive the `proxy` example as its users do.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`Site`] | an authority and a certificate for `localhost`, in files |
//! | [`Proxy`] | the running program: its address, its log, its end; another example as well |
//! | [`Client`] | an HTTP/1.1 or HTTP/2 connection to it |
//! | [`Visitor`] | one who connects again and again, and says how TLS is to be spoken |
//! | [`raw`] | the same byte by byte, for what a client library would not send |
//! | [`tcp`] | the same without TLS: connections and backends of which only the bytes count |
//! | [`TlsBackend`] | a backend with a certificate of its own, for what passes through |
//! | [`proxy_header`] | PROXY headers, written and read |
//! | [`Agent`], [`GrpcHealth`], [`Scripted`] | servers that say how they are, as a test wants |
//! | [`Freezer`] | what a backend behind it looks like when it is stopped where it is |
//! | [`program`] | other programs, run with a deadline; nginx, HAProxy, dnsmasq, wrk and Python beside it |
//!
//! What is started here listens on loopback, on ports that the system gave, and ends when its
//! handle is dropped. Nothing waits without a deadline.
//!
//! # Panics
//!
//! Everything here panics on failure: a test that cannot set its scene has failed.

#![allow(clippy::unwrap_used, reason = "test support: a panic here is a failed test")]

pub mod program;
pub mod proxy_header;
pub mod raw;
pub mod tcp;

mod agent;
mod binary;
mod client;
mod dnsmasq;
mod freezer;
mod group;
mod haproxy;
mod nginx;
mod peer;
mod process;
mod proxy;
mod scripted;
mod secure_backend;
mod site;
mod tls_backend;
mod visitor;
mod wait;
mod wrk;

pub use agent::Agent;
pub use binary::{example_binary, proxy_binary};
pub use client::{
    Answer, Client, Http, ReqBody, empty, fill, full, request, request_as, request_to,
};
pub use dnsmasq::Dnsmasq;
pub use freezer::Freezer;
pub use group::Group;
pub use haproxy::{Haproxy, free_addr};
pub use nginx::Nginx;
pub use peer::GrpcHealth;
pub use process::Stat;
pub use proxy::{Ended, Proxy};
pub use scripted::{Scripted, Step};
pub use secure_backend::{Presents, SecureBackend};
pub use site::Site;
pub use tls_backend::TlsBackend;
pub use visitor::Visitor;
pub use wait::{eventually, within};
pub use wrk::Wrk;

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
