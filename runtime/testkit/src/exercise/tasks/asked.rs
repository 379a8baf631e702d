//! What people ask for: cancel, redrive, pause, purge; and messages nobody can read.

use std::time::Duration;

use rhubarb_core::{
    backend::{Filter, QueueRow, StoreError, Submitted},
    ids::{FencingToken, TaskId},
    outcome::{Failure, Outcome},
    row::{Claim, State},
};

use super::{Case, Claimant, DAY, MANY, SECOND, only};
use crate::exercise::{assert_refused, eventually_so, failed, new_queue, new_submission};

pub(super) async fn exercise(case: &Case<'_>) {
    a_waiting_task_is_cancelled_at_once(case).await;
    the_holder_of_a_running_task_is_asked_to_stop(case).await;
    what_is_settled_or_unknown_cannot_be_cancelled(case).await;
    a_failed_task_is_redriven_with_all_its_attempts(case).await;
    only_a_failed_task_is_redriven(case).await;
    a_discarded_task_is_forgotten_at_once_and_never_runs(case).await;
    only_a_failed_task_is_discarded_and_only_once(case).await;
    a_message_that_cannot_be_read_gets_a_failed_row_once(case).await;
    a_queue_is_paused_and_resumed(case).await;
    a_purge_is_noted_with_its_time(case).await;
    a_purge_cancels_what_waited_and_nothing_else(case).await;
    a_purge_is_done_in_steps(case).await;
}

async fn a_waiting_task_is_cancelled_at_once(case: &Case<'_>) {
    let submission = case.submit(&new_queue()).await;
    assert_eq!(only(case.tasks.cancel(&[submission.id]).await).unwrap(), State::Cancelled);
    let record = case.read(submission.id).await.record;
    assert!(record.state == State::Cancelled && record.settled.is_some());
    assert_eq!(case.claim(&submission).await.claim, Claim::Settled);
    let (retrying, _) = case.settled(failed(Some(DAY))).await;
    assert_eq!(only(case.tasks.cancel(&[retrying.id]).await).unwrap(), State::Cancelled);
}

async fn the_holder_of_a_running_task_is_asked_to_stop(case: &Case<'_>) {
    let (obeys, fence) = case.running().await;
    assert_eq!(only(case.tasks.cancel(&[obeys.id]).await).unwrap(), State::Running);
    assert!(case.read(obeys.id).await.record.cancel_asked);
    assert_eq!(case.settle(obeys.id, fence, Outcome::Cancelled).await.unwrap().state, State::Cancelled);
    let (fails, fence) = case.running().await;
    only(case.tasks.cancel(&[fails.id]).await).unwrap();
    let settled = case.settle(fails.id, fence, failed(Some(SECOND))).await.unwrap();
    assert_eq!((settled.state, settled.again_in), (State::Cancelled, None));
}

async fn what_is_settled_or_unknown_cannot_be_cancelled(case: &Case<'_>) {
    let (settled, _) = case.settled(Outcome::Succeeded(None)).await;
    let unknown = new_submission(&new_queue());
    let [refused, missing] = case.tasks.cancel(&[settled.id, unknown.id]).await.try_into().unwrap();
    assert_refused(refused, State::Succeeded);
    assert!(matches!(missing, Err(StoreError::NoTask(id)) if id == unknown.id), "{missing:?}");
}

async fn a_failed_task_is_redriven_with_all_its_attempts(case: &Case<'_>) {
    let submission = case.submit(&new_queue()).await;
    let claimant = Claimant { max_attempts: 1, ..Claimant::default() };
    let fence = case.win_as(&claimant, &submission).await.fence;
    case.settle(submission.id, fence, failed(Some(SECOND))).await.unwrap();
    let redriven = only(case.tasks.redrive(&[submission.id]).await).unwrap();
    assert_eq!((redriven.state, redriven.again_in), (State::Queued, Some(Duration::ZERO)));
    let record = case.read(submission.id).await.record;
    assert_eq!((record.state, record.attempt, record.redriven, record.settled), (State::Queued, 0, 1, None));
    assert_eq!(case.due_ring(submission.id).await.fence, redriven.fence);
    assert_refused(case.settle(submission.id, fence, Outcome::Succeeded(None)).await, State::Queued);
    let won = case.win_as(&claimant, &submission).await;
    assert_eq!((won.attempt, won.fence > redriven.fence), (1, true));
    case.settle(submission.id, won.fence, Outcome::Succeeded(None)).await.unwrap();
    let outcomes: Vec<_> = case.read(submission.id).await.attempts.into_iter().filter_map(|a| a.outcome).collect();
    assert_eq!(outcomes, ["failed", "succeeded"]);
}

