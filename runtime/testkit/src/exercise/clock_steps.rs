//! What a backend owes when somebody sets its wall clock an hour ahead or back: leases do not notice, what is queued
//! is there, nothing is lost, and what has a time of its own goes by the new one.

use std::time::Duration;

use rhubarb_core::{
    backend::{Backend, ClaimPolicy, DueLease, OutgoingMessage, Renewal, Submission},
    ids::{QueueName, TaskId},
    row::{AckMode, Renewed, State},
};

use super::{LEASE, SECOND, backend::Case, failed, new_submission, only};
use crate::clock::Clockwork;

const HOUR_MS: i64 = 3_600_000;
const MINUTE: Duration = Duration::from_secs(60);
const STEPS: [i64; 2] = [HOUR_MS, -HOUR_MS];

/// Exercises a backend whose wall clock can be set.
///
/// # Panics
///
/// It does not do what it owes, or its clock cannot be set.
pub async fn clock_steps(backend: &dyn Backend, time: &dyn Clockwork) {
    for ack in [AckMode::Lease, AckMode::Message] {
        let case = Case { backend, time, ack };
        for step in STEPS {
            what_is_queued_is_taken_at_once(&case, step).await;
            a_lease_lasts_as_long_as_before(&case, step).await;
            what_is_held_stays_with_its_holder(&case, step).await;
            a_silent_task_that_was_reaped_before_comes_back(&case, step).await;
            a_task_that_expires_goes_by_the_new_time(&case, step).await;
        }
        a_late_task_waits_for_the_new_time(&case).await;
        a_retry_waits_for_its_delay_after_a_step_back(&case).await;
        a_purge_cancels_nothing_that_comes_after_a_step_back(&case).await;
        a_message_without_a_row_is_received_after_its_delay(&case, -HOUR_MS).await;
    }
}

impl Case<'_> {
    fn step(&self, by_ms: i64) {
        assert!(self.time.step_wall(by_ms), "this clock cannot be set");
    }

    async fn ended_lease(&self, id: TaskId) -> Option<DueLease> {
        self.backend.tasks().due_leases(1_000).await.unwrap().into_iter().find(|lease| lease.id == id)
    }

    async fn purged_policy(&self, queue: &QueueName) -> ClaimPolicy {
        let rows = self.backend.tasks().queues().await.unwrap();
        let purged_before = rows.into_iter().find(|row| row.queue == *queue).and_then(|row| row.purged_before);
        ClaimPolicy { purged_before, ..self.policy(queue) }
    }
}

async fn what_is_queued_is_taken_at_once(case: &Case<'_>, step: i64) {
    let queue = case.queue().await;
    let before = case.submit(&queue).await;
    case.step(step);
    let after = case.submit(&queue).await;
    let mut taken = [case.take(&queue).await, case.take(&queue).await];
    taken.sort_by_key(|won| won.id != before.id);
    assert_eq!(taken.each_ref().map(|won| won.id), [before.id, after.id]);
    for won in &taken {
        case.succeed(&queue, won).await;
    }
    case.assert_queue_is_empty(&queue).await;
}

