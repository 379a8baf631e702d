//! Winning a task, or not.

use rhubarb_core::{
    backend::{Submission, Submitted, Window},
    ids::{FencingToken, QueueName},
    outcome::Outcome,
    row::{AckMode, Claim, State},
};

use super::{Case, Claimant, LEASE, SECOND, join_all, only};
use crate::exercise::{new_envelope, new_queue, new_submission, unique};

pub(super) async fn exercise(case: &Case<'_>) {
    a_claim_wins_with_a_token_and_an_attempt(case).await;
    a_held_task_is_answered_with_the_rest_of_its_lease_and_its_mode(case).await;
    a_race_for_a_task_has_one_winner(case).await;
    a_task_whose_lease_has_ended_is_won_again_with_a_higher_token(case).await;
    a_silent_task_with_no_attempt_left_is_answered_held(case).await;
    a_settled_task_is_answered_settled(case).await;
    a_message_without_a_row_gets_one(case).await;
    a_late_message_without_a_row_gets_a_scheduled_one(case).await;
    two_messages_without_a_row_and_with_one_key_are_one_task(case).await;
    a_key_that_a_message_brought_is_known_to_who_submits(case).await;
    an_early_claim_is_answered_not_yet_and_wins_when_it_is_time(case).await;
    a_task_past_its_expiry_is_not_won(case).await;
    a_task_that_became_available_before_a_purge_is_not_won(case).await;
}

async fn a_claim_wins_with_a_token_and_an_attempt(case: &Case<'_>) {
    let submission = case.submit(&new_queue()).await;
    let claimant = Claimant { max_attempts: 5, ..Claimant::default() };
    let won = case.win_as(&claimant, &submission).await;
    assert_eq!((won.fence, won.attempt, won.max_attempts, won.alone), (FencingToken(1), 1, 5, false));
    assert!(won.started >= won.queued_at && won.checkpoint.is_none());
    let detail = case.read(submission.id).await;
    let record = &detail.record;
    assert_eq!((record.state, record.attempt, record.max_attempts), (State::Running, 1, Some(5)));
    assert_eq!((record.worker.as_ref(), record.started), (Some(&claimant.worker), Some(won.started)));
    let attempt = only(detail.attempts);
    assert_eq!((attempt.attempt, attempt.fence, attempt.worker), (1, won.fence, claimant.worker));
    assert!(attempt.ended.is_none() && attempt.outcome.is_none());
}

async fn a_held_task_is_answered_with_the_rest_of_its_lease_and_its_mode(case: &Case<'_>) {
    for ack in [AckMode::Lease, AckMode::Message] {
        let submission = case.submit(&new_queue()).await;
        case.win_as(&Claimant { ack, ..Claimant::default() }, &submission).await;
        case.time.advance(4 * SECOND).await;
        match case.claim(&submission).await.claim {
            Claim::Held { left, ack: mode } => {
                assert_eq!(mode, ack);
                assert!(left <= LEASE - 3 * SECOND && left >= LEASE - 8 * SECOND, "{left:?} are left");
            }
            claim => panic!("{claim:?}"),
        }
        assert_eq!(case.read(submission.id).await.record.attempt, 1);
    }
}

async fn a_race_for_a_task_has_one_winner(case: &Case<'_>) {
    let submission = case.submit(&new_queue()).await;
    let answers = join_all((0..20).map(|_| case.claim(&submission))).await;
    let won = answers.iter().filter(|answer| answer.claim == Claim::Won).count();
    let held = answers.iter().filter(|answer| matches!(answer.claim, Claim::Held { .. })).count();
    assert_eq!((won, held), (1, 19));
    assert_eq!(case.read(submission.id).await.record.attempt, 1);
}

async fn a_task_whose_lease_has_ended_is_won_again_with_a_higher_token(case: &Case<'_>) {
    let (submission, first) = case.running().await;
    case.time.advance(LEASE).await;
    let second = case.win(&submission).await;
    assert!(second.fence > first && second.attempt == 2, "{second:?}");
    let attempts = case.read(submission.id).await.attempts;
    assert_eq!(attempts.iter().map(|attempt| attempt.fence).collect::<Vec<_>>(), [first, second.fence]);
}

async fn a_silent_task_with_no_attempt_left_is_answered_held(case: &Case<'_>) {
    let submission = case.submit(&new_queue()).await;
    let last = Claimant { max_attempts: 1, ..Claimant::default() };
    case.win_as(&last, &submission).await;
    case.time.advance(LEASE + SECOND).await;
    for claimant in [last, Claimant::default()] {
        let claim = case.claim_as(&claimant, &submission).await.claim;
        assert_eq!(claim, Claim::Held { left: LEASE, ack: AckMode::Lease });
    }
    assert_eq!(case.read(submission.id).await.record.state, State::Running);
}

