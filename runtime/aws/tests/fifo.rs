//! FIFO queues through the backend: what runs in which order, and which messages SQS drops as repetitions.
//!
//! SQS drops a message whose deduplication id it has seen within five minutes, so every doorbell that is to be heard
//! needs one of its own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop where it stands")]

mod common;

use std::time::{Duration, SystemTime};

use common::{config, connection};
use rhubarb_aws::{AwsBackend, AwsOptions};
use rhubarb_core::{
    backend::{
        Backend as _, ClaimPolicy, Finish, Log, OutgoingMessage, Settlement, StoreError, Submission, Submitted, Take,
        Window, Won,
    },
    envelope::{Envelope, null},
    ids::{QueueName, TaskId, TaskName, WorkerId},
    outcome::{Failure, Outcome},
    row::{AckMode, Settled, State},
    time::Timestamp,
};
use rhubarb_testkit::emulator::Emulator;

const LEASE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// A long poll: it ends with the first message.
const WAIT: Duration = Duration::from_secs(10);

/// A FIFO queue of an application of its own.
struct Line {
    backend: AwsBackend,
    queue: QueueName,
    _emulator: Emulator,
}

impl Line {
    async fn new() -> Self {
        let emulator = Emulator::start();
        let config = config("[queues.line]\nfifo = true\nfunctions = [\"f\"]\nmax_receives = 6");
        let options = AwsOptions { create: true, ..AwsOptions::default() };
        let backend = AwsBackend::over(connection(&emulator), &config, options).await.unwrap();
        Self { backend, queue: QueueName::new("line").unwrap(), _emulator: emulator }
    }

    /// Submits tasks with these ordering keys, in their order.
    async fn submit(&self, keys: &[&str]) -> Vec<TaskId> {
        let task = |key: &&str| {
            let mut envelope = Envelope::new(TaskId::mint(), TaskName::new("t").unwrap(), null());
            envelope.ordering_key = Some((*key).to_owned());
            Submission::new(&envelope, self.queue.clone(), Window::DEFAULT)
        };
        let tasks: Vec<Submission> = keys.iter().map(task).collect();
        let answers = self.backend.submit(&tasks, Timestamp::from_system(SystemTime::now())).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok(Submitted::New))), "{answers:?}");
        tasks.into_iter().map(|task| task.id).collect()
    }

    async fn take(&self, max: usize, wait: Duration) -> Vec<Won> {
        let policy = ClaimPolicy {
            lease: LEASE,
            max_attempts: 1,
            keep: (HOUR, HOUR),
            ..ClaimPolicy::new(self.queue.clone(), AckMode::Message)
        };
        let worker = WorkerId::new("w").unwrap();
        self.backend.take(Take { policy: &policy, worker: &worker, max, wait }).await.unwrap().won
    }

    async fn take_one(&self) -> Won {
        let mut won = self.take(1, WAIT).await;
        assert_eq!(won.len(), 1);
        won.remove(0)
    }

    async fn finish(&self, won: &Won, outcome: Outcome) -> Settled {
        let keep = (HOUR, HOUR);
        let settlement = Settlement { id: won.id, fence: won.row.fence, outcome, log: Log::default(), keep };
        let finish =
            Finish { queue: self.queue.clone(), settlement, receipt: won.receipt.clone(), hideable: 10 * LEASE };
        self.backend.finish(&[finish]).await.remove(0).unwrap()
    }

    async fn is_empty(&self) -> bool {
        self.backend.broker().counts(&self.queue).await.unwrap().is_empty()
    }
}

fn ids(won: &[Won]) -> Vec<TaskId> {
    won.iter().map(|won| won.id).collect()
}

#[tokio::test]
async fn tasks_of_one_key_run_in_order_and_hold_up_no_other_key() {
    let line = Line::new().await;
    let [a1, a2, b1, a3] = line.submit(&["a", "a", "b", "a"]).await.try_into().unwrap();
    let first = line.take_one().await;
    assert_eq!(first.id, a1);
    let beside = line.take(10, WAIT).await;
    assert_eq!(ids(&beside), [b1], "the key of a task that runs waits for it");
    line.finish(&first, Outcome::Succeeded(None)).await;
    let mut rest = Vec::new();
    while rest.len() < 2 {
        let won = line.take_one().await;
        line.finish(&won, Outcome::Succeeded(None)).await;
        rest.push(won.id);
    }
    assert_eq!(rest, [a2, a3]);
    line.finish(&beside[0], Outcome::Succeeded(None)).await;
    assert!(line.is_empty().await);
}

#[tokio::test]
async fn a_task_that_must_ring_again_is_heard_within_the_five_minutes() {
    let line = Line::new().await;
    let id = line.submit(&["a"]).await[0];
    // Failed for good and brought back: another doorbell of the same task.
    for redriven in 1..=3 {
        let won = line.take_one().await;
        let failed = Outcome::Failed { failure: Failure::new("broken", "on purpose"), retry_in: None };
        let settled = line.finish(&won, failed).await;
        assert_eq!((won.id, settled.state), (id, State::Failed));
        assert!(line.is_empty().await);
        assert_eq!(line.backend.redrive(&[id]).await.remove(0).unwrap().state, State::Queued, "{redriven}");
    }
    let won = line.take_one().await;
    line.finish(&won, Outcome::Succeeded(None)).await;
    assert!(line.is_empty().await);
}

#[tokio::test]
async fn a_worn_message_is_sent_anew_and_not_dropped_as_a_repetition() {
    let line = Line::new().await;
    let id = line.submit(&["a"]).await[0];
    let broker = line.backend.broker();
    // Two receives by somebody who does nothing with them; the third is half of six.
    for count in 1..=2 {
        let delivery = broker.receive(&line.queue, 1, LEASE, WAIT).await.unwrap().remove(0);
        assert_eq!(delivery.receive_count, count);
        broker.release(&line.queue, &[(delivery.receipt, Duration::ZERO)]).await.remove(0).unwrap();
    }
    assert!(line.take(1, Duration::ZERO).await.is_empty(), "the worn message is not handed over");
    let won = line.take_one().await;
    assert_eq!((won.id, won.receive_count), (id, 1));
    line.finish(&won, Outcome::Succeeded(None)).await;
    assert!(line.is_empty().await);
}

#[tokio::test]
async fn a_delay_and_a_missing_group_are_refused_before_anything_is_sent() {
    let line = Line::new().await;
    let whole = OutgoingMessage {
        body: "x".into(),
        group: Some("g".into()),
        deduplication: Some("d".into()),
        ..OutgoingMessage::default()
    };
    let late = OutgoingMessage { delay: Duration::from_secs(1), ..whole.clone() };
    let alone = OutgoingMessage { group: None, ..whole };
    for (message, fix) in [(late, "leave the delay out"), (alone, "need a group (`ordering_key`)")] {
        let told = line.backend.broker().send(&line.queue, &[message]).await.remove(0).unwrap_err();
        assert!(matches!(&told, StoreError::Invalid(text) if text.contains(fix)), "{told:?}");
    }
    assert!(!line.backend.requests().keys().any(|operation| operation.contains("SendMessage")));
}