async fn a_lease_lasts_as_long_as_before(case: &Case<'_>, step: i64) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    let first = case.take(&queue).await;
    case.step(step);
    assert!(case.ended_lease(submission.id).await.is_none(), "a step of the wall clock ends no lease");
    let renewal = Renewal { id: first.id, fence: first.row.fence };
    assert_eq!(only(case.backend.tasks().renew(&[renewal]).await).unwrap(), Renewed::Kept { cancel_asked: false });
    case.time.advance(LEASE - SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    assert!(case.ended_lease(submission.id).await.is_none());
    case.time.advance(SECOND).await;
    case.reap(submission.id).await;
    // In mode `message` the row rings only if the message has not come back by then.
    case.time.advance(2 * LEASE).await;
    case.sweep_rings(submission.id).await;
    let second = case.take(&queue).await;
    assert_eq!((second.id, second.row.attempt), (submission.id, 2));
    case.succeed(&queue, &second).await;
}

async fn what_is_held_stays_with_its_holder(case: &Case<'_>, step: i64) {
    let queue = case.queue().await;
    case.submit(&queue).await;
    let won = case.take(&queue).await;
    case.step(step);
    case.assert_nothing_is_taken(&queue).await;
    case.succeed(&queue, &won).await;
    case.assert_queue_is_empty(&queue).await;
}

async fn a_silent_task_that_was_reaped_before_comes_back(case: &Case<'_>, step: i64) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    case.take(&queue).await;
    case.time.advance(LEASE).await;
    case.reap(submission.id).await;
    case.step(step);
    case.time.advance(2 * LEASE).await;
    let won = match case.take_by(&case.policy(&queue), 1).await.won.pop() {
        Some(won) => won,
        None => {
            case.sweep_rings(submission.id).await;
            case.take(&queue).await
        }
    };
    assert_eq!((won.id, won.row.attempt), (submission.id, 2));
    case.succeed(&queue, &won).await;
}

async fn a_late_task_waits_for_the_new_time(case: &Case<'_>) {
    let queue = case.queue().await;
    let late =
        |minutes| Submission { not_before: Some(case.time.now().after(MINUTE * minutes)), ..new_submission(&queue) };
    let held_up = late(10);
    case.submit_one(&held_up).await.unwrap();
    case.step(-HOUR_MS);
    case.time.advance(MINUTE * 10).await;
    case.assert_nothing_is_taken(&queue).await;
    case.time.advance(MINUTE * 60 - SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    case.time.advance(SECOND).await;
    let won = case.take(&queue).await;
    assert_eq!(won.id, held_up.id);
    case.succeed(&queue, &won).await;

    let brought_on = late(10);
    case.submit_one(&brought_on).await.unwrap();
    case.step(HOUR_MS);
    // Where the queue counts the delay, its message comes no sooner.
    let won = case.take_at(&queue, case.time.now(), &[Duration::ZERO, MINUTE * 10]).await;
    assert_eq!(won.id, brought_on.id);
    case.succeed(&queue, &won).await;
}

async fn a_retry_waits_for_its_delay_after_a_step_back(case: &Case<'_>) {
    let queue = case.queue().await;
    case.submit(&queue).await;
    let won = case.take(&queue).await;
    assert_eq!(case.finish(&queue, &won, failed(Some(20 * SECOND))).await.unwrap().state, State::Retrying);
    case.step(-HOUR_MS);
    case.assert_nothing_is_taken(&queue).await;
    case.time.advance(19 * SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    // An early look may have hidden it until the next whole second after its time.
    case.time.advance(2 * SECOND).await;
    let won = case.take(&queue).await;
    assert_eq!(won.row.attempt, 2);
    case.succeed(&queue, &won).await;
    case.assert_queue_is_empty(&queue).await;
}

async fn a_task_that_expires_goes_by_the_new_time(case: &Case<'_>, step: i64) {
    let queue = case.queue().await;
    let expires = Some(case.time.now().after(MINUTE * 30));
    let submission = Submission { expires, ..new_submission(&queue) };
    case.submit_one(&submission).await.unwrap();
    case.step(step);
    if step > 0 {
        case.assert_nothing_is_taken(&queue).await;
        assert_eq!(case.state(submission.id).await, State::Expired);
    } else {
        case.time.advance(MINUTE * 45).await;
        let won = case.take(&queue).await;
        case.succeed(&queue, &won).await;
    }
}

async fn a_purge_cancels_nothing_that_comes_after_a_step_back(case: &Case<'_>) {
    let queue = case.queue().await;
    let purged = case.submit(&queue).await;
    case.backend.purge(&queue).await.unwrap();
    let before = case.purged_policy(&queue).await;
    assert!(before.purged_before.is_some());
    case.step(-HOUR_MS);
    let submission = case.submit(&queue).await;
    let after = case.purged_policy(&queue).await;
    let won = only(case.take_by(&after, 10).await.won);
    assert_eq!(won.id, submission.id);
    case.succeed(&queue, &won).await;
    assert_eq!(case.state(purged.id).await, State::Cancelled);
}

async fn a_message_without_a_row_is_received_after_its_delay(case: &Case<'_>, step: i64) {
    let queue = case.queue().await;
    let broker = case.backend.broker();
    let send = async |delay| {
        let message = OutgoingMessage { body: "plain".into(), delay, ..OutgoingMessage::default() };
        only(broker.send(&queue, &[message]).await).unwrap();
    };
    let receive = async || broker.receive(&queue, 10, LEASE, Duration::ZERO).await.unwrap();
    send(Duration::ZERO).await;
    send(10 * SECOND).await;
    case.step(step);
    let first = only(receive().await);
    assert!(receive().await.is_empty());
    case.time.advance(LEASE).await;
    // The one that its receiver kept too long, and the late one.
    let both = receive().await;
    assert_eq!(both.iter().map(|delivery| delivery.receive_count).max(), Some(2), "{both:?}");
    assert_eq!(both.len(), 2, "{both:?}");
    let receipts: Vec<_> = both.into_iter().map(|delivery| delivery.receipt).collect();
    assert!(broker.delete(&queue, &receipts).await.iter().all(Result::is_ok));
    assert!(!receipts.contains(&first.receipt));
    case.assert_queue_is_empty(&queue).await;
}
