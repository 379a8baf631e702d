//! What a place owes that keeps tasks without a row until their queue can delay them.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use rhubarb_core::{
    backend::{Backend, LateMessage, Later, OutgoingMessage, StoreError, Submitted, Won},
    config::Track,
    envelope::Envelope,
    ids::{QueueName, TaskId},
    limits::Limits,
    outcome::Outcome,
    row::State,
    time::Timestamp,
};
use serde_json::value::RawValue;

use super::{SECOND, all, eventually, eventually_so, new_envelope, only, rowless::Case};
use crate::clock::Clockwork;

const HOUR: Duration = Duration::from_secs(60 * 60);
/// How often it is looked for what is sent at its time: an emulator of EventBridge looks every ten seconds.
const LOOKS: usize = 300;

/// Exercises a backend that has such a place. Its queues should delay for seconds at most.
///
/// # Panics
///
/// It does not do what it owes, or there is none.
pub async fn later(backend: &dyn Backend, time: &dyn Clockwork) {
    let case = Case { backend, time, track: Track::None };
    let facts: Vec<LocalBoxFuture<'_, ()>> = vec![
        Box::pin(a_task_beyond_its_queues_delay_is_begun_once_and_never_before_its_time(&case)),
        Box::pin(a_task_that_is_kept_is_in_no_queue_is_one_and_can_be_forgotten(&case)),
        Box::pin(a_task_whose_time_is_near_or_has_come_goes_to_its_queue(&case)),
        Box::pin(what_came_early_is_begun_by_nobody_however_often_it_was_received(&case)),
        Box::pin(a_task_that_no_schedule_holds_is_refused(&case)),
        Box::pin(a_message_whose_time_has_come_is_refused(&case)),
    ];
    all(time, facts).await;
}

impl Case<'_> {
    fn later(&self) -> &dyn Later {
        self.backend.schedules().later().expect("there is a place to keep them")
    }

    fn limits(&self) -> &Limits {
        self.backend.broker().limits()
    }

    async fn forget(&self, id: TaskId) -> bool {
        only(self.later().forget(&[id]).await).unwrap()
    }

    /// What is taken when its time has come.
    async fn take_in_time(&self, queue: &QueueName) -> Won {
        for _ in 0..LOOKS {
            if let Some(won) = self.take_now(queue).await.won.pop() {
                return won;
            }
            self.time.advance(SECOND).await;
        }
        panic!("nothing is taken");
    }
}

/// Arguments that a schedule must not fill in.
fn envelope_at(at: Timestamp) -> Envelope {
    let args = r#"{"text":"<aws.scheduler.scheduled-time> & \u00e4 ä"}"#;
    Envelope { args: RawValue::from_string(args.into()).unwrap(), not_before: Some(at), ..new_envelope() }
}

fn value(json: &RawValue) -> serde_json::Value {
    serde_json::from_str(json.get()).unwrap()
}

async fn a_task_beyond_its_queues_delay_is_begun_once_and_never_before_its_time(case: &Case<'_>) {
    let queue = case.queue().await;
    let at = case.time.now().after(case.limits().delay_max + 3 * SECOND);
    let envelope = envelope_at(at);
    assert_eq!(case.submit_as(&queue, &envelope).await.unwrap(), Submitted::New);
    case.has_no_row(envelope.id).await;
    let won = case.take_in_time(&queue).await;
    assert!(won.is_rowless());
    assert_eq!((won.id, won.row.attempt, won.row.alone), (envelope.id, 1, false));
    assert!(won.row.started >= at, "it was begun at {}, and not to be before {at}", won.row.started);
    let spec = Envelope::decode_full(&won.spec).unwrap();
    assert_eq!((spec.not_before, value(&spec.args)), (Some(at), value(&envelope.args)));
    assert_eq!(case.finish(&queue, &won, Outcome::Succeeded(None)).await.state, State::Succeeded);
    case.is_empty(&queue).await;
}

async fn a_task_that_is_kept_is_in_no_queue_is_one_and_can_be_forgotten(case: &Case<'_>) {
    let queue = case.queue().await;
    let envelope = envelope_at(case.time.now().after(HOUR));
    assert_eq!(case.submit_as(&queue, &envelope).await.unwrap(), Submitted::New);
    assert_eq!(case.submit_as(&queue, &envelope).await.unwrap(), Submitted::Exists(State::Scheduled));
    case.is_empty(&queue).await;
    assert!(case.forget(envelope.id).await);
    assert!(!case.forget(envelope.id).await, "it was forgotten");
    assert_eq!(case.submit_as(&queue, &envelope).await.unwrap(), Submitted::New);
    assert!(case.forget(envelope.id).await);
}

async fn a_task_whose_time_is_near_or_has_come_goes_to_its_queue(case: &Case<'_>) {
    let queue = case.queue().await;
    let now = case.time.now();
    for at in [now.after(case.limits().delay_max / 2), now.before(HOUR)] {
        let id = case.submit(&queue, |envelope| envelope.not_before = Some(at)).await;
        assert!(!case.forget(id).await, "it is in its queue");
        let won = case.take_in_time(&queue).await;
        assert_eq!(won.id, id);
        case.finish(&queue, &won, Outcome::Succeeded(None)).await;
    }
}

async fn what_came_early_is_begun_by_nobody_however_often_it_was_received(case: &Case<'_>) {
    let (queue, broker) = (case.queue().await, case.backend.broker());
    let body = envelope_at(case.time.now().after(HOUR)).encode();
    only(broker.send(&queue, &[OutgoingMessage { body, ..OutgoingMessage::default() }]).await).unwrap();
    for _ in 0..3 {
        // Whoever has it dies before it goes back.
        let receive = async || broker.receive(&queue, 1, SECOND, Duration::ZERO).await.unwrap().pop();
        eventually(case.time, "it does not come back", receive).await;
        case.time.advance(2 * SECOND).await;
    }
    let look = async || {
        let taken = case.take_now(&queue).await;
        assert!(taken.won.is_empty() && taken.poisoned == 0, "{taken:?}");
        taken.idle == 1
    };
    eventually_so(case.time, "it does not come back", look).await;
    let again = async || {
        let delivery = broker.receive(&queue, 1, SECOND, Duration::ZERO).await.unwrap().pop()?;
        Some(delivery.receive_count)
    };
    case.time.advance(case.limits().delay_max).await;
    assert_eq!(eventually(case.time, "it is gone", again).await, 1, "it was sent anew");
}

async fn a_task_that_no_schedule_holds_is_refused(case: &Case<'_>) {
    let queue = case.queue().await;
    let mut envelope = envelope_at(case.time.now().after(HOUR));
    let large = format!("\"{}\"", "x".repeat(case.limits().schedule_input_bytes_max));
    envelope.args = RawValue::from_string(large).unwrap();
    match case.submit_as(&queue, &envelope).await {
        Err(StoreError::Invalid(text)) => {
            assert!(text.contains("`args`") && text.contains("track = \"full\""), "{text}")
        }
        other => panic!("not refused: {other:?}"),
    }
    assert!(!case.forget(envelope.id).await, "it is kept all the same");
}

async fn a_message_whose_time_has_come_is_refused(case: &Case<'_>) {
    let (queue, now) = (case.queue().await, case.time.now());
    let envelope = envelope_at(now);
    let message = LateMessage { task: envelope.id, queue, body: envelope.encode(), at: now };
    match only(case.later().keep(&[message], now).await) {
        Err(StoreError::Invalid(text)) => {
            assert!(text.contains("`not_before`") && text.contains("not to come"), "{text}")
        }
        other => panic!("not refused: {other:?}"),
    }
}
