//! What the sweep finds: ended leases, rows to ring, lost doorbells.

use rhubarb_core::{
    backend::{Renewal, Rung, StoreError, Submission},
    ids::TaskId,
    limits::{DOORBELL_AGE_MAX, DOORBELL_PATIENCE},
    outcome::{Failure, Outcome},
    row::{AckMode, State},
};

use super::{Case, Claimant, DAY, LEASE, MANY, SECOND, only};
use crate::exercise::{assert_refused, eventually_so, failed, new_queue, new_submission};

pub(super) async fn exercise(case: &Case<'_>) {
    a_lease_is_due_when_it_has_ended_and_not_before(case).await;
    the_lease_that_ended_first_is_due_first(case).await;
    a_silent_task_is_brought_back_by_the_reaper(case).await;
    a_renewed_lease_is_not_reaped(case).await;
    a_silent_task_on_its_last_attempt_is_failed_as_worker_lost(case).await;
    a_silent_task_that_was_to_be_stopped_is_cancelled(case).await;
    a_silent_task_of_mode_message_is_rung_only_after_two_leases(case).await;
    what_was_put_back_is_due_until_it_is_rung(case).await;
    an_older_holder_s_bell_does_not_count(case).await;
    a_late_note_of_an_older_bell_silences_no_newer_one(case).await;
    every_bell_has_a_number_of_its_own(case).await;
    a_doorbell_that_the_queue_will_soon_forget_rings_again(case).await;
    a_far_task_is_due_shortly_before_its_time(case).await;
    a_settled_task_is_never_rung(case).await;
    doorbells_are_lost_only_after_their_patience(case).await;
    a_limit_bounds_what_is_found(case).await;
}

async fn a_lease_is_due_when_it_has_ended_and_not_before(case: &Case<'_>) {
    let (submission, fence) = case.running().await;
    case.time.advance(LEASE - 3 * SECOND).await;
    assert!(case.lease_is_due(submission.id).await.is_none());
    case.time.advance(3 * SECOND).await;
    let due = case.due_lease(submission.id).await;
    assert_eq!((due.fence, &due.queue, due.lease), (fence, &submission.queue, LEASE));
    case.settle(submission.id, fence, Outcome::Succeeded(None)).await.unwrap();
    eventually_so(case.time, "a settled task has no lease", async || case.lease_is_due(submission.id).await.is_none())
        .await;
}

async fn the_lease_that_ended_first_is_due_first(case: &Case<'_>) {
    let (first, _) = case.running().await;
    case.time.advance(2 * SECOND).await;
    let (second, _) = case.running().await;
    case.time.advance(LEASE).await;
    case.due_lease(first.id).await;
    case.due_lease(second.id).await;
    let due: Vec<TaskId> = case.tasks.due_leases(MANY).await.unwrap().into_iter().map(|lease| lease.id).collect();
    let place = |id| due.iter().position(|due| *due == id);
    assert!(place(first.id) < place(second.id));
}

async fn a_silent_task_is_brought_back_by_the_reaper(case: &Case<'_>) {
    let (submission, fence) = case.running().await;
    let reaped = case.reap(submission.id).await;
    assert_eq!((reaped.state, reaped.fence), (State::Queued, fence));
    let detail = case.read(submission.id).await;
    assert_eq!((detail.record.state, detail.record.attempt), (State::Queued, 1));
    assert_eq!(only(detail.attempts).outcome.as_deref(), Some("lost"));
    let ring = case.due_ring(submission.id).await;
    assert_eq!((ring.fence, &ring.queue, &ring.spec), (fence, &submission.queue, &submission.spec));
    assert_eq!(case.win(&submission).await.attempt, 2);
    case.assert_no_ring_is_due(submission.id).await;
}

async fn a_renewed_lease_is_not_reaped(case: &Case<'_>) {
    let (submission, fence) = case.running().await;
    case.time.advance(LEASE).await;
    let seen = case.due_lease(submission.id).await;
    only(case.tasks.renew(&[Renewal { id: submission.id, fence }]).await).unwrap();
    assert_refused(only(case.tasks.reap(std::slice::from_ref(&seen)).await), State::Running);
    case.time.advance(LEASE).await;
    assert_refused(only(case.tasks.reap(&[seen]).await), State::Running);
    assert_eq!(case.read(submission.id).await.record.state, State::Running);
}

