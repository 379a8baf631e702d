//! What listings, counts and waits show, and what is forgotten.

use std::time::Duration;

use rhubarb_core::{
    backend::{Cursor, Filter, Log, Settlement, StateCount, StoreError, Submission, Submitted},
    envelope::BlobRef,
    ids::{QueueName, TaskId, TaskName},
    limits::TOMBSTONE_AGE,
    outcome::{Outcome, Output},
    row::{Claim, State},
};

use super::{Case, DAY, SECOND, eventually, only};
use crate::exercise::{eventually_so, failed, new_queue, new_submission, while_time_passes};

pub(super) async fn exercise(case: &Case<'_>) {
    a_listing_shows_the_newest_first(case).await;
    a_listing_is_filtered(case).await;
    a_tree_is_listed_by_its_root(case).await;
    pages_show_every_task_once(case).await;
    a_cursor_of_another_store_is_refused(case).await;
    tasks_are_counted_by_queue_and_state(case).await;
    who_waits_is_told_when_a_task_settles(case).await;
    who_waits_in_vain_is_told_the_states(case).await;
    a_settled_record_is_forgotten_after_its_time_and_its_id_is_not(case).await;
    a_failed_record_is_kept_for_a_time_of_its_own(case).await;
    an_unsettled_task_is_never_forgotten(case).await;
}

fn all_of(queue: &QueueName) -> Filter {
    Filter { queue: Some(queue.clone()), limit: 100, ..Filter::default() }
}

async fn listed(case: &Case<'_>, filter: &Filter) -> Vec<TaskId> {
    case.tasks.list(filter).await.unwrap().items.into_iter().map(|record| record.id).collect()
}

async fn assert_listed(case: &Case<'_>, filter: &Filter, expected: &[TaskId]) {
    let what = format!("{filter:?} does not list {expected:?}");
    eventually_so(case.time, &what, async || listed(case, filter).await == expected).await;
}

async fn a_listing_shows_the_newest_first(case: &Case<'_>) {
    let queue = new_queue();
    let mut expected = Vec::new();
    for _ in 0..3 {
        expected.insert(0, case.submit(&queue).await.id);
        case.time.advance(SECOND).await;
    }
    assert_listed(case, &all_of(&queue), &expected).await;
    assert_listed(case, &all_of(&new_queue()), &[]).await;
}

async fn a_listing_is_filtered(case: &Case<'_>) {
    let queue = new_queue();
    let queued = case.submit(&queue).await;
    case.time.advance(SECOND).await;
    let running = Submission { task: TaskName::new("other").unwrap(), ..new_submission(&queue) };
    only(case.tasks.submit(std::slice::from_ref(&running)).await).unwrap();
    case.win(&running).await;
    let since = case.read(running.id).await.record.submitted;
    let all = all_of(&queue);
    assert_listed(case, &all, &[running.id, queued.id]).await;
    assert_listed(case, &Filter { state: Some(State::Queued), ..all.clone() }, &[queued.id]).await;
    assert_listed(case, &Filter { state: Some(State::Failed), ..all.clone() }, &[]).await;
    assert_listed(case, &Filter { task: Some(running.task.clone()), ..all.clone() }, &[running.id]).await;
    assert_listed(case, &Filter { since: Some(since), ..all.clone() }, &[running.id]).await;
    let without_queue = Filter { queue: None, since: Some(since), task: Some(running.task.clone()), ..all };
    eventually_so(case.time, "listed without its queue", async || {
        listed(case, &without_queue).await.contains(&running.id)
    })
    .await;
}

