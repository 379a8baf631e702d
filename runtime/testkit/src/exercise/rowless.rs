//! What tasks without a row owe: a message that is their all, attempts counted by receives, and a place for what failed.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use rhubarb_core::{
    backend::{
        Backend, ClaimPolicy, Delivery, Finish, Log, OutgoingMessage, QueueSpec, Result, Settlement, Submission,
        Submitted, Take, Taken, Window, Won,
        rowless::{self, Ended},
    },
    config::{Config, NoVars, Overrides, Track},
    envelope::Envelope,
    ids::{QueueName, TaskId, WorkerId},
    outcome::{Failure, Outcome},
    row::{AckMode, Settled, State},
};

use super::{KEEP, LEASE, SECOND, all, eventually, eventually_so, failed, interrupted, new_envelope, new_queue, only};
use crate::clock::Clockwork;

/// Exercises the verbs of queues that keep no rows, or only those of failed tasks.
///
/// # Panics
///
/// They do not do what they owe.
pub async fn rowless(backend: &dyn Backend, time: &dyn Clockwork) {
    let cases = [Track::None, Track::Failures].map(|track| Case { backend, time, track });
    let mut facts: Vec<LocalBoxFuture<'_, ()>> = cases.iter().flat_map(at_either_level).collect();
    let [none, failures] = &cases;
    facts.push(Box::pin(a_failed_task_is_a_dead_letter_with_its_reason(none)));
    facts.push(Box::pin(what_cannot_be_read_is_a_dead_letter_as_it_came(none)));
    facts.push(Box::pin(a_failed_task_has_a_row_and_is_redriven_with_one(failures)));
    all(time, facts).await;
}

fn at_either_level<'a>(case: &'a Case<'a>) -> Vec<LocalBoxFuture<'a, ()>> {
    vec![
        Box::pin(a_task_that_succeeds_leaves_no_row_and_no_message(case)),
        Box::pin(a_failure_comes_back_after_its_delay_as_the_next_attempt(case)),
        Box::pin(an_interruption_comes_back_at_once_and_spends_an_attempt(case)),
        Box::pin(a_task_that_silences_its_worker_each_time_is_buried(case)),
        Box::pin(a_task_that_nobody_here_knows_spends_no_attempt(case)),
        Box::pin(an_expired_task_is_buried_unbegun(case)),
        Box::pin(a_late_task_is_taken_at_its_time(case)),
        Box::pin(a_key_that_needs_rows_is_refused(case)),
    ]
}

pub(super) struct Case<'a> {
    pub(super) backend: &'a dyn Backend,
    pub(super) time: &'a dyn Clockwork,
    pub(super) track: Track,
}

impl Case<'_> {
    pub(super) async fn queue(&self) -> QueueName {
        let queue = new_queue();
        let spec = QueueSpec { queue: queue.clone(), max_receives: Some(100), dead_letters: queue.dead_letters() };
        let dead = spec.dead_letters.clone().unwrap();
        let aside = QueueSpec { queue: dead, max_receives: None, dead_letters: None };
        self.backend.broker().declare(&[aside, spec]).await.unwrap();
        queue
    }

    pub(super) async fn submit(&self, queue: &QueueName, change: impl FnOnce(&mut Envelope)) -> TaskId {
        let mut envelope = new_envelope();
        change(&mut envelope);
        assert_eq!(self.submit_as(queue, &envelope).await.unwrap(), Submitted::New);
        envelope.id
    }

    pub(super) async fn submit_as(&self, queue: &QueueName, envelope: &Envelope) -> Result<Submitted> {
        let submission = Submission::new(envelope, queue.clone(), Window::DEFAULT);
        let track = self.track;
        let text =
            format!("[app]\nname = \"e\"\n[functions.f]\npackage = \"f\"\n[queues.{queue}]\ntrack = \"{track}\"\n");
        let config = Config::parse(&text, &NoVars, &Overrides::default()).unwrap();
        only(rowless::submit(self.backend, &config, &[submission], self.time.now()).await)
    }

    pub(super) async fn take_now(&self, queue: &QueueName) -> Taken {
        let policy = ClaimPolicy {
            lease: LEASE,
            max_attempts: 2,
            keep: KEEP,
            ..ClaimPolicy::new(queue.clone(), AckMode::Message)
        };
        let take = Take { policy: &policy, worker: &worker(), max: 1, wait: Duration::ZERO };
        rowless::take(self.backend, self.track, take).await.unwrap()
    }

    async fn take(&self, queue: &QueueName) -> Won {
        eventually(self.time, "nothing is taken", async || self.take_now(queue).await.won.pop()).await
    }

    pub(super) async fn finish(&self, queue: &QueueName, won: &Won, outcome: Outcome) -> Settled {
        self.finish_as(queue, won, outcome, false).await
    }

    async fn finish_as(&self, queue: &QueueName, won: &Won, outcome: Outcome, unknown: bool) -> Settled {
        let log = Log { text: "its last words\n".into(), dropped: 0, ..Log::default() };
        let settlement = Settlement { id: won.id, fence: won.row.fence, outcome, log, keep: KEEP };
        let hideable = self.backend.broker().limits().visibility_max;
        let finish = Finish { queue: queue.clone(), settlement, receipt: won.receipt.clone(), hideable };
        let ended = [Ended { won, finish: &finish, unknown }];
        only(rowless::finish(self.backend, self.track, queue, &worker(), &ended).await).unwrap()
    }

    pub(super) async fn is_empty(&self, queue: &QueueName) {
        let broker = self.backend.broker();
        let look = async || broker.counts(queue).await.unwrap().is_empty();
        eventually_so(self.time, "something is left in the queue", look).await;
    }

    pub(super) async fn has_no_row(&self, id: TaskId) {
        assert!(only(self.backend.tasks().read(&[id]).await.unwrap()).is_none(), "there is a row");
    }

    async fn dead_letter(&self, queue: &QueueName) -> Delivery {
        let dead = queue.dead_letters().unwrap();
        let receive = async || self.backend.broker().receive(&dead, 1, LEASE, Duration::ZERO).await.unwrap().pop();
        eventually(self.time, "there is no dead letter", receive).await
    }

    /// Where the level keeps it: what a failed task is called, and its envelope.
    async fn buried(&self, queue: &QueueName, id: TaskId) -> (String, Envelope) {
        self.is_empty(queue).await;
        if self.track == Track::None {
            self.has_no_row(id).await;
            let letter = self.dead_letter(queue).await;
            return (letter.attributes["error_kind"].clone(), Envelope::decode_full(&letter.body).unwrap());
        }
        let detail = only(self.backend.tasks().read(&[id]).await.unwrap()).expect("a failed task has a row");
        assert_eq!(detail.record.state, State::Failed);
        (detail.record.failure.unwrap().kind, detail.spec.unwrap())
    }
}

