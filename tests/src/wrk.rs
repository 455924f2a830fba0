//! wrk, a load that lasts for as long as a test does.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use bartizan_testkit::TestDir;

use crate::program::signal;

/// A running wrk, which sends GETs of `/` over 16 connections of TLS.
///
/// It is killed when this is dropped.
#[derive(Debug)]
pub struct Wrk {
    // Until it is finished.
    child: Option<Child>,
    _dir: TestDir,
}

impl Wrk {
    /// Starts it towards `addr`.
    ///
    /// # Panics
    ///
    /// If wrk is missing.
    pub fn start(addr: SocketAddr) -> Self {
        let dir = TestDir::new();
        let script = dir.write("load.lua", SCRIPT);
        let mut command = Command::new("wrk");
        command.args(["-t", "1", "-c", "16", "-d", LONGEST, "--timeout", PATIENT, "-s"]);
        command.arg(script).arg(format!("https://{addr}/"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start wrk: {e}"));
        Self { child: Some(child), _dir: dir }
    }

    /// Ends it, and returns how many requests were answered: all, and with 200.
    ///
    /// # Panics
    ///
    /// If another status came, or a connection was refused or broke, or it ended by itself.
    pub fn finish(mut self) -> usize {
        let mut child = self.child.take().unwrap();
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "wrk has ended by itself, which it does after {LONGEST}");
        signal(child.id(), "INT");
        let output = child.wait_with_output().unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        // It mentions them only if there are any.
        let wrong = ["status ", "Socket errors", "Non-2xx"];
        assert!(!wrong.iter().any(|what| report.contains(what)), "{report}");
        let line = report.lines().find(|line| line.contains(" requests in ")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only if it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Longer than any test, and an end if the test has no chance to make one.
const LONGEST: &str = "120s";

/// A slow answer is no error; how slow one may be is not what wrk is for here.
const PATIENT: &str = "30s";

/// Says which status came instead of 200, and leaves the processors some room: a few requests are
/// under way at any time, and checks are not late because of them.
const SCRIPT: &str = r#"
function response(status)
    if status ~= 200 then print("status " .. status) end
end
function delay()
    return 2
end
"#;
