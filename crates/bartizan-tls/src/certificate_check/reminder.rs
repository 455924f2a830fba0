//! Telling of certificates that are near their end, and not too often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bartizan_net::Address;

/// When which target's certificate was told of last.
#[derive(Debug, Default)]
pub(super) struct Reminder {
    told: Mutex<HashMap<Address, Instant>>,
}

impl Reminder {
    /// Whether to tell now. What is not near its end is not told of, and anew once it is.
    pub(super) fn is_due(&self, target: &Address, near: bool, now: Instant) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !near {
            told.remove(target);
            return false;
        }
        let recent = |at: &Instant| now.saturating_duration_since(*at) < DAY;
        if told.get(target).is_some_and(recent) {
            return false;
        }
        told.retain(|_, at| recent(at));
        // With more than are remembered, silence is better than an event per check.
        if told.len() >= MOST_TARGETS {
            return false;
        }
        told.insert(target.clone(), now);
        true
    }
}

const DAY: Duration = Duration::from_secs(86_400);

/// Some megabytes at most; the largest clusters have about as many backends.
const MOST_TARGETS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_once_a_day_and_target() {
        let (reminder, start) = (Reminder::default(), tokio::time::Instant::now().into_std());
        let target = |port: u16| Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        let hour = Duration::from_secs(3600);
        assert!(reminder.is_due(&target(1), true, start));
        assert!(!reminder.is_due(&target(1), true, start + 23 * hour));
        assert!(reminder.is_due(&target(2), true, start + 23 * hour));
        assert!(reminder.is_due(&target(1), true, start + 24 * hour));
        assert!(!reminder.is_due(&target(2), true, start + 24 * hour));
    }

    #[test]
    fn tells_anew_of_a_certificate_that_was_renewed_in_between() {
        let (reminder, start) = (Reminder::default(), tokio::time::Instant::now().into_std());
        let target: Address = "web1.test:443".parse().unwrap();
        assert!(!reminder.is_due(&target, false, start));
        assert!(reminder.is_due(&target, true, start));
        assert!(!reminder.is_due(&target, false, start));
        assert!(reminder.is_due(&target, true, start));
    }

    #[test]
    fn remembers_a_bounded_number_of_targets() {
        let (reminder, start) = (Reminder::default(), tokio::time::Instant::now().into_std());
        let due =
            |n: usize, at| reminder.is_due(&format!("web{n}.test:443").parse().unwrap(), true, at);
        assert_eq!((0..MOST_TARGETS + 5).filter(|n| due(*n, start)).count(), MOST_TARGETS);
        assert!(due(MOST_TARGETS + 1, start + DAY), "those of yesterday are forgotten");
        assert_eq!(reminder.told.lock().unwrap().len(), 1);
    }
}
