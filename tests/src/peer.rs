//! Peers in Python that do as a test says.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// A gRPC server of grpcio, with its health service alone. The server as a whole is serving.
#[derive(Debug)]
pub struct GrpcHealth {
    addr: SocketAddr,
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl GrpcHealth {
    /// Starts it on a port of loopback.
    ///
    /// # Panics
    ///
    /// If Python or one of its packages is missing; it says which on standard error.
    pub fn start() -> Self {
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/health_server.py"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut health = Self { addr: (Ipv4Addr::LOCALHOST, 0).into(), child, answers };
        let port = health.answer();
        health.addr.set_port(port.parse().unwrap_or_else(|_| panic!("a port, not {port:?}")));
        health
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Says from now on that `service` is serving, or that it is not. The server as a whole is `-`.
    ///
    /// # Panics
    ///
    /// If the server has ended.
    pub fn set(&mut self, service: &str, serving: bool) {
        let status = if serving { "SERVING" } else { "NOT_SERVING" };
        writeln!(self.child.stdin.as_mut().unwrap(), "{service} {status}").unwrap();
        assert_eq!(self.answer(), "ok");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for GrpcHealth {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
