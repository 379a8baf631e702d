//! The joined verbs on the embedded store.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper that fails is a failed test")]

mod common;

use std::time::Duration;

use common::{finish, policy, spec, store, worker};
use rhubarb_core::{
    backend::{Backend, StoreError, Submitted, Take},
    outcome::{Failure, Outcome, Output},
    row::{AckMode, State},
    time::Timestamp,
};

#[tokio::test]
async fn a_task_is_submitted_taken_and_finished_in_either_mode() {
    for ack in [AckMode::Lease, AckMode::Message] {
        let store = store();
        let submission = spec("q", "{\"a\":1}");
        let answers = store.backend.submit(std::slice::from_ref(&submission), Timestamp(0)).await;
        assert_eq!(answers[0].as_ref().unwrap(), &Submitted::New);
        let (policy, worker) = (policy("q", ack), worker("w"));
        let take = Take { policy: &policy, worker: &worker, max: 10, wait: Duration::ZERO };
        let taken = store.backend.take(take).await.unwrap();
        assert_eq!((taken.won.len(), taken.won[0].id, &taken.won[0].spec), (1, submission.id, &submission.spec));
        assert_eq!(taken.won[0].receipt.is_some(), ack == AckMode::Message);
        assert!(store.backend.take(take).await.unwrap().won.is_empty());
        let output = Output::Inline(serde_json::value::RawValue::from_string("7".into()).unwrap());
        let finished = store.backend.finish(&[finish(&taken.won[0], "q", Outcome::Succeeded(Some(output)))]).await;
        assert_eq!(finished[0].as_ref().unwrap().state, State::Succeeded);
        let detail = store.backend.tasks().read(&[submission.id]).await.unwrap().pop().flatten().unwrap();
        assert_eq!(detail.attempts[0].outcome.as_deref(), Some("succeeded"));
        assert!(matches!(detail.record.output, Some(Output::Inline(output)) if output.get() == "7"));
        assert!(store.backend.broker().counts(&common::queue("q")).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_failed_attempt_comes_back_after_its_delay_and_keeps_its_history() {
    for ack in [AckMode::Lease, AckMode::Message] {
        let store = store();
        let submission = spec("q", "null");
        store.backend.submit(std::slice::from_ref(&submission), Timestamp(0)).await;
        let (policy, worker) = (policy("q", ack), worker("w"));
        let take = Take { policy: &policy, worker: &worker, max: 10, wait: Duration::ZERO };
        let first = store.backend.take(take).await.unwrap();
        let failed =
            Outcome::Failed { failure: Failure::new("oops", "first try"), retry_in: Some(Duration::from_secs(10)) };
        store.backend.finish(&[finish(&first.won[0], "q", failed)]).await.remove(0).unwrap();
        store.clock.advance(Duration::from_millis(9_999));
        assert!(store.backend.take(take).await.unwrap().won.is_empty());
        store.clock.advance(Duration::from_millis(1));
        let second = store.backend.take(take).await.unwrap();
        assert_eq!(second.won[0].row.attempt, 2);
        store.backend.finish(&[finish(&second.won[0], "q", Outcome::Succeeded(None))]).await.remove(0).unwrap();
        let detail = store.backend.tasks().read(&[submission.id]).await.unwrap().pop().flatten().unwrap();
        let outcomes: Vec<_> = detail.attempts.iter().map(|attempt| attempt.outcome.as_deref().unwrap()).collect();
        assert_eq!(outcomes, ["failed", "succeeded"]);
        assert_eq!(detail.attempts[0].failure.as_ref().unwrap().message, "first try");
        assert!(detail.record.failure.is_none());
    }
}

#[tokio::test]
async fn a_row_that_another_process_has_claimed_since_is_not_settled_from_memory() {
    let store = store();
    let other = store.open_again();
    let submission = spec("q", "null");
    store.backend.submit(std::slice::from_ref(&submission), Timestamp(0)).await;
    let (policy, first, second) = (policy("q", AckMode::Lease), worker("first"), worker("second"));
    let take = Take { policy: &policy, worker: &first, max: 1, wait: Duration::ZERO };
    let lost = store.backend.take(take).await.unwrap().won.remove(0);
    store.clock.advance(policy.lease);
    let due = other.tasks().due_leases(10).await.unwrap();
    other.tasks().reap(&due).await.remove(0).unwrap();
    let rings = other.tasks().due_rings(10).await.unwrap();
    other.ring(&rings, Timestamp(0)).await;
    let taken = other.take(Take { worker: &second, ..take }).await.unwrap().won.remove(0);
    let late = store.backend.finish(&[finish(&lost, "q", Outcome::Succeeded(None))]).await.remove(0);
    assert!(matches!(late, Err(StoreError::Refused(_))), "{late:?}");
    other.finish(&[finish(&taken, "q", Outcome::Succeeded(None))]).await.remove(0).unwrap();
    assert!(common::broken_invariants(store.folder.path()).is_empty());
}

#[tokio::test]
async fn a_task_that_was_to_be_cancelled_and_succeeds_has_nothing_asked_of_it_any_more() {
    let store = store();
    let submission = spec("q", "null");
    store.backend.submit(std::slice::from_ref(&submission), Timestamp(0)).await;
    let (policy, worker) = (policy("q", AckMode::Lease), worker("w"));
    let take = Take { policy: &policy, worker: &worker, max: 1, wait: Duration::ZERO };
    let won = store.backend.take(take).await.unwrap().won.remove(0);
    store.open_again().tasks().cancel(&[submission.id]).await.remove(0).unwrap();
    store.backend.finish(&[finish(&won, "q", Outcome::Succeeded(None))]).await.remove(0).unwrap();
    let detail = store.backend.tasks().read(&[submission.id]).await.unwrap().pop().flatten().unwrap();
    assert_eq!((detail.record.state, detail.record.cancel_asked), (State::Succeeded, false));
}

#[tokio::test]
async fn a_take_that_waits_is_woken_by_a_submit() {
    let store = store();
    let other = store.open_again();
    let waiting = tokio::spawn({
        let backend = store.backend.clone();
        async move {
            let (policy, worker) = (policy("q", AckMode::Lease), worker("w"));
            let take = Take { policy: &policy, worker: &worker, max: 1, wait: Duration::from_secs(20) };
            backend.take(take).await.unwrap().won.len()
        }
    });
    other.submit(&[spec("q", "null")], Timestamp(0)).await.remove(0).unwrap();
    assert_eq!(waiting.await.unwrap(), 1);
}