async fn a_tree_is_listed_by_its_root(case: &Case<'_>) {
    let (queue, other) = (new_queue(), new_queue());
    let root = case.submit(&queue).await;
    let mut expected = Vec::new();
    for queue in [&queue, &other, &queue] {
        case.time.advance(SECOND).await;
        let child = Submission { root: Some(root.id), ..new_submission(queue) };
        only(case.tasks.submit(std::slice::from_ref(&child)).await).unwrap();
        expected.insert(0, child.id);
    }
    // A child whose message comes before its row.
    case.time.advance(SECOND).await;
    let late = Submission { root: Some(root.id), ..new_submission(&other) };
    case.win(&late).await;
    expected.insert(0, late.id);
    let below = Filter { root: Some(root.id), limit: 100, ..Filter::default() };
    assert_listed(case, &below, &expected).await;
    assert_listed(case, &Filter { queue: Some(other), ..below.clone() }, &[expected[0], expected[2]]).await;
    assert_listed(case, &Filter { state: Some(State::Running), ..below.clone() }, &[late.id]).await;
    let first = case.tasks.list(&Filter { limit: 3, ..below.clone() }).await.unwrap();
    assert_eq!(first.items.iter().map(|record| record.id).collect::<Vec<_>>(), expected[..3]);
    assert_listed(case, &Filter { limit: 3, cursor: first.next, ..below }, &expected[3..]).await;
    assert_listed(case, &Filter { root: Some(expected[0]), ..all_of(&queue) }, &[]).await;
}

async fn pages_show_every_task_once(case: &Case<'_>) {
    let queue = new_queue();
    // All at one time: the place in the listing is more than a time.
    let submissions: Vec<Submission> = (0..7).map(|_| new_submission(&queue)).collect();
    assert!(case.tasks.submit(&submissions).await.iter().all(Result::is_ok));
    eventually_so(case.time, "all are listed", async || listed(case, &all_of(&queue)).await.len() == 7).await;
    let mut filter = Filter { limit: 3, ..all_of(&queue) };
    let mut seen = Vec::new();
    loop {
        let page = case.tasks.list(&filter).await.unwrap();
        assert!(page.items.len() <= 3);
        seen.extend(page.items.into_iter().map(|record| record.id));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            break;
        }
        assert!(seen.len() <= 7, "the pages never end");
    }
    let mut expected: Vec<TaskId> = submissions.iter().map(|submission| submission.id).collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
}

async fn a_cursor_of_another_store_is_refused(case: &Case<'_>) {
    let filter = Filter { cursor: Some(Cursor("not one of yours".into())), ..all_of(&new_queue()) };
    let answer = case.tasks.list(&filter).await;
    assert!(matches!(answer, Err(StoreError::Invalid(_))), "{answer:?}");
}

async fn tasks_are_counted_by_queue_and_state(case: &Case<'_>) {
    let queue = new_queue();
    let oldest = case.submit(&queue).await;
    case.time.advance(SECOND).await;
    case.submit(&queue).await;
    let running = case.submit(&queue).await;
    case.win(&running).await;
    let submitted = case.read(oldest.id).await.record.submitted;
    eventually_so(case.time, "two are queued and one runs", async || {
        let counts = case.tasks.count().await.unwrap();
        let mut own: Vec<&StateCount> = counts.iter().filter(|of| of.queue == queue && of.count > 0).collect();
        own.sort_by_key(|of| of.state);
        let counted: Vec<(State, u64)> = own.iter().map(|of| (of.state, of.count)).collect();
        counted == [(State::Queued, 2), (State::Running, 1)] && own[0].oldest == Some(submitted)
    })
    .await;
}

async fn who_waits_is_told_when_a_task_settles(case: &Case<'_>) {
    let waiting = case.submit(&new_queue()).await;
    let (submission, fence) = case.running().await;
    let unknown = new_submission(&new_queue());
    let ids = [waiting.id, submission.id, unknown.id];
    let wait = case.tasks.wait_settled(&ids, Duration::from_secs(20));
    let (states, _) = tokio::join!(wait, case.settle(submission.id, fence, Outcome::Succeeded(None)));
    let expected = [Some(State::Queued), Some(State::Succeeded), None];
    assert_eq!(states.unwrap(), expected);
    assert_eq!(case.tasks.wait_settled(&ids, Duration::from_secs(20)).await.unwrap(), expected);
}

