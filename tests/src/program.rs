//! Other programs.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use bartizan_testkit::refused_addr;
use tokio::net::TcpStream;

use crate::wait::{PATIENCE, POLL};
use crate::{Ended, Site};

/// A program that runs until this is dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts `command`, whose output goes to the test's.
    ///
    /// # Panics
    ///
    /// If it cannot be started; the message names the program.
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|e| panic!("cannot start {:?}: {e}", command.get_program())))
    }

    /// Sends it the signal `name`, such as `HUP`.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn signal(&self, name: &str) {
        signal(self.0.id(), name);
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // Fails only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs `command` to its end.
///
/// # Panics
///
/// If it cannot be started, or has not ended by `limit`; then it is killed.
pub fn run(command: &mut Command, limit: Duration) -> Ended {
    run_with(command, b"", limit)
}

/// Runs `command` to its end with `input` as its standard input.
///
/// # Panics
///
/// If it cannot be started, or has not ended by `limit`; then it is killed.
pub fn run_with(command: &mut Command, input: &[u8], limit: Duration) -> Ended {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::start_with_pipes(command);
    let mut stdin = running.0.stdin.take().unwrap();
    let input = input.to_vec();
    // A program need not read what it is given.
    thread::spawn(move || stdin.write_all(&input));
    let stdout = read(running.0.stdout.take().unwrap());
    let stderr = read(running.0.stderr.take().unwrap());
    let (done, ended) = channel();
    let pid = running.0.id();
    let waiter = thread::spawn(move || {
        // Output ends with the program.
        let output = (stdout.join().unwrap(), stderr.join().unwrap());
        let _ = done.send(());
        output
    });
    if ended.recv_timeout(limit).is_err() {
        running.kill();
        let (stdout, stderr) = waiter.join().unwrap();
        panic!("{command:?} ({pid}) has not ended within {limit:?}\n{stdout}\n{stderr}");
    }
    let (stdout, stderr) = waiter.join().unwrap();
    Ended { status: running.0.wait().unwrap(), stdout, stderr }
}

/// Runs curl with these arguments, and returns what it printed.
///
/// It trusts `site` and takes `localhost` for 127.0.0.1, and is quiet but for errors.
///
/// # Panics
///
/// If it is missing, fails, or has not ended by `limit`.
pub fn curl(site: &Site, limit: Duration, args: &[&str]) -> String {
    let mut command = Command::new("curl");
    // Not the developer's own settings; `-q` has to be the first.
    command.args(["-q", "-sS", "-4", "--noproxy", "*", "--cacert"]).arg(site.ca_file()).args(args);
    let ended = run(&mut command, limit);
    assert!(ended.status.success(), "{command:?}: {}\n{}", ended.status, ended.stderr);
    ended.stdout
}

/// Python's own web server over the files of `dir`, on a port of loopback.
///
/// # Panics
///
/// If Python is missing.
pub async fn python_http(dir: &Path) -> (SocketAddr, Running) {
    let addr = refused_addr();
    let mut command = Command::new("python3");
    command.args(["-m", "http.server", "--bind", "127.0.0.1", &addr.port().to_string()]);
    command.arg("--directory").arg(dir).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running::start(&mut command);
    listening(addr).await;
    (addr, running)
}

/// Waits until something listens on `addr`.
///
/// # Panics
///
/// If nothing does within 30 s.
pub async fn listening(addr: SocketAddr) {
    let connected = async {
        while TcpStream::connect(addr).await.is_err() {
            tokio::time::sleep(POLL).await;
        }
    };
    crate::within(PATIENCE, "a server that listens", connected).await;
}

impl Running {
    fn start_with_pipes(command: &mut Command) -> Self {
        let child = command.spawn();
        Self(child.unwrap_or_else(|e| panic!("cannot start {:?}: {e}", command.get_program())))
    }
}

/// Sends the process `pid` the signal `name`.
pub(crate) fn signal(pid: u32, name: &str) {
    kill(&pid.to_string(), name);
}

/// Sends all processes of the group `id` the signal `name`.
pub(crate) fn signal_group(id: u32, name: &str) {
    kill(&format!("-{id}"), name);
}

fn kill(whom: &str, name: &str) {
    // The shell's own `kill`, because the program of this name is not everywhere.
    let kill = [r#"kill -s "$0" -- "$1""#, name, whom];
    let status = Command::new("/bin/sh").arg("-c").args(kill).status().unwrap();
    assert!(status.success(), "process {whom} is gone");
}

fn read(mut from: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error is still worth showing.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
