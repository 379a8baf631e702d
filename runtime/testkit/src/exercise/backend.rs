//! What a backend owes as a whole: the joined verbs, and a task's way through row and queue.

use std::{collections::BTreeSet, time::Duration};

use futures::future::LocalBoxFuture;
use rhubarb_core::{
    backend::{
        Backend, ClaimPolicy, Finish, Log, OutgoingMessage, QueueSpec, Renewal, Result, ScheduleRecord, Settlement,
        Submission, Submitted, Take, Taken, TaskDetail, Window, Won,
    },
    envelope::Envelope,
    ids::{QueueName, ScheduleName, TaskId, TaskName, WorkerId},
    limits::UNKNOWN_TASK_PATIENCE,
    outcome::{Failure, Outcome},
    row::{AckMode, Settled, State},
    schedule::{SCHEDULED_TIME, key},
    time::Timestamp,
};

use super::{
    DAY, KEEP, LEASE, SECOND, all, assert_refused, eventually, eventually_so, failed, interrupted, new_envelope,
    new_queue, new_submission, only, unique, while_time_passes,
};
use crate::clock::Clockwork;

const MODES: [AckMode; 2] = [AckMode::Lease, AckMode::Message];
const MANY: usize = 10_000;

/// Exercises a backend's joined verbs.
///
/// # Panics
///
/// They do not do what they owe.
pub async fn backend(backend: &dyn Backend, time: &dyn Clockwork) {
    let cases = MODES.map(|ack| Case { backend, time, ack });
    let case = Case { backend, time, ack: AckMode::Message };
    let mut facts: Vec<LocalBoxFuture<'_, ()>> = cases.iter().flat_map(in_either_mode).collect();
    facts.push(Box::pin(a_renewed_and_extended_message_stays_with_its_holder(&case)));
    facts.push(Box::pin(a_message_that_cannot_be_read_is_buried(&case)));
    facts.push(Box::pin(a_newer_envelope_is_released_with_backoff_and_buried_when_patience_ends(&case)));
    facts.push(Box::pin(waiting_for_work_ends_when_there_is_some_or_time_is_up(&case)));
    all(time, facts).await;
}

/// Exercises a backend whose queues others write ticks to: EventBridge Scheduler.
///
/// # Panics
///
/// It does not do what it owes.
pub async fn hosted_ticks(backend: &dyn Backend, time: &dyn Clockwork) {
    let cases = MODES.map(|ack| Case { backend, time, ack });
    all(time, cases.iter().flat_map(of_ticks).collect()).await;
}

fn of_ticks<'a>(case: &'a Case<'a>) -> Vec<LocalBoxFuture<'a, ()>> {
    vec![
        Box::pin(a_tick_that_is_delivered_twice_runs_once(case)),
        Box::pin(a_tick_without_its_time_gets_it_from_its_schedule(case)),
    ]
}

fn in_either_mode<'a>(case: &'a Case<'a>) -> Vec<LocalBoxFuture<'a, ()>> {
    vec![
        Box::pin(what_is_submitted_is_taken_and_finished(case)),
        Box::pin(a_take_brings_at_most_what_there_is_room_for(case)),
        Box::pin(a_take_waits_for_the_first(case)),
        Box::pin(a_submitted_task_has_one_holder(case)),
        Box::pin(the_same_submission_again_runs_once(case)),
        Box::pin(a_second_task_with_the_key_does_not_run(case)),
        Box::pin(a_late_task_is_taken_at_its_time(case)),
        Box::pin(a_far_task_is_rung_by_the_sweep_and_taken_at_its_time(case)),
        Box::pin(a_silent_task_is_taken_again(case)),
        Box::pin(a_failure_is_taken_again_after_its_delay(case)),
        Box::pin(a_failure_with_a_long_delay_is_rung_by_the_sweep(case)),
        Box::pin(a_snoozed_task_is_taken_again_on_the_same_attempt(case)),
        Box::pin(an_interrupted_task_is_taken_again_at_once(case)),
        Box::pin(the_last_failure_leaves_nothing_in_the_queue(case)),
        Box::pin(an_older_holder_finishes_nothing(case)),
        Box::pin(a_second_doorbell_of_a_held_task_brings_nothing(case)),
        Box::pin(a_doorbell_of_a_settled_task_is_deleted(case)),
        Box::pin(a_plain_producer_s_message_becomes_a_task(case)),
        Box::pin(a_plain_producer_s_late_message_waits(case)),
        Box::pin(a_raw_body_becomes_the_queue_s_task(case)),
        Box::pin(a_cancelled_task_is_not_taken(case)),
        Box::pin(an_expired_task_is_not_taken(case)),
        Box::pin(a_redriven_task_is_taken_with_all_its_attempts(case)),
        Box::pin(a_purge_leaves_what_runs_and_what_comes_later(case)),
    ]
}