async fn who_waits_in_vain_is_told_the_states(case: &Case<'_>) {
    let waiting = case.submit(&new_queue()).await;
    let states = while_time_passes(case.time, case.tasks.wait_settled(&[waiting.id], 2 * SECOND)).await;
    assert_eq!(states.unwrap(), [Some(State::Queued)]);
    assert_eq!(case.tasks.wait_settled(&[waiting.id], Duration::ZERO).await.unwrap(), [Some(State::Queued)]);
}

/// Forgets all that can be forgotten; returns the claim checks.
async fn forget(case: &Case<'_>) -> Vec<BlobRef> {
    let mut blobs = Vec::new();
    loop {
        let (count, unnamed) = case.tasks.forget(50).await.unwrap();
        assert!(count <= 50, "{count} of at most 50");
        blobs.extend(unnamed);
        if count == 0 {
            return blobs;
        }
    }
}

async fn settle_keeping(case: &Case<'_>, outcome: Outcome, keep: (Duration, Duration)) -> Submission {
    let (submission, fence) = case.running().await;
    let settlement = Settlement { id: submission.id, fence, outcome, log: Log::default(), keep };
    only(case.tasks.settle(&[settlement]).await).unwrap();
    submission
}

async fn a_settled_record_is_forgotten_after_its_time_and_its_id_is_not(case: &Case<'_>) {
    if case.time.reach() < TOMBSTONE_AGE {
        return;
    }
    let blob = BlobRef { key: format!("tasks/{}", new_queue()), sha256: "0".repeat(64), size: 1 };
    let output = Outcome::Succeeded(Some(Output::Blob(blob.clone())));
    let submission = settle_keeping(case, output, (DAY, 2 * DAY)).await;
    assert_listed(case, &all_of(&submission.queue), &[submission.id]).await;
    case.time.advance(DAY - 20 * SECOND).await;
    assert!(!forget(case).await.contains(&blob));
    assert!(case.read(submission.id).await.record.output.is_some());
    case.time.advance(20 * SECOND).await;
    assert!(forget(case).await.contains(&blob));
    assert_listed(case, &all_of(&submission.queue), &[]).await;
    let left = case.find(submission.id).await;
    assert!(left.is_none_or(|left| left.spec.is_none() && left.record.output.is_none()));
    // A message that names it may still come.
    assert_eq!(case.claim(&submission).await.claim, Claim::Settled);
    let again = only(case.tasks.submit(std::slice::from_ref(&submission)).await).unwrap();
    assert_eq!(again, Submitted::Exists(State::Succeeded));
    case.time.advance(TOMBSTONE_AGE).await;
    forget(case).await;
    eventually(case.time, "a tombstone past its age is there", async || {
        case.find(submission.id).await.is_none().then_some(())
    })
    .await;
}

async fn a_failed_record_is_kept_for_a_time_of_its_own(case: &Case<'_>) {
    if case.time.reach() < TOMBSTONE_AGE {
        return;
    }
    let keep = (DAY, TOMBSTONE_AGE + 2 * DAY);
    let submission = settle_keeping(case, failed(None), keep).await;
    case.time.advance(keep.1 - SECOND).await;
    forget(case).await;
    let detail = case.read(submission.id).await;
    assert!(detail.spec.is_some() && detail.record.failure.is_some());
    case.time.advance(2 * SECOND).await;
    forget(case).await;
    assert!(case.find(submission.id).await.is_none_or(|left| left.spec.is_none()));
}

async fn an_unsettled_task_is_never_forgotten(case: &Case<'_>) {
    if case.time.reach() < 40 * DAY {
        return;
    }
    let waiting = case.submit(&new_queue()).await;
    let (retrying, _) = case.settled(failed(Some(50 * DAY))).await;
    case.time.advance(40 * DAY).await;
    forget(case).await;
    for (id, state) in [(waiting.id, State::Queued), (retrying.id, State::Retrying)] {
        let detail = case.read(id).await;
        assert!(detail.record.state == state && detail.spec.is_some());
    }
}
