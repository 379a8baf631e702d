//! Keeps leases alive while functions work.
//!
//! A lease that is not renewed ends by itself, so a crashed worker needs no cleanup. The keeper renews
//! well before the end: one renewal may be lost. A renewal that the store refuses means that a newer
//! claim exists or the task is settled; the attempt is then stopped, and nothing of it is settled. A
//! message that the broker refuses to extend means only that a newer receipt exists: work goes on. A
//! store out of reach stops nothing either: until somebody else claims, the holder is the holder.
//!
//! A renewal may be under way when the attempt settles. The refusal is then its own settlement's doing, and
//! its message is not extended any more: that would undo the delay with which the settlement put it back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rhubarb_core::{
    backend::{Backend, Renewal, Report, StoreError},
    ids::{QueueName, ReceiptHandle, TaskId},
    limits::RENEWALS_PER_LEASE,
    row::Renewed,
};
use tokio_util::sync::CancellationToken;

use crate::{
    attempt::{Attempt, Stop},
    measure,
};

/// Keeps the leases of one worker.
pub struct Keeper {
    backend: Arc<dyn Backend>,
    /// No lease is renewed later than this after the last time, however long it is: with each renewal
    /// comes word of a cancellation.
    renew_within: Duration,
    kept: Mutex<HashMap<TaskId, Entry>>,
}

struct Entry {
    attempt: Arc<Attempt>,
    renew_at: Instant,
}

/// A lease that is kept until this is dropped.
pub struct Kept {
    keeper: Arc<Keeper>,
    id: TaskId,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.keeper.entries().remove(&self.id);
    }
}