pub(super) struct Case<'a> {
    pub(super) backend: &'a dyn Backend,
    pub(super) time: &'a dyn Clockwork,
    pub(super) ack: AckMode,
}

impl Case<'_> {
    pub(super) async fn queue(&self) -> QueueName {
        let queue = new_queue();
        let spec = QueueSpec { queue: queue.clone(), max_receives: None, dead_letters: None };
        self.backend.broker().declare(&[spec]).await.unwrap();
        queue
    }

    pub(super) fn policy(&self, queue: &QueueName) -> ClaimPolicy {
        ClaimPolicy { lease: LEASE, keep: KEEP, ..ClaimPolicy::new(queue.clone(), self.ack) }
    }

    pub(super) async fn submit_one(&self, submission: &Submission) -> Result<Submitted> {
        only(self.backend.submit(std::slice::from_ref(submission), self.time.now()).await)
    }

    pub(super) async fn submit(&self, queue: &QueueName) -> Submission {
        let submission = new_submission(queue);
        assert_eq!(self.submit_one(&submission).await.unwrap(), Submitted::New);
        submission
    }

    pub(super) async fn take_by(&self, policy: &ClaimPolicy, max: usize) -> Taken {
        let worker = WorkerId::new("exercise-1").unwrap();
        self.backend.take(Take { policy, worker: &worker, max, wait: Duration::ZERO }).await.unwrap()
    }

    /// The one task that can be taken now.
    pub(super) async fn take(&self, queue: &QueueName) -> Won {
        let policy = self.policy(queue);
        eventually(self.time, "nothing is taken", async || self.take_by(&policy, 1).await.won.pop()).await
    }

    pub(super) async fn assert_nothing_is_taken(&self, queue: &QueueName) {
        let taken = self.take_by(&self.policy(queue), 10).await;
        assert!(taken.won.is_empty(), "taken: {:?}", taken.won);
    }

    /// Lets these times pass, one after the other, and looks after each: nothing is taken before `at`. Returns
    /// what is taken then. The clock is read after each look, so that a slow machine is not taken for a hasty
    /// backend; one that stands still shows `at` to the second.
    pub(super) async fn take_at(&self, queue: &QueueName, at: Timestamp, steps: &[Duration]) -> Won {
        for step in steps {
            self.time.advance(*step).await;
            if let Some(won) = self.take_by(&self.policy(queue), 1).await.won.pop() {
                let now = self.time.now();
                assert!(now >= at, "taken at {now}, before {at}: {won:?}");
                return won;
            }
        }
        self.take(queue).await
    }

    pub(super) async fn finish(&self, queue: &QueueName, won: &Won, outcome: Outcome) -> Result<Settled> {
        let settlement = Settlement { id: won.id, fence: won.row.fence, outcome, log: Log::default(), keep: KEEP };
        let hideable = self.backend.broker().limits().visibility_max;
        let finish = Finish { queue: queue.clone(), settlement, receipt: won.receipt.clone(), hideable };
        only(self.backend.finish(&[finish]).await)
    }

    pub(super) async fn succeed(&self, queue: &QueueName, won: &Won) {
        let settled = self.finish(queue, won, Outcome::Succeeded(None)).await.unwrap();
        assert_eq!(settled.state, State::Succeeded);
    }

    async fn read(&self, id: TaskId) -> TaskDetail {
        only(self.backend.tasks().read(&[id]).await.unwrap()).unwrap()
    }

    pub(super) async fn state(&self, id: TaskId) -> State {
        self.read(id).await.record.state
    }

    pub(super) async fn assert_queue_is_empty(&self, queue: &QueueName) {
        eventually_so(self.time, "messages are left", async || {
            self.backend.broker().counts(queue).await.unwrap().is_empty()
        })
        .await;
    }

    async fn ring_again(&self, submission: &Submission) {
        let message = OutgoingMessage { body: submission.spec.clone(), ..OutgoingMessage::default() };
        only(self.backend.broker().send(&submission.queue, &[message]).await).unwrap();
    }

    /// What the sweep does for this task: finds it due and rings it.
    pub(super) async fn sweep_rings(&self, id: TaskId) {
        let ring = eventually(self.time, "the row is not due", async || {
            self.backend.tasks().due_rings(MANY).await.unwrap().into_iter().find(|ring| ring.id == id)
        })
        .await;
        only(self.backend.ring(&[ring], self.time.now()).await).unwrap();
    }

    pub(super) async fn reap(&self, id: TaskId) {
        let lease = eventually(self.time, "the lease is not due", async || {
            self.backend.tasks().due_leases(MANY).await.unwrap().into_iter().find(|lease| lease.id == id)
        })
        .await;
        only(self.backend.tasks().reap(&[lease]).await).unwrap();
    }
}