async fn only_a_failed_task_is_redriven(case: &Case<'_>) {
    let queued = case.submit(&new_queue()).await;
    let (running, _) = case.running().await;
    let (succeeded, _) = case.settled(Outcome::Succeeded(None)).await;
    let (cancelled, _) = case.settled(Outcome::Cancelled).await;
    let unknown = new_submission(&new_queue());
    let ids: Vec<TaskId> = [&queued, &running, &succeeded, &cancelled, &unknown].map(|task| task.id).into();
    let mut answers = case.tasks.redrive(&ids).await;
    let missing = answers.pop().unwrap();
    assert!(matches!(missing, Err(StoreError::NoTask(id)) if id == unknown.id), "{missing:?}");
    for (answer, state) in answers.into_iter().zip([State::Queued, State::Running, State::Succeeded, State::Cancelled])
    {
        assert_refused(answer, state);
    }
}

async fn a_discarded_task_is_forgotten_at_once_and_never_runs(case: &Case<'_>) {
    let (buried, _) = case.settled(failed(None)).await;
    assert_eq!(only(case.tasks.discard(&[buried.id]).await).unwrap(), []);
    let all = Filter { queue: Some(buried.queue.clone()), limit: 10, ..Filter::default() };
    let gone = async || case.tasks.list(&all).await.unwrap().items.is_empty();
    eventually_so(case.time, "a discarded task is not listed", gone).await;
    if let Some(tombstone) = case.find(buried.id).await {
        assert_eq!((tombstone.record.state, tombstone.attempts.len()), (State::Failed, 0));
        assert!(tombstone.spec.is_none() && tombstone.record.failure.is_none());
    }
    assert_eq!(case.claim(&buried).await.claim, Claim::Settled, "a late delivery of it is put away");
    let again = only(case.tasks.submit(std::slice::from_ref(&buried)).await).unwrap();
    assert_eq!(again, Submitted::Exists(State::Failed), "its id is used up");
    let redriven = only(case.tasks.redrive(&[buried.id]).await);
    assert!(redriven.is_err(), "there is nothing left to bring back: {redriven:?}");
    let (reused, _) = case.settled(failed(None)).await;
    let counted = async || case.tasks.count().await.unwrap().iter().any(|count| count.queue == reused.queue);
    eventually_so(case.time, "a failed task is counted", counted).await;
    only(case.tasks.discard(&[reused.id]).await).unwrap();
    let uncounted = async || !case.tasks.count().await.unwrap().iter().any(|n| n.queue == reused.queue && n.count > 0);
    eventually_so(case.time, "a discarded task is not counted", uncounted).await;
}

async fn only_a_failed_task_is_discarded_and_only_once(case: &Case<'_>) {
    let queued = case.submit(&new_queue()).await;
    let (running, _) = case.running().await;
    let (succeeded, _) = case.settled(Outcome::Succeeded(None)).await;
    let ids: Vec<TaskId> = [&queued, &running, &succeeded].map(|task| task.id).into();
    for (answer, state) in
        case.tasks.discard(&ids).await.into_iter().zip([State::Queued, State::Running, State::Succeeded])
    {
        assert_refused(answer, state);
    }
    let (buried, _) = case.settled(failed(None)).await;
    only(case.tasks.discard(&[buried.id]).await).unwrap();
    for id in [buried.id, TaskId::mint()] {
        let answer = only(case.tasks.discard(&[id]).await);
        assert!(matches!(answer, Err(StoreError::NoTask(named)) if named == id), "{answer:?}");
    }
}