fn worker() -> WorkerId {
    WorkerId::new("exercise-1").unwrap()
}

async fn a_task_that_succeeds_leaves_no_row_and_no_message(case: &Case<'_>) {
    let queue = case.queue().await;
    let id = case.submit(&queue, |_| {}).await;
    case.has_no_row(id).await;
    let won = case.take(&queue).await;
    assert!(won.is_rowless());
    assert_eq!((won.id, won.row.attempt, won.row.max_attempts, won.row.alone), (id, 1, 2, false));
    assert_eq!(case.finish(&queue, &won, Outcome::Succeeded(None)).await.state, State::Succeeded);
    case.is_empty(&queue).await;
    case.has_no_row(id).await;
}

async fn a_failure_comes_back_after_its_delay_as_the_next_attempt(case: &Case<'_>) {
    let queue = case.queue().await;
    let id = case.submit(&queue, |_| {}).await;
    let won = case.take(&queue).await;
    let settled = case.finish(&queue, &won, failed(Some(3 * SECOND))).await;
    assert_eq!((settled.state, settled.again_in), (State::Retrying, Some(3 * SECOND)));
    assert!(case.take_now(&queue).await.won.is_empty(), "its delay has not passed");
    case.time.advance(3 * SECOND).await;
    let again = case.take(&queue).await;
    assert_eq!((again.id, again.row.attempt, again.row.alone), (id, 2, true), "what was tried before runs alone");
    case.finish(&queue, &again, failed(Some(SECOND))).await;
    assert_eq!(case.buried(&queue, id).await.0, "exercise", "the last attempt's failure is final");
}

async fn an_interruption_comes_back_at_once_and_spends_an_attempt(case: &Case<'_>) {
    let queue = case.queue().await;
    let id = case.submit(&queue, |_| {}).await;
    let won = case.take(&queue).await;
    assert_eq!(case.finish(&queue, &won, interrupted(false)).await.again_in, Some(Duration::ZERO));
    let again = case.take(&queue).await;
    assert_eq!(again.row.attempt, 2);
    assert_eq!(case.finish(&queue, &again, interrupted(false)).await.state, State::Failed);
    assert_eq!(case.buried(&queue, id).await.0, Failure::INTERRUPTED);
}

async fn a_task_that_silences_its_worker_each_time_is_buried(case: &Case<'_>) {
    let queue = case.queue().await;
    let id = case.submit(&queue, |_| {}).await;
    for _ in 0..2 {
        case.take(&queue).await;
        case.time.advance(LEASE + SECOND).await;
    }
    let look = async || case.take_now(&queue).await.poisoned == 1;
    eventually_so(case.time, "it is not buried", look).await;
    let (kind, envelope) = case.buried(&queue, id).await;
    assert_eq!((kind.as_str(), envelope.id), (Failure::WORKER_LOST, id));
}

