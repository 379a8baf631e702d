//! Accepting tasks, once.

use rhubarb_core::{
    backend::{StoreError, Submission, Submitted, Window},
    envelope::Envelope,
    ids::{QueueName, TaskName},
    outcome::Outcome,
    row::State,
};
use serde_json::value::to_raw_value;

use super::{Case, SECOND, join_all, only};
use crate::exercise::{new_envelope, new_queue, new_submission, unique};

pub(super) async fn exercise(case: &Case<'_>) {
    a_submitted_task_is_read_back(case).await;
    a_task_that_was_never_submitted_is_not_there(case).await;
    a_late_task_is_scheduled(case).await;
    the_same_id_again_changes_nothing(case).await;
    each_submission_of_a_call_is_answered_by_itself(case).await;
    a_second_task_with_the_key_is_the_first(case).await;
    the_key_with_other_arguments_is_refused(case).await;
    a_key_belongs_to_its_kind_of_task(case).await;
    a_key_is_forgotten_after_its_window(case).await;
    a_key_until_settled_lasts_as_long_as_its_task(case).await;
    a_race_for_a_key_has_one_winner(case).await;
}

async fn a_submitted_task_is_read_back(case: &Case<'_>) {
    let queue = new_queue();
    let mut envelope = new_envelope();
    envelope.args = to_raw_value(&[1, 2]).unwrap();
    envelope.max_attempts = Some(2);
    let submission = Submission::new(&envelope, queue.clone(), Window::DEFAULT);
    assert_eq!(only(case.tasks.submit(&[submission]).await).unwrap(), Submitted::New);
    let detail = case.read(envelope.id).await;
    let record = detail.record;
    assert_eq!((record.id, &record.task, &record.queue), (envelope.id, &envelope.task, &queue));
    assert_eq!((record.state, record.attempt, record.redriven), (State::Queued, 0, 0));
    let near = case.time.now().since(record.submitted) <= 10 * SECOND;
    assert!(near && record.queued_at == record.submitted, "{record:?}");
    assert!(record.started.is_none() && record.settled.is_none() && detail.attempts.is_empty());
    assert_eq!(detail.spec.unwrap().encode(), envelope.encode());
}

async fn a_task_that_was_never_submitted_is_not_there(case: &Case<'_>) {
    let (known, unknown) = (case.submit(&new_queue()).await, new_submission(&new_queue()));
    let found = case.tasks.read(&[unknown.id, known.id]).await.unwrap();
    assert!(found.len() == 2 && found[0].is_none() && found[1].is_some());
}

async fn a_late_task_is_scheduled(case: &Case<'_>) {
    let at = case.time.now().after(100 * SECOND);
    let submission = Submission { not_before: Some(at), ..new_submission(&new_queue()) };
    only(case.tasks.submit(std::slice::from_ref(&submission)).await).unwrap();
    let record = case.read(submission.id).await.record;
    assert_eq!((record.state, record.not_before), (State::Scheduled, Some(at)));
}

async fn the_same_id_again_changes_nothing(case: &Case<'_>) {
    let first = case.submit(&new_queue()).await;
    let second = Submission { spec: new_submission(&first.queue).spec, ..first.clone() };
    let again = || async { only(case.tasks.submit(std::slice::from_ref(&second)).await).unwrap() };
    assert_eq!(again().await, Submitted::Exists(State::Queued));
    assert_eq!(case.read(first.id).await.spec.unwrap().encode(), first.spec);
    let fence = case.win(&first).await.fence;
    assert_eq!(again().await, Submitted::Exists(State::Running));
    case.settle(first.id, fence, Outcome::Succeeded(None)).await.unwrap();
    assert_eq!(again().await, Submitted::Exists(State::Succeeded));
    assert_eq!(case.read(first.id).await.record.state, State::Succeeded);
}

async fn each_submission_of_a_call_is_answered_by_itself(case: &Case<'_>) {
    let queue = new_queue();
    let known = case.submit(&queue).await;
    let (one, two) = (new_submission(&queue), new_submission(&queue));
    let answers: Vec<Submitted> = case.tasks.submit(&[one, known, two]).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers, [Submitted::New, Submitted::Exists(State::Queued), Submitted::New]);
}

/// A task with a key: another id each time, the same arguments for the same number.
fn keyed(queue: &QueueName, task: &str, key: &str, argument: u32, window: Window) -> Submission {
    let mut envelope = Envelope::new(new_envelope().id, TaskName::new(task).unwrap(), to_raw_value(&argument).unwrap());
    envelope.idempotency_key = Some(key.to_owned());
    Submission::new(&envelope, queue.clone(), window)
}

