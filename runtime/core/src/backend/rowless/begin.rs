//! From a delivery to an attempt without a claim, or to what else becomes of it.
//!
//! Time is the broker's alone: of a message that was just received for the first time, `first_received` is now.

use std::{collections::HashMap, time::Duration};

use super::{
    anew,
    bury::{Dead, Fallen, bury, worn_out},
    fate_of, send_again, since, verbatim,
};
use crate::{
    backend::{
        Backend, ClaimPolicy, Delivery, Fate, Log, OutgoingMessage, Taken, Won, WonRow, claim::put_away, poison_failure,
    },
    config::Track,
    envelope::{DecodeError, Envelope},
    ids::{FencingToken, QueueName, ReceiptHandle, WorkerId},
    limits::UNKNOWN_TASK_PATIENCE,
    outcome::Failure,
    time::Timestamp,
};

/// What deliveries came to.
#[derive(Default)]
pub(super) struct Begun {
    pub(super) taken: Taken,
    pub(super) fates: HashMap<ReceiptHandle, Fate>,
}

/// What one delivery comes to.
enum Look {
    Begin(Box<Won>),
    /// It was purged.
    Drop,
    Again(Box<OutgoingMessage>),
    Bury(Box<Dead>),
}

pub(super) async fn begin<B: Backend + ?Sized>(
    backend: &B,
    track: Track,
    policy: &ClaimPolicy,
    worker: &WorkerId,
    deliveries: Vec<Delivery>,
) -> Begun {
    let mut begun = Begun::default();
    let (mut again, mut buried, mut drops) = (Vec::new(), Vec::new(), Vec::new());
    for delivery in deliveries {
        let receipt = delivery.receipt.clone();
        match look(backend, policy, worker, delivery) {
            Look::Begin(won) => {
                begun.fates.insert(receipt, Fate::Kept);
                begun.taken.won.push(*won);
            }
            Look::Drop => drops.push(receipt),
            Look::Again(message) => again.push((receipt, *message)),
            Look::Bury(dead) => buried.push((receipt, *dead)),
        }
    }
    begun.taken.idle = again.len() + drops.len();
    begun.taken.poisoned = buried.len();
    if !again.is_empty() {
        let is_fifo = backend.broker().is_fifo(&policy.queue);
        let answers = send_again(backend, &policy.queue, again).await;
        begun.fates.extend(answers.into_iter().map(|(receipt, answer)| (receipt, fate_of(is_fifo, answer))));
    }
    if !buried.is_empty() {
        let (receipts, dead): (Vec<ReceiptHandle>, Vec<Dead>) = buried.into_iter().unzip();
        let answers = bury(backend, track, &policy.queue, dead).await;
        // One that could not be buried stays hidden for a while and is tried again.
        let fate = |buried: bool| if buried { Fate::Deleted } else { Fate::Unknown };
        let fates: Vec<Fate> = answers.iter().map(|answer| fate(answer.is_ok())).collect();
        put_away(backend, policy, &receipts, &fates).await;
        begun.fates.extend(receipts.into_iter().zip(fates));
    }
    if !drops.is_empty() {
        backend.broker().delete(&policy.queue, &drops).await;
        begun.fates.extend(drops.into_iter().map(|receipt| (receipt, Fate::Deleted)));
    }
    begun
}

fn look<B: Backend + ?Sized>(backend: &B, policy: &ClaimPolicy, worker: &WorkerId, delivery: Delivery) -> Look {
    if policy.purged_before.is_some_and(|purge| delivery.sent <= purge) {
        return Look::Drop;
    }
    let envelope = match Envelope::decode(&delivery.body, &delivery.message, policy.raw_task.as_ref()) {
        Ok(envelope) => envelope,
        Err(error) => return unreadable(delivery, &error),
    };
    let max_attempts = envelope.max_attempts.unwrap_or(u32::MAX).min(policy.max_attempts).max(1);
    let is_first = delivery.receive_count <= 1;
    let is_due = |at: Timestamp| is_first && at <= delivery.first_received;
    let is_fifo = backend.broker().is_fifo(&policy.queue);
    // Nobody has begun what came before its time, however often it was received: who had it died before sending it anew.
    let early = envelope.not_before.filter(|at| !is_fifo && *at > delivery.first_received);
    let failure = if let Some(key) = unkept_key(&envelope) {
        Some(Failure::new(Failure::POISON, no_rows_for(key, &policy.queue)))
    } else if early.is_none() && delivery.receive_count > max_attempts {
        Some(worn_out(max_attempts))
    } else if envelope.expires.is_some_and(is_due) {
        Some(Failure::new(Failure::EXPIRED, "no attempt began before its `expires`"))
    } else {
        None
    };
    if let Some(failure) = failure {
        return Look::Bury(Box::new(Dead::Task(Box::new(Fallen {
            submitted: since(&delivery),
            attempt: delivery.receive_count.saturating_sub(1),
            max_attempts,
            worker: worker.clone(),
            started: delivery.first_received,
            failure,
            log: Log::default(),
            keep: policy.keep,
            envelope,
        }))));
    }
    if let Some(at) = early {
        let delay = whole_seconds(at.since(delivery.first_received));
        let message = anew(backend, &policy.queue, &envelope, since(&delivery), &delivery.message, delay);
        return Look::Again(Box::new(message));
    }
    let row = WonRow {
        fence: FencingToken::NONE,
        attempt: delivery.receive_count,
        max_attempts,
        // What was tried before may have killed its process: it gets an invocation of its own.
        alone: !is_first,
        submitted: since(&delivery),
        queued_at: delivery.sent,
        started: delivery.first_received,
        checkpoint: None,
    };
    Look::Begin(Box::new(Won {
        id: envelope.id,
        task: envelope.task.clone(),
        spec: envelope.encode(),
        message: delivery.message,
        receipt: Some(delivery.receipt),
        receive_count: delivery.receive_count,
        sent: delivery.sent,
        first_received: delivery.first_received,
        row,
    }))
}

/// Why a field of an envelope cannot be kept.
pub(super) fn no_rows_for(field: &str, queue: &QueueName) -> String {
    format!(
        "`{field}` needs rows, and queue {queue} keeps none: leave it out, or write track = \"full\" in [queues.{queue}]"
    )
}

/// A key whose promise only rows can keep.
fn unkept_key(envelope: &Envelope) -> Option<&'static str> {
    let keys = [("idempotency_key", &envelope.idempotency_key), ("concurrency_key", &envelope.concurrency_key)];
    keys.into_iter().find_map(|(name, key)| key.is_some().then_some(name))
}

/// A newer worker may read what this one cannot: the message goes back until the patience is spent.
fn unreadable(delivery: Delivery, error: &DecodeError) -> Look {
    let since = since(&delivery);
    let age = delivery.first_received.since(since);
    if matches!(error, DecodeError::Newer(_)) && age < UNKNOWN_TASK_PATIENCE {
        let delay = whole_seconds((age / 4).clamp(Duration::from_secs(5), Duration::from_secs(300)));
        return Look::Again(Box::new(verbatim(&delivery, since, delay)));
    }
    let Delivery { message, body, attributes, .. } = delivery;
    let failure = poison_failure(error, &body);
    Look::Bury(Box::new(Dead::Unreadable { message, body, attributes, failure }))
}

fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}