async fn a_task_that_nobody_here_knows_spends_no_attempt(case: &Case<'_>) {
    let queue = case.queue().await;
    let id = case.submit(&queue, |_| {}).await;
    let mut since = None;
    for _ in 0..3 {
        let won = case.take(&queue).await;
        assert_eq!((won.id, won.row.attempt), (id, 1));
        assert_eq!(*since.get_or_insert(won.row.submitted), won.row.submitted, "its age is kept");
        case.finish_as(&queue, &won, Outcome::Snoozed(SECOND), true).await;
        case.time.advance(SECOND).await;
    }
    let won = case.take(&queue).await;
    case.finish(&queue, &won, Outcome::Succeeded(None)).await;
    case.is_empty(&queue).await;
}

async fn an_expired_task_is_buried_unbegun(case: &Case<'_>) {
    let queue = case.queue().await;
    let expires = case.time.now().after(SECOND);
    let id = case.submit(&queue, |envelope| envelope.expires = Some(expires)).await;
    case.time.advance(3 * SECOND).await;
    let look = async || case.take_now(&queue).await.poisoned == 1;
    eventually_so(case.time, "it is not buried", look).await;
    assert_eq!(case.buried(&queue, id).await.0, Failure::EXPIRED);
}

async fn a_late_task_is_taken_at_its_time(case: &Case<'_>) {
    let queue = case.queue().await;
    let at = case.time.now().after(4 * SECOND);
    let id = case.submit(&queue, |envelope| envelope.not_before = Some(at)).await;
    assert!(case.take_now(&queue).await.won.is_empty());
    case.time.advance(5 * SECOND).await;
    let won = case.take(&queue).await;
    assert_eq!((won.id, won.row.attempt), (id, 1));
    case.finish(&queue, &won, Outcome::Succeeded(None)).await;
}

async fn a_key_that_needs_rows_is_refused(case: &Case<'_>) {
    let queue = case.queue().await;
    let id = case.submit(&queue, |envelope| envelope.idempotency_key = Some("k".into())).await;
    let look = async || case.take_now(&queue).await.poisoned == 1;
    eventually_so(case.time, "it is not buried", look).await;
    assert_eq!(case.buried(&queue, id).await.0, Failure::POISON);
}

async fn a_failed_task_is_a_dead_letter_with_its_reason(case: &Case<'_>) {
    let queue = case.queue().await;
    let id = case.submit(&queue, |_| {}).await;
    let won = case.take(&queue).await;
    assert_eq!(case.finish(&queue, &won, failed(None)).await.state, State::Failed);
    case.is_empty(&queue).await;
    case.has_no_row(id).await;
    let letter = case.dead_letter(&queue).await;
    assert_eq!(
        (letter.attributes["error_kind"].as_str(), letter.attributes["error_message"].as_str()),
        ("exercise", "no luck")
    );
    assert_eq!(letter.body, won.spec, "it can be sent again as it is");
}

async fn what_cannot_be_read_is_a_dead_letter_as_it_came(case: &Case<'_>) {
    let queue = case.queue().await;
    let body = "{\"task\":7}".to_owned();
    let message = OutgoingMessage { body: body.clone(), ..OutgoingMessage::default() };
    only(case.backend.broker().send(&queue, &[message]).await).unwrap();
    let look = async || case.take_now(&queue).await.poisoned == 1;
    eventually_so(case.time, "it is not buried", look).await;
    case.is_empty(&queue).await;
    let letter = case.dead_letter(&queue).await;
    assert_eq!((letter.body, letter.attributes["error_kind"].as_str()), (body, Failure::POISON));
}

async fn a_failed_task_has_a_row_and_is_redriven_with_one(case: &Case<'_>) {
    let queue = case.queue().await;
    let id = case.submit(&queue, |_| {}).await;
    let won = case.take(&queue).await;
    case.finish(&queue, &won, failed(None)).await;
    case.is_empty(&queue).await;
    let detail = only(case.backend.tasks().read(&[id]).await.unwrap()).unwrap();
    assert_eq!((detail.record.state, detail.record.attempt), (State::Failed, 1));
    assert_eq!(detail.record.failure.as_ref().unwrap().message, "no luck");
    let attempt = only(detail.attempts);
    assert_eq!((attempt.log.text.as_str(), attempt.outcome.as_deref()), ("its last words\n", Some("failed")));
    only(case.backend.redrive(&[id]).await).unwrap();
    let again = case.take(&queue).await;
    assert!(!again.is_rowless());
    assert_eq!((again.id, again.row.attempt, again.row.max_attempts), (id, 1, 2));
    let settlement =
        Settlement { id, fence: again.row.fence, outcome: Outcome::Succeeded(None), log: Log::default(), keep: KEEP };
    let hideable = case.backend.broker().limits().visibility_max;
    let finish = Finish { queue: queue.clone(), settlement, receipt: again.receipt, hideable };
    assert_eq!(only(case.backend.finish(&[finish]).await).unwrap().state, State::Succeeded);
    case.is_empty(&queue).await;
}
