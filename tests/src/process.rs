//! What Linux tells of a running process.

use std::fs;
use std::time::Duration;

/// A look at a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stat {
    /// Memory in use, in bytes.
    pub rss: u64,
    /// The most that was ever in use, in bytes.
    pub peak_rss: u64,
    /// Memory in use that holds data, not code, in bytes.
    pub data: u64,
    /// Time on all processors so far, in steps of 10 ms.
    pub cpu: Duration,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Stat {
    /// Looks at the process `pid`.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kib = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // The second field, the name, may hold spaces. utime and stime are the 14th and 15th.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Self {
            rss: kib("VmRSS:") * 1024,
            peak_rss: kib("VmHWM:") * 1024,
            data: kib("RssAnon:") * 1024,
            cpu: TICK * u32::try_from(ticks).unwrap(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
        }
    }
}

/// Linux shows every architecture 100 ticks a second.
const TICK: Duration = Duration::from_millis(10);