async fn a_silent_task_on_its_last_attempt_is_failed_as_worker_lost(case: &Case<'_>) {
    let submission = case.submit(&new_queue()).await;
    let fence = case.win_as(&Claimant { max_attempts: 1, ..Claimant::default() }, &submission).await.fence;
    let reaped = case.reap(submission.id).await;
    assert_eq!((reaped.state, reaped.again_in), (State::Failed, None));
    assert_eq!(reaped.buried.unwrap().kind, Failure::WORKER_LOST);
    let record = case.read(submission.id).await.record;
    assert_eq!((record.state, record.failure.unwrap().kind.as_str()), (State::Failed, Failure::WORKER_LOST));
    assert_refused(case.settle(submission.id, fence, Outcome::Succeeded(None)).await, State::Failed);
}

async fn a_silent_task_that_was_to_be_stopped_is_cancelled(case: &Case<'_>) {
    let (submission, _) = case.running().await;
    assert_eq!(only(case.tasks.cancel(&[submission.id]).await).unwrap(), State::Running);
    assert_eq!(case.reap(submission.id).await.state, State::Cancelled);
    assert_eq!(case.read(submission.id).await.record.state, State::Cancelled);
}

async fn a_silent_task_of_mode_message_is_rung_only_after_two_leases(case: &Case<'_>) {
    let submission = case.submit(&new_queue()).await;
    case.win_as(&Claimant { ack: AckMode::Message, ..Claimant::default() }, &submission).await;
    let reaped = case.reap(submission.id).await;
    assert_eq!((reaped.state, reaped.again_in), (State::Queued, None));
    case.time.advance(2 * LEASE - 8 * SECOND).await;
    assert!(case.ring_is_due(submission.id).await.is_none());
    case.time.advance(8 * SECOND).await;
    case.due_ring(submission.id).await;
}

async fn what_was_put_back_is_due_until_it_is_rung(case: &Case<'_>) {
    let (submission, settled) = case.settled(failed(Some(10 * SECOND))).await;
    let ring = case.due_ring(submission.id).await;
    assert_eq!((ring.fence, &ring.spec), (settled.fence, &submission.spec));
    assert_eq!(ring.not_before, case.read(submission.id).await.record.not_before);
    assert_eq!(ring.rung(), Rung { id: submission.id, fence: settled.fence, rings: settled.rings });
    only(case.tasks.rung(&[ring.rung()]).await).unwrap();
    case.assert_no_ring_is_due(submission.id).await;
}

async fn an_older_holder_s_bell_does_not_count(case: &Case<'_>) {
    let (submission, held) = case.running().await;
    case.settle(submission.id, held, interrupted()).await.unwrap();
    let ring = case.due_ring(submission.id).await;
    only(case.tasks.rung(&[Rung { fence: held, ..ring.rung() }]).await).unwrap();
    case.due_ring(submission.id).await;
}

async fn a_late_note_of_an_older_bell_silences_no_newer_one(case: &Case<'_>) {
    let (submission, fence) = case.running().await;
    case.reap(submission.id).await;
    let first = case.due_ring(submission.id).await;
    // Rung, but not noted yet, and its holder comes back for a while.
    only(case.tasks.renew(&[Renewal { id: submission.id, fence }]).await).unwrap();
    case.assert_no_ring_is_due(submission.id).await;
    case.reap(submission.id).await;
    let second = case.due_ring(submission.id).await;
    assert_eq!((second.fence, second.rings), (first.fence, first.rings + 1));
    only(case.tasks.rung(&[first.rung()]).await).unwrap();
    case.due_ring(submission.id).await;
    only(case.tasks.rung(&[second.rung()]).await).unwrap();
    case.assert_no_ring_is_due(submission.id).await;
}

async fn every_bell_has_a_number_of_its_own(case: &Case<'_>) {
    let (submission, settled) = case.settled(failed(Some(10 * SECOND))).await;
    assert_eq!(settled.rings, 2, "the first went out with the row");
    let due = case.due_ring(submission.id).await;
    assert_eq!(case.due_ring(submission.id).await.rings, due.rings, "looked at twice, it is the same bell");
    only(case.tasks.rung(&[due.rung()]).await).unwrap();
    case.time.advance(10 * SECOND).await;
    let fence = case.win(&submission).await.fence;
    let failed = case.settle(submission.id, fence, failed(None)).await.unwrap();
    assert_eq!((failed.state, failed.rings), (State::Failed, 2), "it is settled and needs none");
    let redriven = only(case.tasks.redrive(&[submission.id]).await).unwrap();
    assert_eq!(redriven.rings, 3);
    assert_eq!(case.due_ring(submission.id).await.rings, 3);
}

