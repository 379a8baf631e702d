//! Tasks without a row: the verbs of queues whose `track` is `failures` or `none`.
//!
//! There is no claim. The message is all there is of such a task: its receives are its attempts, its visibility is
//! the pause before a retry, and it is deleted when the task is done. What fails for good goes, with its reason, into
//! the queue's dead-letter queue (`none`) or into a row (`failures`), and then the message is deleted. A task that has
//! such a row and is redriven is claimed and settled as at `full`: its envelope says so.
//!
//! What must go back before an attempt has begun (it came early, its envelope is newer, nobody here knows its task, its
//! queue is paused) is sent anew and the old message deleted, so that receives stay attempts. A FIFO queue would lose
//! its order by that: there it is hidden, which spends an attempt.
//!
//! A crash before the delete brings the message back, and the task runs again; one between the send of a new message
//! and the delete of the old leaves two. Both are what "at least once" says.

mod begin;
mod bury;
mod end;
mod submit;

use std::time::Duration;

pub use self::{
    end::{Ended, finish},
    submit::submit,
};
use crate::{
    backend::{
        Backend, ClaimPolicy, Claimed, Delivery, Doorbell, Fate, OutgoingMessage, Result, Take, Taken, Won,
        claim_deliveries,
    },
    config::Track,
    envelope::Envelope,
    ids::{FencingToken, MessageId, QueueName, ReceiptHandle, WorkerId},
    time::Timestamp,
};

/// The attribute of a message that was sent anew: when the first one was sent, in milliseconds.
const SINCE: &str = "since";

impl Won {
    /// True if nothing was claimed: the task's message is all there is of it.
    #[must_use]
    pub fn is_rowless(&self) -> bool {
        self.row.fence == FencingToken::NONE
    }
}

/// Takes from a queue of this level, whichever it is: [`Backend::take`], or receives alone.
///
/// # Errors
///
/// The backend cannot be reached; what was received comes back by itself.
pub async fn take<B: Backend + ?Sized>(backend: &B, track: Track, take: Take<'_>) -> Result<Taken> {
    if track == Track::Full {
        return backend.take(take).await;
    }
    let Take { policy, worker, max, wait } = take;
    let deliveries = backend.deliveries(&policy.queue, max, policy.lease, wait).await?;
    Ok(open(backend, track, policy, worker, deliveries).await.taken)
}

/// Decides about deliveries of a queue of this level that were received by other means than [`take`]: sends worn ones
/// anew and claims the others, or claims nothing.
pub async fn open<B: Backend + ?Sized>(
    backend: &B,
    track: Track,
    policy: &ClaimPolicy,
    worker: &WorkerId,
    deliveries: Vec<Delivery>,
) -> Claimed {
    let receipts: Vec<ReceiptHandle> = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
    let (with_row, without): (Vec<Delivery>, Vec<Delivery>) =
        deliveries.into_iter().partition(|delivery| has_row(track, policy, delivery));
    let mut claimed = begin::begin(backend, track, policy, worker, without).await;
    let mut taken = claimed.taken;
    if !with_row.is_empty() {
        let deliveries = backend.send_worn_anew(policy, with_row).await;
        let kept: Vec<ReceiptHandle> = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
        let more = claim_deliveries(backend, policy, worker, deliveries).await;
        claimed.fates.extend(kept.into_iter().zip(more.fates));
        taken.won.extend(more.taken.won);
        taken.idle += more.taken.idle;
        taken.poisoned += more.taken.poisoned;
    }
    // One that was sent anew for its many receives is gone from the queue.
    let fate = |receipt| claimed.fates.get(receipt).copied().unwrap_or(Fate::Deleted);
    Claimed { fates: receipts.iter().map(fate).collect(), taken }
}

/// True if the task has a row: every one at `full`; at `failures` one that failed before and was redriven.
fn has_row(track: Track, policy: &ClaimPolicy, delivery: &Delivery) -> bool {
    // Read twice only where the word is there at all.
    let is_redriven = || {
        delivery.body.contains("\"redriven\"")
            && Envelope::decode(&delivery.body, &delivery.message, policy.raw_task.as_ref())
                .is_ok_and(|envelope| envelope.redriven.is_some_and(|times| times > 0))
    };
    match track {
        Track::Full => true,
        Track::Failures => is_redriven(),
        Track::None => false,
    }
}

