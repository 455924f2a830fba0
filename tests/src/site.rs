//! Certificates for the program under test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bartizan_testkit::{Leaf, TestCa, TestDir};
use rustls::ClientConfig;

use crate::Proxy;

/// An authority of its own, and its certificate for `localhost` and 127.0.0.1 in a PEM bundle.
#[derive(Debug)]
pub struct Site {
    ca: TestCa,
    dir: TestDir,
    certs: PathBuf,
    ca_file: PathBuf,
}

impl Site {
    /// Mints both.
    #[expect(clippy::new_without_default, reason = "a default that touches the disk surprises")]
    pub fn new() -> Self {
        let ca = TestCa::new("bartizan test root");
        let leaf = ca.issue(Leaf::server("localhost").ip([127, 0, 0, 1]));
        let dir = TestDir::new();
        let certs = dir.write("site.pem", leaf.bundle_pem());
        let ca_file = dir.write("ca.pem", ca.cert_pem());
        Self { ca, dir, certs, ca_file }
    }

    /// The authority.
    pub fn ca(&self) -> &TestCa {
        &self.ca
    }

    /// A folder for more files.
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    /// The bundle of certificate and key.
    pub fn certs(&self) -> &Path {
        &self.certs
    }

    /// The authority's certificate.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// A client's configuration that trusts the authority.
    pub fn tls(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        self.ca.client_config(alpn)
    }

    /// The arguments of a proxy with these certificates and backends.
    pub fn args(&self, backends: &[SocketAddr]) -> Vec<String> {
        let mut args = vec!["--certs".to_owned(), self.certs.to_str().unwrap().to_owned()];
        for addr in backends {
            args.extend(["--backend".to_owned(), addr.to_string()]);
        }
        args
    }

    /// Starts a proxy with these certificates, backends and further flags.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn proxy(&self, backends: &[SocketAddr], flags: &[&str]) -> Proxy {
        let mut args = self.args(backends);
        args.extend(flags.iter().map(|&flag| flag.to_owned()));
        Proxy::start(&args)
    }
    /// Starts a proxy with other certificates than its own: files or directories.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn proxy_of(&self, certs: &[&Path], backend: SocketAddr, flags: &[&str]) -> Proxy {
        let mut args = vec!["--backend".to_owned(), backend.to_string()];
        for path in certs {
            args.extend(["--certs".to_owned(), path.to_str().unwrap().to_owned()]);
        }
        args.extend(flags.iter().map(|&flag| flag.to_owned()));
        Proxy::start(&args)
    }
}