async fn a_doorbell_that_the_queue_will_soon_forget_rings_again(case: &Case<'_>) {
    if case.time.reach() < DOORBELL_AGE_MAX {
        return;
    }
    let submission = case.submit(&new_queue()).await;
    let aged = async || case.tasks.doorbells_aged(&submission.queue, MANY).await.unwrap();
    case.time.advance(DOORBELL_AGE_MAX - SECOND).await;
    assert_eq!(aged().await, 0);
    let fresh = case.submit(&submission.queue).await;
    case.time.advance(SECOND).await;
    assert_eq!(aged().await, 1);
    let ring = case.due_ring(submission.id).await;
    assert_eq!(ring.rings, 2);
    case.assert_no_ring_is_due(fresh.id).await;
    only(case.tasks.rung(&[ring.rung()]).await).unwrap();
    assert_eq!(aged().await, 0, "its new doorbell is young");
    case.time.advance(DOORBELL_AGE_MAX).await;
    assert_eq!(aged().await, 2, "both are old by now");
}

fn interrupted() -> Outcome {
    crate::exercise::interrupted(false)
}

async fn a_far_task_is_due_shortly_before_its_time(case: &Case<'_>) {
    if case.time.reach() < 2 * DAY {
        return;
    }
    let at = case.time.now().after(2 * DAY);
    let submission = Submission { not_before: Some(at), ..new_submission(&new_queue()) };
    only(case.tasks.submit(std::slice::from_ref(&submission)).await).unwrap();
    case.time.advance(DAY).await;
    assert!(case.ring_is_due(submission.id).await.is_none());
    case.time.advance(DAY - 5 * SECOND).await;
    let ring = case.due_ring(submission.id).await;
    assert_eq!(ring.not_before, Some(at));
}

async fn a_settled_task_is_never_rung(case: &Case<'_>) {
    let (submission, settled) = case.settled(failed(Some(10 * SECOND))).await;
    case.due_ring(submission.id).await;
    assert_eq!(only(case.tasks.cancel(&[submission.id]).await).unwrap(), State::Cancelled);
    case.assert_no_ring_is_due(submission.id).await;
    only(case.tasks.rung(&[Rung { id: submission.id, fence: settled.fence, rings: settled.rings }]).await).unwrap();
}

async fn doorbells_are_lost_only_after_their_patience(case: &Case<'_>) {
    let queue = new_queue();
    let (waiting, held) = (case.submit(&queue).await, case.submit(&queue).await);
    case.win(&held).await;
    assert_eq!(case.tasks.doorbells_lost(&queue, MANY).await.unwrap(), 0);
    case.assert_no_ring_is_due(waiting.id).await;
    if case.time.reach() < DOORBELL_PATIENCE {
        return;
    }
    case.time.advance(DOORBELL_PATIENCE).await;
    let fresh = case.submit(&queue).await;
    assert_eq!(case.tasks.doorbells_lost(&queue, MANY).await.unwrap(), 1);
    case.due_ring(waiting.id).await;
    case.assert_no_ring_is_due(fresh.id).await;
    case.assert_no_ring_is_due(held.id).await;
    assert_eq!(case.tasks.doorbells_lost(&queue, MANY).await.unwrap(), 0, "it is due already");
}

async fn a_limit_bounds_what_is_found(case: &Case<'_>) {
    for _ in 0..3 {
        case.running().await;
        case.settled(interrupted()).await;
    }
    case.time.advance(LEASE).await;
    eventually_so(case.time, "two of many are found", async || {
        let leases = case.tasks.due_leases(2).await.unwrap().len();
        let rings = case.tasks.due_rings(2).await.unwrap().len();
        (leases, rings) == (2, 2)
    })
    .await;
    let unknown = new_submission(&new_queue());
    let mut gone = only(case.tasks.due_leases(1).await.unwrap());
    gone.id = unknown.id;
    let answer = only(case.tasks.reap(&[gone]).await);
    assert!(matches!(answer, Err(StoreError::NoTask(_) | StoreError::Refused(_))), "{answer:?}");
}