/// When the first message of a task was sent: what its age is counted from.
fn since(delivery: &Delivery) -> Timestamp {
    let noted = delivery.attributes.get(SINCE).and_then(|text| text.parse().ok()).map(Timestamp);
    noted.map_or(delivery.sent, |since| since.min(delivery.sent))
}

/// Puts deliveries back that nobody has begun, to be delivered after this: their tasks spend no attempt by it.
pub async fn put_back<B: Backend + ?Sized>(
    backend: &B,
    policy: &ClaimPolicy,
    deliveries: Vec<Delivery>,
    delay: Duration,
) -> Vec<Fate> {
    let again = |delivery: Delivery| {
        let since = since(&delivery);
        let message = match Envelope::decode(&delivery.body, &delivery.message, policy.raw_task.as_ref()) {
            Ok(envelope) => anew(backend, &policy.queue, &envelope, since, &delivery.message, delay),
            Err(_) => verbatim(&delivery, since, delay),
        };
        (delivery.receipt, message)
    };
    let is_fifo = backend.broker().is_fifo(&policy.queue);
    let answers = send_again(backend, &policy.queue, deliveries.into_iter().map(again).collect()).await;
    answers.into_iter().map(|(_, answer)| fate_of(is_fifo, answer)).collect()
}

/// What became of a message that was sent again, or hidden where its queue keeps an order.
fn fate_of(is_fifo: bool, answer: Result<Duration>) -> Fate {
    match answer {
        Ok(delay) if is_fifo => Fate::Back(delay),
        Ok(_) => Fate::Deleted,
        Err(_) => Fate::Unknown,
    }
}

/// Sends messages anew that have not been begun, and deletes the old ones. Where the queue keeps an order, they are
/// hidden instead. Returns what became of each; an error leaves a message as it is.
async fn send_again<B: Backend + ?Sized>(
    backend: &B,
    queue: &QueueName,
    again: Vec<(ReceiptHandle, OutgoingMessage)>,
) -> Vec<(ReceiptHandle, Result<Duration>)> {
    let broker = backend.broker();
    let delay_max = broker.limits().delay_max;
    if broker.is_fifo(queue) {
        let releases: Vec<(ReceiptHandle, Duration)> =
            again.into_iter().map(|(receipt, message)| (receipt, message.delay)).collect();
        let answers = broker.release(queue, &releases).await;
        return releases
            .into_iter()
            .zip(answers)
            .map(|((receipt, delay), answer)| (receipt, answer.map(|()| delay)))
            .collect();
    }
    let (receipts, mut messages): (Vec<ReceiptHandle>, Vec<OutgoingMessage>) = again.into_iter().unzip();
    messages.iter_mut().for_each(|message| message.delay = message.delay.min(delay_max));
    let sent = broker.send(queue, &messages).await;
    let each = receipts.into_iter().zip(sent).zip(messages);
    let answers: Vec<(ReceiptHandle, Result<Duration>)> =
        each.map(|((receipt, sent), message)| (receipt, sent.map(|_| message.delay))).collect();
    let old: Vec<ReceiptHandle> =
        answers.iter().filter(|(_, answer)| answer.is_ok()).map(|(receipt, _)| receipt.clone()).collect();
    if !old.is_empty() {
        // One that stays comes back and is a second message of its task.
        broker.delete(queue, &old).await;
    }
    answers
}

/// The message of a task that goes back before it was begun.
fn anew<B: Backend + ?Sized>(
    backend: &B,
    queue: &QueueName,
    envelope: &Envelope,
    since: Timestamp,
    message: &MessageId,
    delay: Duration,
) -> OutgoingMessage {
    let spec = envelope.encode();
    let doorbell = Doorbell { id: envelope.id, rings: Doorbell::FIRST, spec: &spec, delay };
    let mut anew = doorbell.message(queue, backend.broker());
    (anew.deduplication, anew.delay) = (anew.deduplication.map(|_| format!("{}.{message}", envelope.id)), delay);
    anew.attributes.insert(SINCE.to_owned(), since.as_millis().to_string());
    anew
}

/// The same of a message that cannot be read.
fn verbatim(delivery: &Delivery, since: Timestamp, delay: Duration) -> OutgoingMessage {
    let mut attributes = delivery.attributes.clone();
    attributes.insert(SINCE.to_owned(), since.as_millis().to_string());
    OutgoingMessage { body: delivery.body.clone(), delay, attributes, ..OutgoingMessage::default() }
}
