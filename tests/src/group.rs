//! Programs that start others.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use crate::program::signal_group;

/// A program and all that it starts, which live and die together.
///
/// They are a process group with a guard in it, a shell that waits for the end of this handle: even
/// if the test is killed, none of them is left behind. What they write to standard output is
/// discarded.
#[derive(Debug)]
pub struct Group {
    guard: Child,
    output: Option<JoinHandle<()>>,
}

impl Group {
    /// Starts the program of `command` with its arguments; nothing else of it counts.
    ///
    /// # Panics
    ///
    /// If this machine has no shell. That the program is missing is only seen in what it does not do.
    pub fn start(command: &Command) -> Self {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", GUARD, "sh"]).arg(command.get_program()).args(command.get_args());
        shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = shell.spawn().unwrap();
        let mut output = guard.stdout.take().unwrap();
        let output = thread::spawn(move || {
            // It ends when the last of them has.
            let _ = io::copy(&mut output, &mut io::sink());
        });
        Self { guard, output: Some(output) }
    }

    /// Sends all of them the signal `name`, such as `STOP`.
    ///
    /// # Panics
    ///
    /// If they have been killed.
    pub fn signal(&self, name: &str) {
        assert!(self.output.is_some(), "they have been killed");
        signal_group(self.guard.id(), name);
    }

    /// Kills them, even while they are stopped, and waits for their end.
    pub fn kill(&mut self) {
        // Whose number may be another's after the first time.
        let Some(output) = self.output.take() else { return };
        signal_group(self.guard.id(), "KILL");
        let _ = self.guard.wait();
        let _ = output.join();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A stopped group whose parent ends is continued with a HUP, which the guard has to survive.
const GUARD: &str = r#"trap "" HUP; "$@" & read -r _; kill -KILL 0"#;
