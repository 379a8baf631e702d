//! A task's doorbell: the one place where its message is made, whoever sends it and why.
//!
//! A FIFO queue accepts a message whose deduplication id it has seen within five minutes and delivers
//! nothing. So the id holds the doorbell's number, which the row raises with every write that leaves it to
//! be rung: two senders of the same bell send one, and a bell that must ring again is a new one. A crash
//! before the send leaves the row unrung, and the sweep sends it.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    backend::{Broker, OutgoingMessage, broker::sqs_accepts, sha256_hex},
    envelope::{Envelope, Trace, VERSION},
    ids::{QueueName, TaskId},
    trace::{AWS_TRACE_HEADER, Parent, TRACEPARENT, TRACESTATE},
};

/// The longest `tracestate` that travels: what W3C Trace Context asks everybody to pass on at least.
const TRACESTATE_CHARS_MAX: usize = 512;

/// A doorbell to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Doorbell<'a> {
    /// The task.
    pub id: TaskId,
    /// Its number, by the task's row.
    pub rings: u32,
    /// The full envelope as JSON: the message's body.
    pub spec: &'a str,
    /// When it may be received, from now. What the queue cannot hold is cut: a bell that comes early is
    /// answered NotYet.
    pub delay: Duration,
}

impl Doorbell<'_> {
    /// The number of the bell that goes out with a new row.
    pub const FIRST: u32 = 1;

    /// Its message.
    ///
    /// On a FIFO queue the group is the ordering key, or else the task's own id (alone in its group it waits
    /// for nobody); there is no delay, since SQS refuses one. On any other queue the group is the fairness
    /// key, if there is one.
    #[must_use]
    pub fn message(&self, queue: &QueueName, broker: &dyn Broker) -> OutgoingMessage {
        let envelope = Envelope::decode_full(self.spec).ok();
        let envelope = envelope.as_ref();
        let attributes = envelope.map(attributes).unwrap_or_default();
        let body = self.spec.to_owned();
        if broker.is_fifo(queue) {
            let ordering_key = envelope.and_then(|envelope| envelope.ordering_key.as_deref());
            return OutgoingMessage {
                body,
                delay: Duration::ZERO,
                attributes,
                group: Some(ordering_key.map_or_else(|| self.id.to_string(), group)),
                deduplication: Some(format!("{}.{}", self.id, self.rings)),
            };
        }
        let fairness_key = envelope.and_then(|envelope| envelope.fairness_key.as_deref());
        let delay = self.delay.min(broker.limits().delay_max);
        OutgoingMessage { body, delay, attributes, group: fairness_key.map(group), deduplication: None }
    }
}

/// What tells a message apart without reading its body, and what a trace goes on by.
fn attributes(envelope: &Envelope) -> BTreeMap<String, String> {
    let Trace { traceparent, tracestate } = envelope.trace.clone().unwrap_or_default();
    let tracestate = tracestate.filter(|state| state.chars().count() <= TRACESTATE_CHARS_MAX);
    // X-Ray, and AWS Lambda with it, reads no other header than its own.
    let xray = traceparent.as_deref().and_then(Parent::read).map(|parent| parent.xray());
    let traces = [(TRACEPARENT, traceparent), (TRACESTATE, tracestate), (AWS_TRACE_HEADER, xray)];
    let traces = traces.into_iter().filter_map(|(name, value)| Some((name, value.filter(|v| is_sendable(v))?)));
    let own = [("task", envelope.task.to_string()), ("v", VERSION.to_string())];
    own.into_iter().chain(traces).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A producer's trace that SQS would refuse is left out: a task is worth more than its trace.
fn is_sendable(value: &str) -> bool {
    !value.is_empty() && value.chars().all(sqs_accepts)
}

/// The group of a key. SQS allows 128 letters, digits and punctuation marks (`SendMessage`,
/// `MessageGroupId`); any other key is known by its hash, which keeps its tasks together as well.
fn group(key: &str) -> String {
    let allowed = (1..=128).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if allowed { key.to_owned() } else { sha256_hex(key.as_bytes()) }
}
