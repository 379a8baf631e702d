//! The one message that rings for a task: its group, its number and what goes beside its body.

#![allow(clippy::unwrap_used, reason = "a test may stop where it stands")]

use std::time::Duration;

use async_trait::async_trait;
use rhubarb_core::{
    backend::{Broker, Counts, Delivery, Doorbell, OutgoingMessage, QueueSpec, Result},
    envelope::{Envelope, Trace, null},
    ids::{MessageId, QueueName, ReceiptHandle, TaskId, TaskName},
    limits::Limits,
};

/// Knows its queues, and has none.
struct Kinds;

#[async_trait]
impl Broker for Kinds {
    fn limits(&self) -> &Limits {
        &Limits::AWS
    }

    fn is_fifo(&self, queue: &QueueName) -> bool {
        queue.as_str() == "ordered"
    }

    async fn declare(&self, _: &[QueueSpec]) -> Result<()> {
        unreachable!()
    }

    async fn send(&self, _: &QueueName, _: &[OutgoingMessage]) -> Vec<Result<MessageId>> {
        unreachable!()
    }

    async fn receive(&self, _: &QueueName, _: usize, _: Duration, _: Duration) -> Result<Vec<Delivery>> {
        unreachable!()
    }

    async fn extend(&self, _: &QueueName, _: &[(ReceiptHandle, Duration)]) -> Vec<Result<()>> {
        unreachable!()
    }

    async fn delete(&self, _: &QueueName, _: &[ReceiptHandle]) -> Vec<Result<()>> {
        unreachable!()
    }

    async fn counts(&self, _: &QueueName) -> Result<Counts> {
        unreachable!()
    }

    async fn purge(&self, _: &QueueName) -> Result<u64> {
        unreachable!()
    }
}

fn message(queue: &str, rings: u32, delay: u64, change: impl FnOnce(&mut Envelope)) -> OutgoingMessage {
    let mut envelope = Envelope::new(TaskId::from_bytes([7; 16]), TaskName::new("train").unwrap(), null());
    change(&mut envelope);
    let spec = envelope.encode();
    let doorbell = Doorbell { id: envelope.id, rings, spec: &spec, delay: Duration::from_secs(delay) };
    let message = doorbell.message(&QueueName::new(queue).unwrap(), &Kinds);
    assert_eq!(message.body, spec);
    Limits::AWS.check(&message).unwrap();
    message
}

fn attributes(message: &OutgoingMessage) -> Vec<(&str, &str)> {
    message.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn a_fifo_queue_gets_the_ordering_key_as_its_group_and_a_new_id_with_every_bell() {
    let id = TaskId::from_bytes([7; 16]);
    let keyed = |rings| message("ordered", rings, 0, |envelope| envelope.ordering_key = Some("customer-7".into()));
    assert_eq!(keyed(1).group.as_deref(), Some("customer-7"));
    assert_eq!(keyed(1).deduplication, Some(format!("{id}.1")));
    assert_eq!(keyed(2).deduplication, Some(format!("{id}.2")));
    let unkeyed = message("ordered", 1, 0, |envelope| envelope.fairness_key = Some("tenant".into()));
    assert_eq!(unkeyed.group, Some(id.to_string()), "it waits for nobody");
}

#[test]
fn a_standard_queue_gets_the_fairness_key_and_no_deduplication_id() {
    let message = message("plain", 3, 0, |envelope| {
        (envelope.fairness_key, envelope.ordering_key) = (Some("tenant".into()), Some("order".into()));
    });
    assert_eq!((message.group.as_deref(), message.deduplication), (Some("tenant"), None));
}

#[test]
fn a_standard_queue_without_a_key_gets_no_group() {
    assert_eq!(message("plain", 1, 0, |_| {}).group, None);
}

#[test]
fn a_key_that_sqs_refuses_as_a_group_still_keeps_its_tasks_together() {
    let group =
        |key: &str| message("ordered", 1, 0, |envelope| envelope.ordering_key = Some(key.into())).group.unwrap();
    for key in ["Zoë & co", "a b", "", &"k".repeat(129)] {
        assert!(group(key).len() == 64 && group(key).bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
        assert_eq!(group(key), group(key));
    }
    assert_ne!(group("a b"), group("a c"));
    assert_eq!(group(&"k".repeat(128)), "k".repeat(128));
}

#[test]
fn the_delay_is_what_the_queue_can_hold() {
    let delay = |queue, seconds| message(queue, 1, seconds, |_| {}).delay.as_secs();
    assert_eq!((delay("plain", 5), delay("plain", 900), delay("plain", 86_400)), (5, 900, 900));
    assert_eq!(delay("ordered", 5), 0, "SQS refuses one there");
}

const W3C: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn the_trace_goes_on_beside_the_body() {
    assert_eq!(attributes(&message("plain", 1, 0, |_| {})), [("task", "train"), ("v", "1")]);
    let traced = message("plain", 1, 0, |envelope| {
        envelope.trace = Some(Trace { traceparent: Some(W3C.into()), tracestate: Some("x=1".into()) });
    });
    let xray = ("AWSTraceHeader", "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=1");
    let expected = [xray, ("task", "train"), ("traceparent", W3C), ("tracestate", "x=1"), ("v", "1")];
    assert_eq!(attributes(&traced), expected);
}

#[test]
fn a_trace_that_sqs_refuses_is_left_out() {
    for value in ["", "a\u{1}b"] {
        let traced = message("plain", 1, 0, |envelope| {
            envelope.trace = Some(Trace { traceparent: Some(value.into()), tracestate: Some("x".repeat(513)) });
        });
        assert_eq!(attributes(&traced), [("task", "train"), ("v", "1")], "{value:?}");
    }
}