async fn a_settled_task_is_answered_settled(case: &Case<'_>) {
    for outcome in [Outcome::Succeeded(None), super::super::failed(None), Outcome::Cancelled] {
        let (submission, settled) = case.settled(outcome).await;
        let answer = case.claim(&submission).await;
        assert_eq!(answer.claim, Claim::Settled);
        assert!(answer.won.is_none());
        assert_eq!(case.read(submission.id).await.record.state, settled.state);
    }
}

async fn a_message_without_a_row_gets_one(case: &Case<'_>) {
    let submission = new_submission(&new_queue());
    let won = case.win(&submission).await;
    assert_eq!(won.attempt, 1);
    let detail = case.read(submission.id).await;
    assert_eq!((detail.record.state, &detail.record.queue), (State::Running, &submission.queue));
    assert_eq!(detail.spec.unwrap().encode(), submission.spec);
    assert_eq!(only(case.tasks.submit(&[submission]).await).unwrap(), Submitted::Exists(State::Running));
}

async fn a_late_message_without_a_row_gets_a_scheduled_one(case: &Case<'_>) {
    let at = case.time.now().after(10 * SECOND);
    let submission = Submission { not_before: Some(at), ..new_submission(&new_queue()) };
    assert_eq!(case.claim(&submission).await.claim, Claim::NotYet(at));
    let detail = case.read(submission.id).await;
    assert_eq!((detail.record.state, detail.record.not_before), (State::Scheduled, Some(at)));
    assert_eq!(detail.spec.unwrap().encode(), submission.spec);
}

async fn two_messages_without_a_row_and_with_one_key_are_one_task(case: &Case<'_>) {
    let (queue, key) = (new_queue(), unique("key"));
    let [first, second, other] = [&key, &key, &unique("key")].map(|key| keyed(&queue, key));
    let answers = join_all([case.claim(&first), case.claim(&second)]).await;
    let won = answers.iter().filter(|answer| answer.claim == Claim::Won).count();
    let settled = answers.iter().filter(|answer| answer.claim == Claim::Settled).count();
    assert_eq!((won, settled), (1, 1), "{answers:?}");
    let found = [case.find(first.id).await.is_some(), case.find(second.id).await.is_some()];
    assert_eq!(found.iter().filter(|found| **found).count(), 1, "the other has no row");
    assert_eq!(case.claim(&other).await.claim, Claim::Won);
    // Its next delivery is answered as that of any held task.
    let holder = if found[0] { &first } else { &second };
    assert!(matches!(case.claim(holder).await.claim, Claim::Held { .. }));
}

async fn a_key_that_a_message_brought_is_known_to_who_submits(case: &Case<'_>) {
    let (queue, key) = (new_queue(), unique("key"));
    let (sent, submitted) = (keyed(&queue, &key), keyed(&queue, &key));
    case.win(&sent).await;
    assert_eq!(only(case.tasks.submit(&[submitted]).await).unwrap(), Submitted::Keyed(sent.id));
}

fn keyed(queue: &QueueName, key: &str) -> Submission {
    let mut envelope = new_envelope();
    envelope.idempotency_key = Some(key.to_owned());
    Submission::new(&envelope, queue.clone(), Window::DEFAULT)
}

async fn an_early_claim_is_answered_not_yet_and_wins_when_it_is_time(case: &Case<'_>) {
    let at = case.time.now().after(10 * SECOND);
    let submission = Submission { not_before: Some(at), ..new_submission(&new_queue()) };
    only(case.tasks.submit(std::slice::from_ref(&submission)).await).unwrap();
    assert_eq!(case.claim(&submission).await.claim, Claim::NotYet(at));
    case.time.advance(10 * SECOND).await;
    assert_eq!(case.win(&submission).await.attempt, 1);
}

async fn a_task_past_its_expiry_is_not_won(case: &Case<'_>) {
    let expires = Some(case.time.now().after(10 * SECOND));
    let submission = Submission { expires, ..new_submission(&new_queue()) };
    only(case.tasks.submit(std::slice::from_ref(&submission)).await).unwrap();
    case.time.advance(10 * SECOND).await;
    assert_eq!(case.claim(&submission).await.claim, Claim::Settled);
    let detail = case.read(submission.id).await;
    assert_eq!(detail.record.state, State::Expired);
    assert!(detail.record.settled.is_some() && detail.attempts.is_empty());
}

async fn a_task_that_became_available_before_a_purge_is_not_won(case: &Case<'_>) {
    let queue = new_queue();
    let before = case.submit(&queue).await;
    case.time.advance(SECOND).await;
    let purged_before = Some(case.time.now());
    case.time.advance(SECOND).await;
    let after = case.submit(&queue).await;
    let claimant = Claimant { purged_before, ..Claimant::default() };
    assert_eq!(case.claim_as(&claimant, &before).await.claim, Claim::Settled);
    assert_eq!(case.read(before.id).await.record.state, State::Cancelled);
    case.win_as(&claimant, &after).await;
}
