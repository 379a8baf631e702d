//! A task of a day, on a clock that is moved by hand: no message lives so long, the row does.
//!
//! Its first worker dies at hour 13; its second is replaced at hour 20, drains and hands it back; the third ends it, from
//! the checkpoint of the second. The queue's limits are those of SQS: nothing is hidden for more than twelve hours.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::{sync::Arc, time::Duration};

use rhubarb_core::{
    backend::{
        Backend, ClaimPolicy, Finish, Log, QueueSpec, Renewal, Report, Settlement, Submission, Take, Window, Won,
    },
    envelope::{BlobRef, Envelope, null},
    ids::{QueueName, TaskId, TaskName, WorkerId},
    limits::Limits,
    outcome::Outcome,
    reaper::Reaper,
    row::{AckMode, Renewed, State},
};
use rhubarb_testkit::{Clock, ManualClock, MemoryBackend, MemoryOptions};

const LEASE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(60 * 60);
const KEEP: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60));

struct World {
    clock: Arc<ManualClock>,
    backend: MemoryBackend,
    queue: QueueName,
    reaper: Reaper,
}

impl World {
    async fn new() -> Self {
        let clock = ManualClock::new();
        let options = MemoryOptions { clock: Clock::Manual(Arc::clone(&clock)), ..MemoryOptions::default() };
        let backend = MemoryBackend::new(options);
        let queue = QueueName::new("training").unwrap();
        let spec = QueueSpec { queue: queue.clone(), max_receives: None, dead_letters: None };
        backend.broker().declare(&[spec]).await.unwrap();
        Self { clock, backend, queue, reaper: Reaper::new() }
    }

    fn now(&self) -> rhubarb_core::time::Timestamp {
        Clock::Manual(Arc::clone(&self.clock)).now().epoch
    }

    async fn submit(&self) -> TaskId {
        let envelope = Envelope::new(TaskId::mint(), TaskName::new("train_model").unwrap(), null());
        let submission = Submission::new(&envelope, self.queue.clone(), Window::DEFAULT);
        self.backend.submit(&[submission], self.now()).await.pop().unwrap().unwrap();
        envelope.id
    }

    async fn take(&self, worker: &str) -> Won {
        let policy = ClaimPolicy {
            lease: LEASE,
            max_attempts: 2,
            keep: KEEP,
            ..ClaimPolicy::new(self.queue.clone(), AckMode::Lease)
        };
        let worker = WorkerId::new(worker).unwrap();
        let take = Take { policy: &policy, worker: &worker, max: 1, wait: Duration::ZERO };
        self.backend.take(take).await.unwrap().won.pop().unwrap()
    }

    /// Lets so much time pass while the holder keeps its lease, leaves a checkpoint each hour, and the sweep looks on.
    async fn work(&mut self, won: &Won, time: Duration) {
        let steps = time.as_secs() / (LEASE.as_secs() / 3);
        for step in 1..=steps {
            self.clock.advance(LEASE / 3);
            let renewal = Renewal { id: won.id, fence: won.row.fence };
            let renewed = self.backend.tasks().renew(&[renewal]).await.pop().unwrap().unwrap();
            assert_eq!(renewed, Renewed::Kept { cancel_asked: false });
            if step % 360 == 0 {
                self.checkpoint(won).await;
            }
            assert_eq!(self.sweep().await, 0, "nobody takes what is kept");
        }
    }

    async fn checkpoint(&self, won: &Won) {
        let at = self.clock.elapsed_ms() / 3_600_000;
        let checkpoint = BlobRef { key: format!("checkpoints/hour-{at}"), sha256: "0".repeat(64), size: 1 };
        let report =
            Report { id: won.id, fence: won.row.fence, progress: None, checkpoint: Some(checkpoint), log: None };
        self.backend.tasks().report(&[report]).await.pop().unwrap().unwrap();
    }

    /// What an agent's sweep does: reaps what it has seen silent for a lease, rings what must ring.
    async fn sweep(&mut self) -> usize {
        let due = self.backend.tasks().due_leases(10).await.unwrap();
        let seen_at = Duration::from_millis(u64::try_from(self.clock.elapsed_ms()).unwrap());
        let ripe = self.reaper.observe(&due, seen_at);
        let reaped = self.backend.tasks().reap(&ripe).await.iter().filter(|answer| answer.is_ok()).count();
        let rings = self.backend.tasks().due_rings(10).await.unwrap();
        self.backend.ring(&rings, self.now()).await;
        reaped
    }

    async fn finish(&self, won: &Won, outcome: Outcome) -> State {
        let settlement = Settlement { id: won.id, fence: won.row.fence, outcome, log: Log::default(), keep: KEEP };
        let finish = Finish {
            queue: self.queue.clone(),
            settlement,
            receipt: won.receipt.clone(),
            hideable: Limits::AWS.visibility_max,
        };
        self.backend.finish(&[finish]).await.pop().unwrap().unwrap().state
    }
}

fn hour_of(won: &Won) -> Option<String> {
    won.row.checkpoint.as_ref().map(|checkpoint| checkpoint.key.clone())
}

#[tokio::test]
async fn a_task_of_a_day_outlives_a_worker_that_dies_at_hour_13_and_one_that_is_replaced_at_hour_20() {
    let mut world = World::new().await;
    let id = world.submit().await;
    let first = world.take("first").await;
    assert!(first.receipt.is_none(), "the claim has deleted the message: the row is the only copy");
    assert!(world.backend.broker().counts(&world.queue).await.unwrap().is_empty());
    world.work(&first, 13 * HOUR).await;

    // It dies. Two leases later the task is back.
    let died = world.clock.elapsed_ms();
    let mut reaped = 0;
    while reaped == 0 {
        world.clock.advance(Duration::from_secs(1));
        reaped = world.sweep().await;
    }
    let silent = Duration::from_millis(u64::try_from(world.clock.elapsed_ms() - died).unwrap());
    assert!(silent <= 2 * LEASE + Duration::from_secs(1), "{silent:?}");
    let second = world.take("second").await;
    assert_eq!((second.row.attempt, hour_of(&second)), (2, Some("checkpoints/hour-13".into())));
    world.work(&second, 7 * HOUR).await;

    // Its agent is replaced: it drains, and hands the task back, which spends no attempt.
    world.checkpoint(&second).await;
    let why = "cut off by the shutdown of its worker".into();
    assert_eq!(world.finish(&second, Outcome::Interrupted { alone: false, why }).await, State::Queued);
    let third = world.take("third").await;
    assert_eq!((third.row.attempt, hour_of(&third)), (2, Some("checkpoints/hour-20".into())));
    world.work(&third, 4 * HOUR).await;
    assert_eq!(world.finish(&third, Outcome::Succeeded(None)).await, State::Succeeded);

    let detail = world.backend.tasks().read(&[id]).await.unwrap().pop().unwrap().unwrap();
    let outcomes: Vec<_> = detail.attempts.iter().map(|attempt| attempt.outcome.as_deref().unwrap()).collect();
    assert_eq!(outcomes, ["lost", "interrupted", "succeeded"]);
    let workers: Vec<_> = detail.attempts.iter().map(|attempt| attempt.worker.as_str()).collect();
    assert_eq!(workers, ["first", "second", "third"]);
    assert!(detail.record.settled.unwrap().since(detail.record.submitted) > 24 * HOUR);
    assert!(world.backend.broker().counts(&world.queue).await.unwrap().is_empty(), "no doorbell is left");
}