async fn a_message_that_cannot_be_read_gets_a_failed_row_once(case: &Case<'_>) {
    let queue = new_queue();
    let submission = new_submission(&queue);
    let poison = (submission.id, Failure::new(Failure::POISON, "line 1"));
    for _ in 0..2 {
        only(case.tasks.bury_poison(&queue, std::slice::from_ref(&poison)).await).unwrap();
    }
    let detail = case.read(submission.id).await;
    assert_eq!((detail.record.state, &detail.record.queue), (State::Failed, &queue));
    assert_eq!(detail.record.failure, Some(poison.1));
    assert!(detail.spec.is_none() && detail.attempts.is_empty());
    assert_eq!(case.claim(&submission).await.claim, Claim::Settled);
    assert_refused(case.settle(submission.id, FencingToken(0), Outcome::Succeeded(None)).await, State::Failed);
    let redriven = only(case.tasks.redrive(&[submission.id]).await);
    assert!(redriven.is_err(), "what cannot be read would never be settled again: {redriven:?}");
}

async fn queue_row(case: &Case<'_>, queue: &rhubarb_core::ids::QueueName) -> Option<QueueRow> {
    case.tasks.queues().await.unwrap().into_iter().find(|row| row.queue == *queue)
}

async fn a_queue_is_paused_and_resumed(case: &Case<'_>) {
    let queue = new_queue();
    for paused in [true, true, false] {
        case.tasks.pause(&queue, paused).await.unwrap();
        eventually_so(case.time, "the queue's row does not say so", async || {
            queue_row(case, &queue).await.is_some_and(|row| row.paused == paused && row.purged_before.is_none())
        })
        .await;
    }
}

async fn a_purge_is_noted_with_its_time(case: &Case<'_>) {
    let queue = new_queue();
    case.tasks.pause(&queue, true).await.unwrap();
    let at = case.tasks.mark_purged(&queue).await.unwrap();
    assert!(at.since(case.time.now()) < 10 * SECOND && case.time.now().since(at) < 10 * SECOND);
    eventually_so(case.time, "the queue's row does not say so", async || {
        queue_row(case, &queue).await.is_some_and(|row| row.paused && row.purged_before == Some(at))
    })
    .await;
}

async fn a_purge_cancels_what_waited_and_nothing_else(case: &Case<'_>) {
    let (queue, other) = (new_queue(), new_queue());
    let [waiting, running, retrying] = [(); 3].map(|()| new_submission(&queue));
    let late =
        rhubarb_core::backend::Submission { not_before: Some(case.time.now().after(DAY)), ..new_submission(&queue) };
    let elsewhere = case.submit(&other).await;
    let all = [waiting.clone(), running.clone(), retrying.clone(), late.clone()];
    assert!(case.tasks.submit(&all).await.iter().all(Result::is_ok));
    let held = case.win(&running).await.fence;
    let fence = case.win(&retrying).await.fence;
    case.settle(retrying.id, fence, failed(Some(DAY))).await.unwrap();
    case.time.advance(SECOND).await;
    case.tasks.mark_purged(&queue).await.unwrap();
    case.time.advance(SECOND).await;
    let newer = case.submit(&queue).await;
    assert_eq!(case.tasks.cancel_purged(&queue, MANY).await.unwrap(), 3);
    for cancelled in [&waiting, &retrying, &late] {
        let record = case.read(cancelled.id).await.record;
        assert!(record.state == State::Cancelled && record.settled.is_some(), "{record:?}");
    }
    for (id, state) in [(running.id, State::Running), (newer.id, State::Queued), (elsewhere.id, State::Queued)] {
        assert_eq!(case.read(id).await.record.state, state);
    }
    case.settle(running.id, held, Outcome::Succeeded(None)).await.unwrap();
    assert_eq!(case.tasks.cancel_purged(&other, MANY).await.unwrap(), 0);
}

async fn a_purge_is_done_in_steps(case: &Case<'_>) {
    let queue = new_queue();
    for _ in 0..3 {
        case.submit(&queue).await;
    }
    case.time.advance(SECOND).await;
    case.tasks.mark_purged(&queue).await.unwrap();
    for cancelled in [2, 1, 0] {
        assert_eq!(case.tasks.cancel_purged(&queue, 2).await.unwrap(), cancelled);
    }
}
