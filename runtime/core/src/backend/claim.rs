//! From deliveries to claims: what is won, and what becomes of every other message.
//!
//! One body for whoever received them: a take of our own, or Lambda's event source mapping. Neither the
//! deletes nor the releases need an answer: a message that stays comes back and is answered Held, NotYet or
//! Settled. A crash after the claims leaves leases that end and messages that come back.

use std::time::Duration;

use crate::{
    backend::{
        Backend, ClaimPolicy, ClaimRequest, Delivery, Reach, Submission, Taken, Window, Won, backoff_for_newer,
        poison_failure,
    },
    envelope::{DecodeError, Envelope},
    ids::{ReceiptHandle, TaskId, WorkerId},
    outcome::Failure,
    row::Disposition,
    schedule::{arrive, is_unfilled},
};

/// What became of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its task was won and the message is its holder's, to be extended and deleted.
    Kept,
    /// Nothing needs the message any more: it may be deleted, and was asked to be.
    Deleted,
    /// It goes back, to be delivered again after this.
    Back(Duration),
    /// The store did not answer: it stays hidden as long as the receive hid it.
    Unknown,
}

/// What some deliveries came to.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// The tasks that were won, and the counts.
    pub taken: Taken,
    /// What became of each delivery, in the order given.
    pub fates: Vec<Fate>,
}

/// Decodes and claims deliveries of one queue, and puts back or deletes what was not won.
pub async fn claim_deliveries<B: Backend + ?Sized>(
    backend: &B,
    policy: &ClaimPolicy,
    worker: &WorkerId,
    deliveries: Vec<Delivery>,
) -> Claimed {
    let mut claimed = Claimed { taken: Taken::default(), fates: vec![Fate::Unknown; deliveries.len()] };
    let receipts: Vec<ReceiptHandle> = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
    let mut readable = Vec::with_capacity(deliveries.len());
    let mut poison = Vec::new();
    for (index, delivery) in deliveries.into_iter().enumerate() {
        match Envelope::decode(&delivery.body, &delivery.message, policy.raw_task.as_ref()) {
            Ok(mut envelope) => {
                envelope.join_trace(&delivery.attributes);
                readable.push((index, delivery, envelope));
            }
            Err(error) => match backoff_for_newer(&error, &delivery) {
                Some(delay) => claimed.fates[index] = Fate::Back(delay),
                None => poison.push((index, delivery, error)),
            },
        }
    }
    bury(backend, policy, poison, &mut claimed).await;
    let ticks = readable.iter_mut().map(|(_, delivery, envelope)| (envelope, delivery.sent)).collect();
    if arrive(backend, ticks).await.is_err() {
        // They stay hidden, and are tried again: without its time a tick would run beside itself.
        readable.retain(|(_, _, envelope)| !is_unfilled(envelope));
    }
    claim(backend, policy, worker, readable, &mut claimed).await;
    put_away(backend, policy, &receipts, &claimed.fates).await;
    if !policy.limits.is_none() {
        // A claim may show that more may start; what is not called now the sweep calls.
        let _ = backend.call_parked(Reach::Returned).await;
    }
    claimed
}

async fn bury<B: Backend + ?Sized>(
    backend: &B,
    policy: &ClaimPolicy,
    poison: Vec<(usize, Delivery, DecodeError)>,
    claimed: &mut Claimed,
) {
    if poison.is_empty() {
        return;
    }
    claimed.taken.poisoned = poison.len();
    let buried: Vec<(TaskId, Failure)> = poison
        .iter()
        .map(|(_, delivery, error)| (TaskId::of_message(&delivery.message), poison_failure(error, &delivery.body)))
        .collect();
    let answers = backend.tasks().bury_poison(&policy.queue, &buried).await;
    for ((index, _, _), _) in poison.iter().zip(answers).filter(|(_, answer)| answer.is_ok()) {
        claimed.fates[*index] = Fate::Deleted;
    }
}

async fn claim<B: Backend + ?Sized>(
    backend: &B,
    policy: &ClaimPolicy,
    worker: &WorkerId,
    readable: Vec<(usize, Delivery, Envelope)>,
    claimed: &mut Claimed,
) {
    if readable.is_empty() {
        return;
    }
    let requests: Vec<ClaimRequest<'_>> = readable
        .iter()
        .map(|(_, delivery, envelope)| ClaimRequest {
            submission: Submission::new(envelope, policy.queue.clone(), Window::DEFAULT),
            sent: delivery.sent,
            terms: policy.terms(worker),
        })
        .collect();
    let answers = backend.tasks().claim(&requests).await;
    let specs: Vec<String> = requests.into_iter().map(|request| request.submission.spec).collect();
    let hideable = backend.broker().limits().visibility_max;
    for (((index, delivery, envelope), answer), spec) in readable.into_iter().zip(answers).zip(specs) {
        // A claim whose answer never came stays hidden until its visibility ends.
        let Ok(answer) = answer else { continue };
        let disposition = answer.claim.disposition(policy.ack, answer.now, hideable);
        claimed.fates[index] = fate_of(disposition);
        let Some(row) = answer.won else {
            claimed.taken.idle += 1;
            continue;
        };
        claimed.taken.won.push(Won {
            id: envelope.id,
            task: envelope.task,
            spec,
            message: delivery.message,
            receipt: (disposition == Disposition::Keep).then_some(delivery.receipt),
            receive_count: delivery.receive_count,
            sent: delivery.sent,
            first_received: delivery.first_received,
            row,
        });
    }
}

const fn fate_of(disposition: Disposition) -> Fate {
    match disposition {
        Disposition::Delete => Fate::Deleted,
        Disposition::Hide(time) => Fate::Back(time),
        Disposition::Keep => Fate::Kept,
    }
}

pub(super) async fn put_away<B: Backend + ?Sized>(
    backend: &B,
    policy: &ClaimPolicy,
    receipts: &[ReceiptHandle],
    fates: &[Fate],
) {
    let each = || receipts.iter().zip(fates);
    let deletes: Vec<ReceiptHandle> =
        each().filter(|(_, fate)| **fate == Fate::Deleted).map(|(receipt, _)| receipt.clone()).collect();
    let releases: Vec<(ReceiptHandle, Duration)> = each()
        .filter_map(|(receipt, fate)| match fate {
            Fate::Back(delay) => Some((receipt.clone(), *delay)),
            Fate::Kept | Fate::Deleted | Fate::Unknown => None,
        })
        .collect();
    if !deletes.is_empty() {
        backend.broker().delete(&policy.queue, &deletes).await;
    }
    if !releases.is_empty() {
        backend.broker().release(&policy.queue, &releases).await;
    }
}
