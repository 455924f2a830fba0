//! dnsmasq, a DNS server that knows what a test tells it.

use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use bartizan_testkit::TestDir;

use crate::free_addr;
use crate::program::{Running, listening};

/// A DNS server for all names under `internal`, on a port of 127.0.0.1. Records have a TTL of a
/// second.
#[derive(Debug)]
pub struct Dnsmasq {
    dir: TestDir,
    addr: SocketAddr,
    options: Vec<String>,
    running: Running,
}

impl Dnsmasq {
    /// Starts it with these lines of `ADDRESS NAME`, as in a file of hosts, and these options beside.
    ///
    /// # Panics
    ///
    /// If dnsmasq is missing, does not take the options, or does not listen.
    pub async fn start(hosts: &str, options: &[String]) -> Self {
        let dir = TestDir::new();
        dir.write("hosts", hosts);
        let addr = free_addr(Ipv4Addr::LOCALHOST);
        let running = run(&dir, addr, options).await;
        Self { dir, addr, options: options.to_vec(), running }
    }

    /// Where it answers.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Knows these hosts from now on, and no others.
    ///
    /// # Panics
    ///
    /// If it is not running.
    pub fn hosts(&self, hosts: &str) {
        self.dir.write("hosts", hosts);
        self.running.signal("HUP");
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Starts it again on the same port, after [`kill`](Self::kill), with the same options.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub async fn restart(&mut self) {
        self.running = run(&self.dir, self.addr, &self.options).await;
    }

    /// The options for a service at `host`, of priority and weight.
    pub fn srv(name: &str, host: &str, port: u16, priority: u16, weight: u16) -> String {
        format!("--srv-host={name},{host},{port},{priority},{weight}")
    }

    /// Other options at the next [`restart`](Self::restart).
    pub fn set_options(&mut self, options: &[String]) {
        self.options = options.to_vec();
    }
}

async fn run(dir: &TestDir, addr: SocketAddr, options: &[String]) -> Running {
    // Debian keeps it where a plain user's PATH does not look.
    let installed = ["/usr/sbin/dnsmasq", "dnsmasq"];
    let program = installed.into_iter().find(|path| fs::exists(path).unwrap());
    let mut hosts = OsString::from("--addn-hosts=");
    hosts.push(dir.join("hosts"));
    let mut command = Command::new(program.unwrap_or("dnsmasq"));
    // In the foreground as who it is; it knows nothing but what it is told here.
    command.args(["--no-daemon", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"]);
    command.args(["--listen-address=127.0.0.1", "--bind-interfaces", "--local=/internal/"]);
    command.args(["--local-ttl=1", "--cache-size=0", &format!("--port={}", addr.port())]);
    let running = Running::start(command.arg(hosts).args(options));
    listening(addr).await;
    running
}