async fn what_is_submitted_is_taken_and_finished(case: &Case<'_>) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    let won = case.take(&queue).await;
    assert_eq!((won.id, &won.task, &won.spec), (submission.id, &submission.task, &submission.spec));
    assert_eq!((won.row.attempt, won.row.max_attempts, won.receive_count), (1, 3, 1));
    assert_eq!(won.receipt.is_some(), case.ack == AckMode::Message);
    assert_eq!(case.state(won.id).await, State::Running);
    case.succeed(&queue, &won).await;
    assert_eq!(case.state(won.id).await, State::Succeeded);
    case.assert_queue_is_empty(&queue).await;
    case.time.advance(2 * LEASE).await;
    case.assert_nothing_is_taken(&queue).await;
}

async fn a_take_brings_at_most_what_there_is_room_for(case: &Case<'_>) {
    let queue = case.queue().await;
    let submissions: Vec<Submission> = (0..5).map(|_| new_submission(&queue)).collect();
    let answers = case.backend.submit(&submissions, case.time.now()).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Submitted::New))), "{answers:?}");
    let mut taken = BTreeSet::new();
    while taken.len() < 5 {
        let won = eventually(case.time, "not all tasks are taken", async || {
            let won = case.take_by(&case.policy(&queue), 2).await.won;
            (!won.is_empty()).then_some(won)
        })
        .await;
        assert!(won.len() <= 2);
        for won in won {
            assert!(taken.insert(won.id), "taken twice");
            case.succeed(&queue, &won).await;
        }
    }
    assert_eq!(taken, submissions.iter().map(|submission| submission.id).collect());
    case.assert_queue_is_empty(&queue).await;
}

async fn a_take_waits_for_the_first(case: &Case<'_>) {
    let queue = case.queue().await;
    let (policy, worker) = (case.policy(&queue), WorkerId::new("exercise-1").unwrap());
    let wait = case.backend.broker().limits().wait_max;
    let take = case.backend.take(Take { policy: &policy, worker: &worker, max: 1, wait });
    let (taken, submission) = tokio::join!(take, case.submit(&queue));
    let won = only(taken.unwrap().won);
    assert_eq!(won.id, submission.id);
    case.succeed(&queue, &won).await;
}