impl Keeper {
    /// A keeper of nothing yet.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, renew_within: Duration) -> Self {
        Self { backend, renew_within, kept: Mutex::default() }
    }

    /// Keeps the lease of an attempt.
    #[must_use]
    pub fn keep(self: &Arc<Self>, attempt: Arc<Attempt>) -> Kept {
        let id = attempt.won.id;
        let renew_at = Instant::now() + self.interval(&attempt);
        self.entries().insert(id, Entry { attempt, renew_at });
        Kept { keeper: Arc::clone(self), id }
    }

    /// The tasks whose leases are kept.
    #[must_use]
    pub fn held(&self) -> Vec<TaskId> {
        self.entries().keys().copied().collect()
    }

    /// Tells every attempt to stop.
    pub fn stop_all(&self, why: Stop) {
        for entry in self.entries().values() {
            entry.attempt.stop(why);
        }
    }

    /// Renews until told to end.
    pub async fn run(&self, end: CancellationToken) {
        let mut ticks = tokio::time::interval(self.renew_within.min(Duration::from_millis(500)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while end.run_until_cancelled(ticks.tick()).await.is_some() {
            self.renew_due(Instant::now()).await;
        }
    }

    async fn renew_due(&self, now: Instant) {
        let due = self.take_due(now);
        let reports: Vec<Report> = due.iter().filter_map(|attempt| attempt.due_report(now)).collect();
        let with_row: Vec<&Arc<Attempt>> = due.iter().filter(|attempt| !attempt.won.is_rowless()).collect();
        let renewals: Vec<Renewal> =
            with_row.iter().map(|a| Renewal { id: a.won.id, fence: a.won.row.fence }).collect();
        if due.is_empty() {
            return;
        }
        if !renewals.is_empty() {
            for (attempt, answer) in with_row.into_iter().zip(self.backend.tasks().renew(&renewals).await) {
                heed(attempt, answer);
            }
        }
        self.extend_messages(&due).await;
        if !reports.is_empty() {
            // What a report says is said again by the next one; a refusal shows at the next renewal.
            let _ = self.backend.tasks().report(&reports).await;
        }
    }

    fn take_due(&self, now: Instant) -> Vec<Arc<Attempt>> {
        let mut entries = self.entries();
        let due = entries.values_mut().filter(|entry| entry.renew_at <= now);
        due.map(|entry| {
            entry.renew_at = now + self.interval(&entry.attempt);
            Arc::clone(&entry.attempt)
        })
        .collect()
    }

    async fn extend_messages(&self, due: &[Arc<Attempt>]) {
        let mut by_queue: HashMap<&QueueName, Vec<(ReceiptHandle, Duration)>> = HashMap::new();
        for attempt in due {
            if attempt.is_settling() || attempt.stopped() == Some(Stop::Lost) {
                continue;
            }
            if let Some(receipt) = &attempt.won.receipt {
                by_queue.entry(&attempt.queue.name).or_default().push((receipt.clone(), attempt.queue.lease));
            }
        }
        for (queue, receipts) in by_queue {
            for answer in self.backend.broker().extend(queue, &receipts).await {
                match answer {
                    // A newer receipt is no trouble: the fencing token alone decides.
                    Ok(()) | Err(StoreError::ReceiptExpired) => {}
                    Err(error) => {
                        tracing::warn!(queue.name = %queue, error = %error, "cannot extend a message of queue {queue}");
                    }
                }
            }
        }
    }

    fn interval(&self, attempt: &Attempt) -> Duration {
        let interval = attempt.queue.lease / RENEWALS_PER_LEASE;
        // Without a row there is nobody to hear a cancellation from.
        if attempt.won.is_rowless() { interval } else { interval.min(self.renew_within) }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<TaskId, Entry>> {
        // Nothing panics while it holds the lock; if something did, the map is still whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn heed(attempt: &Attempt, answer: Result<Renewed, StoreError>) {
    let id = attempt.won.id;
    let _line = attempt.span.enter();
    match answer {
        Ok(Renewed::Kept { cancel_asked: true }) => attempt.stop(Stop::Requested),
        Ok(Renewed::Kept { cancel_asked: false }) => {}
        Ok(Renewed::Lost) if attempt.is_settling() => {}
        Ok(Renewed::Lost) => {
            if attempt.stopped() != Some(Stop::Lost) {
                measure::lease_lost(&attempt.queue.name);
                tracing::warn!(task.id = %id, lease.fence = attempt.won.row.fence.0, "task {id} was taken over or settled elsewhere: stopping this attempt");
            }
            attempt.stop(Stop::Lost);
        }
        Err(error) => tracing::warn!(task.id = %id, error = %error, "cannot renew the lease of task {id}; working on"),
    }
}

#[cfg(test)]
mod tests {
    use rhubarb_core::{
        backend::{Broker as _, ClaimPolicy, QueueSpec, Submission, Take, Window},
        config::{Config, NoVars, Overrides, TaskPolicy, default_queue},
        envelope::{Envelope, null},
        row::AckMode,
        time::Timestamp,
    };
    use rhubarb_testkit::MemoryBackend;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LEASE: Duration = Duration::from_secs(30);

    /// An attempt of ack mode `message`, its keeper, and the backend of both.
    async fn kept() -> (MemoryBackend, Arc<Attempt>, Arc<Keeper>, Kept) {
        let backend = MemoryBackend::new(rhubarb_testkit::MemoryOptions::default());
        let name = default_queue();
        let spec = QueueSpec { queue: name.clone(), max_receives: None, dead_letters: None };
        backend.declare(&[spec]).await.unwrap();
        let envelope = Envelope::new(TaskId::mint(), "t".parse().unwrap(), null());
        let submission = Submission::new(&envelope, name.clone(), Window::DEFAULT);
        backend.submit(&[submission], Timestamp(0)).await.remove(0).unwrap();

        let policy =
            ClaimPolicy { lease: LEASE, keep: (LEASE, LEASE), ..ClaimPolicy::new(name.clone(), AckMode::Message) };
        let take = Take { policy: &policy, worker: &"w".parse().unwrap(), max: 1, wait: Duration::ZERO };
        let won = backend.take(take).await.unwrap().won.remove(0);
        let text = "[app]\nname = \"tests\"\n[functions.f]\npackage = \"f\"\n";
        let config = Config::parse(text, &NoVars, &Overrides::default()).unwrap();
        let queue = Arc::new(config.queue(&name).unwrap().clone());
        let policy = TaskPolicy::new(&queue, None);
        let attempt = Arc::new(Attempt::new(won, envelope, queue, policy, Arc::default()));
        let keeper = Arc::new(Keeper::new(Arc::new(backend.clone()), SECOND));
        let kept = keeper.keep(Arc::clone(&attempt));
        (backend, attempt, keeper, kept)
    }

    /// True if the message is there to be received after so long.
    async fn is_back(backend: &MemoryBackend, after: Duration) -> bool {
        tokio::time::advance(after).await;
        !backend.receive(&default_queue(), 1, LEASE, Duration::ZERO).await.unwrap().is_empty()
    }

    #[tokio::test(start_paused = true)]
    async fn the_message_of_a_running_attempt_stays_hidden() {
        let (backend, _attempt, keeper, _kept) = kept().await;
        tokio::time::advance(LEASE - SECOND).await;
        keeper.renew_due(Instant::now() + LEASE).await;
        assert!(!is_back(&backend, LEASE - SECOND).await);
        assert!(is_back(&backend, SECOND).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_renewal_does_not_undo_the_delay_of_a_settlement() {
        let (backend, attempt, keeper, _kept) = kept().await;
        attempt.note_settling(true);
        let receipt = attempt.won.receipt.clone().unwrap();
        backend.release(&default_queue(), &[(receipt, 2 * SECOND)]).await.remove(0).unwrap();
        keeper.renew_due(Instant::now() + LEASE).await;
        assert!(is_back(&backend, 2 * SECOND).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_its_own_settlement_brought_about_stops_nothing() {
        let (_backend, attempt, _keeper, _kept) = kept().await;
        attempt.note_settling(true);
        heed(&attempt, Ok(Renewed::Lost));
        assert_eq!(attempt.stopped(), None);
        attempt.note_settling(false);
        heed(&attempt, Ok(Renewed::Lost));
        assert_eq!(attempt.stopped(), Some(Stop::Lost));
    }
}
