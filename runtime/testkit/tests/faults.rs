//! Faults on request: what a crash between the two steps of a joined verb leaves behind is mended.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rhubarb_core::{
    backend::{Backend, ClaimPolicy, Finish, Log, QueueSpec, Settlement, Submission, Submitted, Take, Taken, Window},
    envelope::{Envelope, null},
    ids::{QueueName, TaskId, TaskName, WorkerId},
    outcome::Outcome,
    row::{AckMode, State},
    time::Timestamp,
};
use rhubarb_testkit::{Fault, MemoryBackend, MemoryOptions, Verb};

const LEASE: Duration = Duration::from_secs(10);
const KEEP: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(60));

/// A backend on which this verb meets this fault, once.
async fn with_a_fault(on: Verb, fault: Fault) -> (MemoryBackend, Submission) {
    let met = AtomicBool::new(false);
    let faults = move |verb| if verb == on && !met.swap(true, Ordering::SeqCst) { fault } else { Fault::None };
    let backend = MemoryBackend::new(MemoryOptions { faults: Some(Arc::new(faults)), ..MemoryOptions::default() });
    let queue = QueueName::new("q").unwrap();
    let spec = QueueSpec { queue: queue.clone(), max_receives: None, dead_letters: None };
    backend.broker().declare(&[spec]).await.unwrap();
    let envelope = Envelope::new(TaskId::mint(), TaskName::new("t").unwrap(), null());
    (backend, Submission::new(&envelope, queue, Window::DEFAULT))
}

async fn submit(backend: &dyn Backend, submission: &Submission) -> Submitted {
    backend.submit(std::slice::from_ref(submission), Timestamp(0)).await.pop().unwrap().unwrap()
}

async fn take(backend: &dyn Backend, submission: &Submission) -> Taken {
    let policy =
        ClaimPolicy { lease: LEASE, keep: KEEP, ..ClaimPolicy::new(submission.queue.clone(), AckMode::Message) };
    let worker = WorkerId::new("w").unwrap();
    backend.take(Take { policy: &policy, worker: &worker, max: 1, wait: Duration::ZERO }).await.unwrap()
}

/// True if the call was cut off: it never ends.
async fn crashes<T>(call: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_secs(1), call).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_submit_that_died_before_it_sent_is_mended_by_the_same_call() {
    let (backend, submission) = with_a_fault(Verb::Send, Fault::CrashBefore).await;
    assert!(crashes(submit(&backend, &submission)).await);
    assert!(take(&backend, &submission).await.won.is_empty());
    assert_eq!(submit(&backend, &submission).await, Submitted::Exists(State::Queued));
    assert_eq!(take(&backend, &submission).await.won.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_is_won_again_after_its_lease() {
    let (backend, submission) = with_a_fault(Verb::Claim, Fault::LoseAnswer).await;
    submit(&backend, &submission).await;
    assert!(take(&backend, &submission).await.won.is_empty());
    tokio::time::advance(LEASE).await;
    assert_eq!(take(&backend, &submission).await.won[0].row.attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn a_finish_that_died_before_it_deleted_runs_nothing_twice() {
    let (backend, submission) = with_a_fault(Verb::Settle, Fault::CrashAfter).await;
    submit(&backend, &submission).await;
    let won = take(&backend, &submission).await.won.pop().unwrap();
    let settlement = Settlement {
        id: won.id,
        fence: won.row.fence,
        outcome: Outcome::Succeeded(None),
        log: Log::default(),
        keep: KEEP,
    };
    let finish = Finish { queue: submission.queue.clone(), settlement, receipt: won.receipt, hideable: LEASE };
    assert!(crashes(backend.finish(&[finish])).await);
    assert_eq!(backend.doorbells(&submission.queue, submission.id), 1);
    tokio::time::advance(LEASE).await;
    let taken = take(&backend, &submission).await;
    assert_eq!((taken.won.len(), taken.idle), (0, 1));
    assert_eq!(backend.doorbells(&submission.queue, submission.id), 0);
    assert_eq!(backend.row(submission.id).map(|row| (row.state, row.attempt)), Some((State::Succeeded, 1)));
}