async fn a_submitted_task_has_one_holder(case: &Case<'_>) {
    let queue = case.queue().await;
    case.submit(&queue).await;
    let policy = case.policy(&queue);
    let takes = futures::future::join_all((0..8).map(|_| case.take_by(&policy, 1))).await;
    let mut won: Vec<Won> = takes.into_iter().flat_map(|taken| taken.won).collect();
    if won.is_empty() {
        won.push(case.take(&queue).await);
    }
    case.succeed(&queue, &only(won)).await;
}

async fn the_same_submission_again_runs_once(case: &Case<'_>) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    assert_eq!(case.submit_one(&submission).await.unwrap(), Submitted::Exists(State::Queued));
    let won = case.take(&queue).await;
    case.succeed(&queue, &won).await;
    assert_eq!(case.submit_one(&submission).await.unwrap(), Submitted::Exists(State::Succeeded));
    case.assert_nothing_is_taken(&queue).await;
    case.time.advance(LEASE + 2 * SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    case.assert_queue_is_empty(&queue).await;
    assert_eq!(case.read(submission.id).await.attempts.len(), 1);
}

async fn a_second_task_with_the_key_does_not_run(case: &Case<'_>) {
    let (queue, key) = (case.queue().await, unique("key"));
    let keyed = || {
        let mut envelope = new_envelope();
        envelope.idempotency_key = Some(key.clone());
        Submission::new(&envelope, queue.clone(), Window::DEFAULT)
    };
    let (first, second) = (keyed(), keyed());
    assert_eq!(case.submit_one(&first).await.unwrap(), Submitted::New);
    assert_eq!(case.submit_one(&second).await.unwrap(), Submitted::Keyed(first.id));
    let won = case.take(&queue).await;
    assert_eq!(won.id, first.id);
    case.succeed(&queue, &won).await;
    case.assert_nothing_is_taken(&queue).await;
}

async fn a_late_task_is_taken_at_its_time(case: &Case<'_>) {
    let queue = case.queue().await;
    let at = case.time.now().after(10 * SECOND);
    let submission = Submission { not_before: Some(at), ..new_submission(&queue) };
    case.submit_one(&submission).await.unwrap();
    let won = case.take_at(&queue, at, &[Duration::ZERO, 8 * SECOND, 2 * SECOND]).await;
    assert_eq!((won.id, won.row.attempt), (submission.id, 1));
    case.succeed(&queue, &won).await;
}

async fn a_far_task_is_rung_by_the_sweep_and_taken_at_its_time(case: &Case<'_>) {
    if case.time.reach() < 2 * DAY {
        return;
    }
    let queue = case.queue().await;
    let not_before = Some(case.time.now().after(2 * DAY));
    let submission = Submission { not_before, ..new_submission(&queue) };
    case.submit_one(&submission).await.unwrap();
    case.time.advance(2 * DAY - 100 * SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    case.sweep_rings(submission.id).await;
    case.time.advance(98 * SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    case.time.advance(2 * SECOND).await;
    let won = case.take(&queue).await;
    case.succeed(&queue, &won).await;
}

async fn a_silent_task_is_taken_again(case: &Case<'_>) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    let first = case.take(&queue).await;
    case.time.advance(LEASE - 3 * SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    case.time.advance(3 * SECOND).await;
    // In mode `message` the message comes back by itself; in mode `lease` the row is the only copy.
    if case.ack == AckMode::Lease {
        case.assert_queue_is_empty(&queue).await;
        case.reap(submission.id).await;
        case.sweep_rings(submission.id).await;
    }
    let second = case.take(&queue).await;
    assert_eq!((second.id, second.row.attempt), (submission.id, 2));
    assert!(second.row.fence > first.row.fence);
    case.succeed(&queue, &second).await;
    case.assert_queue_is_empty(&queue).await;
}

async fn a_failure_is_taken_again_after_its_delay(case: &Case<'_>) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    let won = case.take(&queue).await;
    let at = case.time.now().after(20 * SECOND);
    let settled = case.finish(&queue, &won, failed(Some(20 * SECOND))).await.unwrap();
    assert_eq!(settled.state, State::Retrying);
    // An early look may have hidden it until the next whole second after its time.
    let won = case.take_at(&queue, at, &[18 * SECOND, 3 * SECOND]).await;
    assert_eq!((won.id, won.row.attempt), (submission.id, 2));
    case.succeed(&queue, &won).await;
    case.assert_queue_is_empty(&queue).await;
}

async fn a_failure_with_a_long_delay_is_rung_by_the_sweep(case: &Case<'_>) {
    if case.time.reach() < 2 * DAY {
        return;
    }
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    let won = case.take(&queue).await;
    case.finish(&queue, &won, failed(Some(DAY))).await.unwrap();
    case.time.advance(DAY - 100 * SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    if case.ack == AckMode::Lease {
        case.sweep_rings(submission.id).await;
    }
    case.time.advance(98 * SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    case.time.advance(3 * SECOND).await;
    let won = case.take(&queue).await;
    assert_eq!(won.row.attempt, 2);
    case.succeed(&queue, &won).await;
}

async fn a_snoozed_task_is_taken_again_on_the_same_attempt(case: &Case<'_>) {
    let queue = case.queue().await;
    case.submit(&queue).await;
    let won = case.take(&queue).await;
    let at = case.time.now().after(10 * SECOND);
    case.finish(&queue, &won, Outcome::Snoozed(10 * SECOND)).await.unwrap();
    let won = case.take_at(&queue, at, &[Duration::ZERO, 11 * SECOND]).await;
    assert_eq!(won.row.attempt, 1);
    case.succeed(&queue, &won).await;
}

async fn an_interrupted_task_is_taken_again_at_once(case: &Case<'_>) {
    let queue = case.queue().await;
    case.submit(&queue).await;
    for alone in [false, true] {
        let won = case.take(&queue).await;
        assert_eq!(won.row.attempt, 1);
        case.finish(&queue, &won, interrupted(alone)).await.unwrap();
    }
    let won = case.take(&queue).await;
    assert_eq!((won.row.attempt, won.row.alone), (1, true));
    case.succeed(&queue, &won).await;
    case.assert_queue_is_empty(&queue).await;
}

async fn the_last_failure_leaves_nothing_in_the_queue(case: &Case<'_>) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    for state in [State::Queued, State::Queued, State::Failed] {
        let won = case.take(&queue).await;
        assert_eq!(case.finish(&queue, &won, failed(Some(Duration::ZERO))).await.unwrap().state, state);
    }
    case.assert_queue_is_empty(&queue).await;
    assert_eq!(case.read(submission.id).await.attempts.len(), 3);
}

async fn an_older_holder_finishes_nothing(case: &Case<'_>) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    let first = case.take(&queue).await;
    case.time.advance(LEASE).await;
    if case.ack == AckMode::Lease {
        case.reap(submission.id).await;
        case.sweep_rings(submission.id).await;
    }
    let second = case.take(&queue).await;
    assert_refused(case.finish(&queue, &first, Outcome::Succeeded(None)).await, State::Running);
    assert_refused(case.finish(&queue, &first, interrupted(false)).await, State::Running);
    assert_eq!(case.state(submission.id).await, State::Running);
    case.assert_nothing_is_taken(&queue).await;
    case.succeed(&queue, &second).await;
    case.assert_queue_is_empty(&queue).await;
}

async fn a_second_doorbell_of_a_held_task_brings_nothing(case: &Case<'_>) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    let won = case.take(&queue).await;
    case.ring_again(&submission).await;
    let taken = eventually(case.time, "the second doorbell is not heard", async || {
        let taken = case.take_by(&case.policy(&queue), 1).await;
        (taken.idle > 0 || !taken.won.is_empty()).then_some(taken)
    })
    .await;
    assert!(taken.won.is_empty() && taken.idle == 1, "{taken:?}");
    if case.ack == AckMode::Lease {
        case.assert_queue_is_empty(&queue).await;
    }
    case.succeed(&queue, &won).await;
    // In mode `message` it was hidden until the lease's end and a second more.
    case.time.advance(LEASE + 2 * SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    case.assert_queue_is_empty(&queue).await;
}

async fn a_doorbell_of_a_settled_task_is_deleted(case: &Case<'_>) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    let won = case.take(&queue).await;
    case.succeed(&queue, &won).await;
    case.ring_again(&submission).await;
    eventually_so(case.time, "the doorbell is not heard", async || {
        case.take_by(&case.policy(&queue), 1).await.idle == 1
    })
    .await;
    case.assert_queue_is_empty(&queue).await;
    assert_eq!(case.read(submission.id).await.attempts.len(), 1);
}

async fn send(case: &Case<'_>, queue: &QueueName, body: &str) -> TaskId {
    let message = OutgoingMessage { body: body.to_owned(), ..OutgoingMessage::default() };
    let id = only(case.backend.broker().send(queue, &[message]).await).unwrap();
    TaskId::of_message(&id)
}

async fn a_plain_producer_s_message_becomes_a_task(case: &Case<'_>) {
    let queue = case.queue().await;
    let id = send(case, &queue, r#"{"task":"train_model","args":{"dataset":"digits"}}"#).await;
    let won = case.take(&queue).await;
    assert_eq!((won.id, won.task.as_str(), won.row.attempt), (id, "train_model", 1));
    let envelope = Envelope::decode_full(&won.spec).unwrap();
    assert_eq!((envelope.id, envelope.args.get()), (id, r#"{"dataset":"digits"}"#));
    case.finish(&queue, &won, interrupted(false)).await.unwrap();
    let again = case.take(&queue).await;
    assert_eq!((again.id, &again.spec), (id, &won.spec));
    case.succeed(&queue, &again).await;
    let detail = case.read(id).await;
    assert_eq!((detail.record.state, &detail.record.queue), (State::Succeeded, &queue));
    case.assert_queue_is_empty(&queue).await;
}

/// What EventBridge Scheduler writes to a queue: no id, and the tick's time at the end of the key.
fn tick(schedule: &str, time: &str) -> String {
    format!(r#"{{"task":"t","args":{{}},"schedule":"{schedule}","idempotency_key":"schedule/{schedule}/{time}"}}"#)
}

/// Takes all there is until the queue is empty.
async fn take_all(case: &Case<'_>, queue: &QueueName) -> Vec<Won> {
    let mut won = vec![case.take(queue).await];
    eventually_so(case.time, "the queue does not get empty", async || {
        won.extend(case.take_by(&case.policy(queue), 10).await.won);
        let counts = case.backend.broker().counts(queue).await.unwrap();
        counts.visible == 0 && (case.ack == AckMode::Message || counts.in_flight == 0)
    })
    .await;
    won
}

async fn a_tick_that_is_delivered_twice_runs_once(case: &Case<'_>) {
    let (queue, schedule) = (case.queue().await, unique("nightly"));
    for _ in 0..2 {
        send(case, &queue, &tick(&schedule, "2027-01-01T00:00:00Z")).await;
    }
    let won = only(take_all(case, &queue).await);
    let envelope = Envelope::decode_full(&won.spec).unwrap();
    assert_eq!(envelope.tick, Some(Timestamp(1_798_761_600_000)));
    assert_eq!(envelope.schedule.unwrap().as_str(), schedule);
    case.succeed(&queue, &won).await;
    case.assert_nothing_is_taken(&queue).await;
}

async fn a_tick_without_its_time_gets_it_from_its_schedule(case: &Case<'_>) {
    let (queue, schedule) = (case.queue().await, ScheduleName::new(&unique("hourly")).unwrap());
    let hour = Duration::from_secs(60 * 60);
    let since = case.time.now().before(hour * 3 / 2);
    let definition = serde_json::json!({"rate": "1 hour", "task": "t"});
    let record = ScheduleRecord::new(schedule.clone(), true, definition, since);
    only(case.backend.schedules().put(&[record]).await).unwrap();
    for _ in 0..2 {
        send(case, &queue, &tick(schedule.as_str(), SCHEDULED_TIME)).await;
    }
    let won = only(take_all(case, &queue).await);
    let envelope = Envelope::decode_full(&won.spec).unwrap();
    let at = since.after(hour);
    assert_eq!((envelope.tick, envelope.idempotency_key), (Some(at), Some(key(&schedule, at))));
    case.succeed(&queue, &won).await;
}

async fn a_plain_producer_s_late_message_waits(case: &Case<'_>) {
    let queue = case.queue().await;
    let not_before = case.time.now().after(10 * SECOND).0;
    let id = send(case, &queue, &format!(r#"{{"task":"t","not_before":{not_before}}}"#)).await;
    eventually_so(case.time, "the message is not heard", async || {
        let taken = case.take_by(&case.policy(&queue), 1).await;
        assert!(taken.won.is_empty(), "it came early");
        taken.idle == 1
    })
    .await;
    assert_eq!(case.state(id).await, State::Scheduled);
    case.time.advance(11 * SECOND).await;
    let won = case.take(&queue).await;
    assert_eq!(won.id, id);
    case.succeed(&queue, &won).await;
}

async fn a_raw_body_becomes_the_queue_s_task(case: &Case<'_>) {
    let queue = case.queue().await;
    let id = send(case, &queue, "order 7\nof \"Ä\"").await;
    let policy = ClaimPolicy { raw_task: Some(TaskName::new("legacy").unwrap()), ..case.policy(&queue) };
    let won = eventually(case.time, "nothing is taken", async || case.take_by(&policy, 1).await.won.pop()).await;
    assert_eq!((won.id, won.task.as_str()), (id, "legacy"));
    assert_eq!(Envelope::decode_full(&won.spec).unwrap().raw.as_deref(), Some("order 7\nof \"Ä\""));
    case.succeed(&queue, &won).await;
}

async fn a_cancelled_task_is_not_taken(case: &Case<'_>) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    only(case.backend.tasks().cancel(&[submission.id]).await).unwrap();
    case.assert_nothing_is_taken(&queue).await;
    case.time.advance(LEASE + SECOND).await;
    case.assert_nothing_is_taken(&queue).await;
    case.assert_queue_is_empty(&queue).await;
    assert_eq!(case.state(submission.id).await, State::Cancelled);
}

async fn an_expired_task_is_not_taken(case: &Case<'_>) {
    let queue = case.queue().await;
    let expires = Some(case.time.now().after(10 * SECOND));
    let submission = Submission { expires, ..new_submission(&queue) };
    case.submit_one(&submission).await.unwrap();
    case.time.advance(10 * SECOND).await;
    eventually_so(case.time, "it did not expire", async || {
        case.assert_nothing_is_taken(&queue).await;
        case.state(submission.id).await == State::Expired
    })
    .await;
    case.assert_queue_is_empty(&queue).await;
}

async fn a_redriven_task_is_taken_with_all_its_attempts(case: &Case<'_>) {
    let queue = case.queue().await;
    let submission = case.submit(&queue).await;
    let won = case.take(&queue).await;
    case.finish(&queue, &won, failed(None)).await.unwrap();
    assert_eq!(only(case.backend.redrive(&[submission.id]).await).unwrap().state, State::Queued);
    let again = case.take(&queue).await;
    assert_eq!((again.id, again.row.attempt), (submission.id, 1));
    case.succeed(&queue, &again).await;
    assert_eq!(case.read(submission.id).await.record.redriven, 1);
    case.assert_queue_is_empty(&queue).await;
}

async fn a_purge_leaves_what_runs_and_what_comes_later(case: &Case<'_>) {
    let queue = case.queue().await;
    case.submit(&queue).await;
    let won = case.take(&queue).await;
    let waiting = [case.submit(&queue).await, case.submit(&queue).await];
    case.time.advance(SECOND).await;
    let purged = case.backend.purge(&queue).await.unwrap();
    assert!(purged.count == 2 || (!purged.exact && purged.count <= 3), "{purged:?} of two");
    for submission in &waiting {
        assert_eq!(case.state(submission.id).await, State::Cancelled);
    }
    case.time.advance(SECOND).await;
    case.succeed(&queue, &won).await;
    case.assert_nothing_is_taken(&queue).await;
    let later = case.submit(&queue).await;
    let won = case.take(&queue).await;
    assert_eq!(won.id, later.id);
    case.succeed(&queue, &won).await;
}

async fn a_renewed_and_extended_message_stays_with_its_holder(case: &Case<'_>) {
    let queue = case.queue().await;
    case.submit(&queue).await;
    let won = case.take(&queue).await;
    let receipt = won.receipt.clone().unwrap();
    for _ in 0..3 {
        case.time.advance(LEASE - 3 * SECOND).await;
        case.assert_nothing_is_taken(&queue).await;
        let renewal = Renewal { id: won.id, fence: won.row.fence };
        only(case.backend.tasks().renew(&[renewal]).await).unwrap();
        only(case.backend.broker().extend(&queue, &[(receipt.clone(), LEASE)]).await).unwrap();
    }
    case.succeed(&queue, &won).await;
    case.assert_queue_is_empty(&queue).await;
}

async fn a_message_that_cannot_be_read_is_buried(case: &Case<'_>) {
    let queue = case.queue().await;
    for body in ["garbage", "{\"task\": 7}", "[]", "{\"headers\": {\"task\": \"celery\"}, \"body\": \"W10=\"}"] {
        let id = send(case, &queue, body).await;
        let taken = eventually(case.time, "the message is not heard", async || {
            let taken = case.take_by(&case.policy(&queue), 1).await;
            (taken.poisoned > 0).then_some(taken)
        })
        .await;
        assert!(taken.won.is_empty() && taken.poisoned == 1);
        let detail = case.read(id).await;
        assert_eq!((detail.record.state, &detail.record.queue), (State::Failed, &queue), "{body}");
        let failure = detail.record.failure.unwrap();
        assert_eq!(failure.kind, Failure::POISON);
        assert!(failure.message.ends_with(body), "nobody else has the body: {failure}");
        case.assert_queue_is_empty(&queue).await;
    }
}

async fn a_newer_envelope_is_released_with_backoff_and_buried_when_patience_ends(case: &Case<'_>) {
    if case.time.reach() < 2 * UNKNOWN_TASK_PATIENCE {
        return;
    }
    let queue = case.queue().await;
    let id = send(case, &queue, r#"{"v":99,"who":"knows"}"#).await;
    let mut waited = Duration::ZERO;
    let mut looks = 0;
    while waited <= 2 * UNKNOWN_TASK_PATIENCE {
        let taken = case.take_by(&case.policy(&queue), 1).await;
        assert!(taken.won.is_empty());
        looks += 1;
        if taken.poisoned > 0 {
            assert!(waited >= UNKNOWN_TASK_PATIENCE / 2, "buried after {waited:?}");
            let failure = case.read(id).await.record.failure.unwrap();
            assert_eq!(failure.kind, Failure::NEWER_ENVELOPE);
            case.assert_queue_is_empty(&queue).await;
            return;
        }
        case.time.advance(5 * SECOND).await;
        waited += 5 * SECOND;
    }
    panic!("never buried in {looks} looks");
}

async fn waiting_for_work_ends_when_there_is_some_or_time_is_up(case: &Case<'_>) {
    let (queue, other) = (case.queue().await, case.queue().await);
    let both = [other, queue.clone()];
    while_time_passes(case.time, case.backend.wait_ready(&both, 2 * SECOND)).await.unwrap();
    let (ready, _) = tokio::join!(case.backend.wait_ready(&both, 20 * SECOND), case.submit(&queue));
    ready.unwrap();
    let won = case.take(&queue).await;
    case.succeed(&queue, &won).await;
}