async fn submit_one(case: &Case<'_>, submission: &Submission) -> rhubarb_core::backend::Result<Submitted> {
    only(case.tasks.submit(std::slice::from_ref(submission)).await)
}

async fn a_second_task_with_the_key_is_the_first(case: &Case<'_>) {
    let (queue, key) = (new_queue(), unique("key"));
    let first = keyed(&queue, "order", &key, 1, Window::DEFAULT);
    let second = keyed(&queue, "order", &key, 1, Window::DEFAULT);
    assert_eq!(submit_one(case, &first).await.unwrap(), Submitted::New);
    assert_eq!(submit_one(case, &second).await.unwrap(), Submitted::Keyed(first.id));
    assert!(case.find(second.id).await.is_none());
    assert_eq!(submit_one(case, &first).await.unwrap(), Submitted::Exists(State::Queued));
    let fence = case.win(&first).await.fence;
    case.settle(first.id, fence, Outcome::Succeeded(None)).await.unwrap();
    assert_eq!(submit_one(case, &second).await.unwrap(), Submitted::Keyed(first.id));
}

async fn the_key_with_other_arguments_is_refused(case: &Case<'_>) {
    let (queue, key) = (new_queue(), unique("key"));
    let first = keyed(&queue, "order", &key, 1, Window::DEFAULT);
    let other = keyed(&queue, "order", &key, 2, Window::DEFAULT);
    submit_one(case, &first).await.unwrap();
    match submit_one(case, &other).await {
        Err(StoreError::KeyReused { key: named, first: of }) => assert_eq!((named, of), (key, first.id)),
        answer => panic!("{answer:?}"),
    }
    assert!(case.find(other.id).await.is_none());
}

async fn a_key_belongs_to_its_kind_of_task(case: &Case<'_>) {
    let (queue, key) = (new_queue(), unique("key"));
    for task in ["order", "invoice"] {
        let submission = keyed(&queue, task, &key, 1, Window::DEFAULT);
        assert_eq!(submit_one(case, &submission).await.unwrap(), Submitted::New);
    }
}

async fn a_key_is_forgotten_after_its_window(case: &Case<'_>) {
    let (queue, key) = (new_queue(), unique("key"));
    let window = Window::For(10 * SECOND);
    let [first, second, third] = [1, 1, 2].map(|argument| keyed(&queue, "order", &key, argument, window));
    submit_one(case, &first).await.unwrap();
    case.time.advance(8 * SECOND).await;
    assert_eq!(submit_one(case, &second).await.unwrap(), Submitted::Keyed(first.id));
    case.time.advance(2 * SECOND).await;
    assert_eq!(submit_one(case, &third).await.unwrap(), Submitted::New);
    assert!(matches!(submit_one(case, &second).await, Err(StoreError::KeyReused { first, .. }) if first == third.id));
}

async fn a_key_until_settled_lasts_as_long_as_its_task(case: &Case<'_>) {
    let (queue, key) = (new_queue(), unique("key"));
    let [first, second] = [1, 1].map(|argument| keyed(&queue, "order", &key, argument, Window::UntilSettled));
    submit_one(case, &first).await.unwrap();
    let fence = case.win(&first).await.fence;
    assert_eq!(submit_one(case, &second).await.unwrap(), Submitted::Keyed(first.id));
    case.settle(first.id, fence, Outcome::Succeeded(None)).await.unwrap();
    assert_eq!(submit_one(case, &second).await.unwrap(), Submitted::New);
}

async fn a_race_for_a_key_has_one_winner(case: &Case<'_>) {
    let (queue, key) = (new_queue(), unique("key"));
    let racers: Vec<Submission> = (0..20).map(|_| keyed(&queue, "order", &key, 1, Window::DEFAULT)).collect();
    let answers = join_all(racers.iter().map(|racer| submit_one(case, racer))).await;
    let answers: Vec<Submitted> = answers.into_iter().map(Result::unwrap).collect();
    let winners: Vec<_> = racers
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| **answer == Submitted::New)
        .map(|(racer, _)| racer.id)
        .collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    let others = answers.iter().filter(|answer| **answer == Submitted::Keyed(winners[0])).count();
    assert_eq!(others, 19, "{answers:?}");
}
