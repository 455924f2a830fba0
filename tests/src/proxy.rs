//! The program under test, running.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::process::Stat;
use crate::program::signal;
use crate::wait::{PATIENCE, POLL};
use crate::{example_binary, proxy_binary};

/// A running proxy. Dropping it kills it; if a test is failing then, its log is shown.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    addr: SocketAddr,
    stderr: Arc<Mutex<String>>,
    log: Option<thread::JoinHandle<()>>,
}

/// How a program ended that was not to stay.
#[derive(Debug)]
#[non_exhaustive]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// All that it wrote to standard output.
    pub stdout: String,
    /// All that it wrote to standard error.
    pub stderr: String,
}

impl Proxy {
    /// Starts the proxy, on a port that the system gives unless `args` has a `--listen`, and waits
    /// until it listens.
    ///
    /// # Panics
    ///
    /// If it ends instead.
    pub fn start<S: AsRef<OsStr>>(args: &[S]) -> Self {
        let mut command = Command::new(proxy_binary());
        add_args(&mut command, args);
        Self::spawn(command)
    }

    /// Starts the example `name` in the proxy's place, with exactly these arguments, and waits until
    /// it listens, which it has to say as the proxy does.
    ///
    /// # Panics
    ///
    /// If it ends instead.
    pub fn example<S: AsRef<OsStr>>(name: &str, args: &[S]) -> Self {
        let mut command = Command::new(example_binary(name));
        command.args(args);
        Self::spawn(command)
    }

    /// Starts the example in the file `program` as the user and group `id`, and waits until it
    /// listens. Only the superuser can do so.
    ///
    /// # Panics
    ///
    /// If it ends instead.
    pub fn spawn_as<S: AsRef<OsStr>>(id: u32, program: &Path, args: &[S]) -> Self {
        let mut command = Command::new(program);
        command.args(args).uid(id).gid(id);
        Self::spawn(command)
    }

    /// Starts the proxy with at most `descriptors` of them, soft and hard.
    ///
    /// # Panics
    ///
    /// If it ends instead.
    pub fn start_with_descriptors<S: AsRef<OsStr>>(descriptors: u32, args: &[S]) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"ulimit -n "$1"; shift; exec "$@""#, "sh"]);
        command.arg(descriptors.to_string()).arg(proxy_binary());
        add_args(&mut command, args);
        Self::spawn(command)
    }

    /// Runs the proxy with exactly these arguments to its end, which is near.
    ///
    /// # Panics
    ///
    /// If it has not ended within 30 s.
    pub fn run<S: AsRef<OsStr>>(args: &[S]) -> Ended {
        let mut command = Command::new(proxy_binary());
        command.args(args);
        crate::program::run(&mut command, PATIENCE)
    }

    fn spawn(mut command: Command) -> Self {
        // Not the developer's own: a test reads the log.
        command.env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let log = collect(child.stderr.take().unwrap(), Arc::clone(&stderr));
        let lines = lines(child.stdout.take().unwrap());
        // From here on a panic kills the child.
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut proxy = Self { child, addr: unknown, stderr, log: Some(log) };
        let line = lines.recv_timeout(PATIENCE).unwrap_or_default();
        let addr = line.strip_prefix("listening on ").and_then(|addr| addr.parse().ok());
        proxy.addr = addr.unwrap_or_else(|| panic!("the proxy did not start, it printed {line:?}"));
        proxy
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `https://localhost:PORT` and `path`, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.addr.port())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What Linux tells of it.
    pub fn stat(&self) -> Stat {
        Stat::of(self.pid())
    }

    /// Its log so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many lines of its log have all of these words.
    pub fn said(&self, words: &[&str]) -> usize {
        let has = |line: &&str| words.iter().all(|word| line.contains(word));
        self.stderr().lines().filter(has).count()
    }

    /// Sends it the signal `name`, such as `TERM`.
    ///
    /// # Panics
    ///
    /// If it has ended.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If it has not ended by `limit`.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the proxy has not ended within {limit:?}");
            sleep(POLL).await;
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
        if thread::panicking() {
            eprintln!("--- log of the proxy at {}:\n{}---", self.addr, self.stderr());
        }
    }
}

fn add_args<S: AsRef<OsStr>>(command: &mut Command, args: &[S]) {
    if !args.iter().any(|arg| arg.as_ref() == "--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(args);
}

/// Reads in a thread of its own, so that the program never waits for its reader.
fn collect(mut from: impl Read + Send + 'static, to: Arc<Mutex<String>>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            let text = String::from_utf8_lossy(&chunk[..n]);
            to.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
        }
    })
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // Nobody listens any more; the pipe is emptied all the same.
            let _ = sender.send(line);
        }
    });
    lines
}
