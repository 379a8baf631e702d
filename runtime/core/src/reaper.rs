//! Which silent tasks the reaper may take.
//!
//! An ended lease alone proves little: when the store was out of reach, every lease ended and every
//! holder is well. So the reaper takes only what it has itself seen unchanged for one whole lease
//! since its last failed read. A reaper that crashes forgets what it has seen and starts again, which
//! costs one lease of delay and nothing else.

use std::{collections::HashMap, time::Duration};

use crate::{
    backend::DueLease,
    ids::{FencingToken, TaskId},
    time::LeaseTime,
};

/// What one reaper has seen. Time is the caller's monotonic clock, as a duration since any fixed point.
#[derive(Debug, Default)]
pub struct Reaper {
    seen: HashMap<TaskId, Seen>,
}

#[derive(Debug)]
struct Seen {
    fence: FencingToken,
    until: LeaseTime,
    since: Duration,
}

impl Reaper {
    /// A reaper that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes the rows whose lease has ended, and returns those that have stood unchanged for one whole
    /// lease of theirs. Rows that are not among `due` any more are forgotten.
    pub fn observe(&mut self, due: &[DueLease], now: Duration) -> Vec<DueLease> {
        let mut still = HashMap::with_capacity(due.len());
        let mut ripe = Vec::new();
        for lease in due {
            let known =
                self.seen.remove(&lease.id).filter(|seen| seen.fence == lease.fence && seen.until == lease.until);
            let seen = known.unwrap_or(Seen { fence: lease.fence, until: lease.until, since: now });
            if now.saturating_sub(seen.since) >= lease.lease {
                ripe.push(lease.clone());
            }
            still.insert(lease.id, seen);
        }
        self.seen = still;
        ripe
    }

    /// Forgets everything: the store could not be read, so that nobody could renew either, perhaps.
    pub fn read_failed(&mut self) {
        self.seen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::QueueName;

    fn due(fence: u64) -> DueLease {
        DueLease {
            id: TaskId::from_bytes([1; 16]),
            queue: QueueName::new("q").unwrap(),
            fence: FencingToken(fence),
            until: LeaseTime(5),
            lease: Duration::from_secs(30),
        }
    }

    #[test]
    fn only_what_stood_unchanged_for_one_lease_is_taken() {
        let mut reaper = Reaper::new();
        assert!(reaper.observe(&[due(1)], Duration::from_secs(0)).is_empty());
        assert!(reaper.observe(&[due(1)], Duration::from_secs(29)).is_empty());
        assert_eq!(reaper.observe(&[due(1)], Duration::from_secs(30)).len(), 1);
    }

    #[test]
    fn a_renewed_or_newly_claimed_row_is_watched_from_the_start() {
        let mut reaper = Reaper::new();
        reaper.observe(&[due(1)], Duration::from_secs(0));
        assert!(reaper.observe(&[due(2)], Duration::from_secs(40)).is_empty());
        reaper.observe(&[], Duration::from_secs(50));
        assert!(reaper.observe(&[due(2)], Duration::from_secs(90)).is_empty());
    }

    #[test]
    fn an_outage_of_the_store_starts_every_watch_again() {
        let mut reaper = Reaper::new();
        reaper.observe(&[due(1)], Duration::from_secs(0));
        reaper.read_failed();
        assert!(reaper.observe(&[due(1)], Duration::from_secs(100)).is_empty());
        assert_eq!(reaper.observe(&[due(1)], Duration::from_secs(130)).len(), 1);
    }
}
