//! HAProxy, as whatever a configuration makes of it.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use bartizan_testkit::{TestDir, refused_addr};
use socket2::{Domain, Socket, Type};

use crate::program::{Running, listening};

/// A running HAProxy.
#[derive(Debug)]
pub struct Haproxy {
    dir: TestDir,
    _running: Running,
}

impl Haproxy {
    /// Starts it with these sections after a `global` and a `defaults` one, which is in mode tcp and
    /// logs. All of its ports are open when this returns.
    ///
    /// # Panics
    ///
    /// If HAProxy is missing, does not take the configuration, or does not listen.
    pub async fn start(sections: &str) -> Self {
        // Without a look at the ports that matter: some would log a connection without a byte.
        let ready = refused_addr();
        let dir = TestDir::new();
        let config = format!("{START}{sections}\nfrontend ready\n    no log\n    bind {ready}\n");
        let path = dir.write("haproxy.cfg", config);
        // Debian keeps it where a plain user's PATH does not look.
        let installed = ["/usr/sbin/haproxy", "haproxy"];
        let program = installed.into_iter().find(|path| fs::exists(path).unwrap());
        let mut command = Command::new(program.unwrap_or("haproxy"));
        command.args(["-db", "-f"]).arg(path);
        let log = File::create(dir.join("haproxy.log")).unwrap();
        let running = Running::start(command.stdout(log).stderr(Stdio::inherit()));
        listening(ready).await;
        Self { dir, _running: running }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("haproxy.log")).unwrap()
    }
}

/// A port of `ip` that stays free for the one who is told to listen there.
///
/// # Panics
///
/// If this machine has no such address.
pub fn free_addr(ip: impl Into<IpAddr>) -> SocketAddr {
    let addr = SocketAddr::new(ip.into(), 0);
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&addr.into()).unwrap();
    let addr = socket.local_addr().unwrap().as_socket().unwrap();
    // Bound but not listening, for as long as the test runs: the system gives it to nobody else.
    std::mem::forget(socket);
    addr
}

const START: &str = "global
    log stdout format raw local0
defaults
    mode tcp
    log global
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    timeout check 10s
";
