//! Adopts what the broker itself moved aside, so that every dead letter is a row.
//!
//! A row is the dead letter. The broker's own dead-letter queue is only a net: for what no reader could decode, and for
//! messages that were received too often without anybody claiming them (a Lambda function that cannot start, agents
//! that die at once). What lies there is put into a row under the task's id, or under the message's own where the body
//! names none: an unreadable one as poison, a readable one as failed with its envelope, so that it can be redriven. The
//! message then goes. What has settled, or is held, needs nothing but that; what is only early goes back to its queue.
//!
//! The row first, then the message: a crash between the two finds the row settled and deletes the message. One between
//! the claim and the settlement leaves a lease that ends, and the task runs after all.

use std::time::Duration;

use rhubarb_core::{
    backend::{
        Backend, ClaimPolicy, ClaimRequest, Delivery, Doorbell, Log, Settlement, StoreError, Submission, Window,
        poison_failure,
    },
    config::{QueueConfig, Track},
    envelope::Envelope,
    ids::{QueueName, TaskId, WorkerId},
    outcome::{Failure, Outcome},
    permit::QueueLimits,
    row::{AckMode, Claim, State},
    time::Timestamp,
};

/// How long what is being looked at stays hidden from others who sweep.
const VISIBILITY: Duration = Duration::from_secs(60);
/// Receives of one look: what is left is for the next.
const ROUNDS_MAX: usize = 20;

/// A dead-letter queue, and what holds for the queue that it belongs to.
struct Net<'a> {
    backend: &'a dyn Backend,
    queue: &'a QueueConfig,
    dead: QueueName,
    worker: &'a WorkerId,
}

/// Adopts what lies in a queue's dead-letter queue. Returns how many messages it put away.
///
/// A queue without rows (track level `none`) is left alone: there the dead-letter queue is where failed tasks stay. So is
/// one that somebody else owns.
///
/// # Errors
///
/// The backend cannot be reached; what was received comes back by itself.
pub(crate) async fn adopt(
    backend: &dyn Backend,
    queue: &QueueConfig,
    worker: &WorkerId,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let Some(dead) = queue.dead_letters().filter(|_| queue.track != Track::None && queue.url.is_none()) else {
        return Ok(0);
    };
    let net = Net { backend, queue, dead, worker };
    let mut adopted = 0;
    for _ in 0..ROUNDS_MAX {
        let max = backend.broker().limits().batch_max;
        let deliveries = match backend.broker().receive(&net.dead, max, VISIBILITY, Duration::ZERO).await {
            Ok(deliveries) => deliveries,
            // Nothing was ever moved aside.
            Err(StoreError::NoQueue(_)) => break,
            Err(error) => return Err(error),
        };
        let count = deliveries.len();
        for delivery in deliveries {
            adopted += u64::from(net.put_away(&delivery, now).await?);
        }
        if count < max {
            break;
        }
    }
    Ok(adopted)
}

impl Net<'_> {
    /// Puts one message into its row and deletes it. Returns whether it did.
    async fn put_away(&self, delivery: &Delivery, now: Timestamp) -> Result<bool, StoreError> {
        match Envelope::decode(&delivery.body, &delivery.message, self.queue.raw_task.as_ref()) {
            Ok(envelope) => {
                if !self.bury(&envelope, delivery, now).await? {
                    return Ok(false);
                }
            }
            Err(error) => {
                let id = TaskId::of_message(&delivery.message);
                let poison = (id, poison_failure(&error, &delivery.body));
                let answers = self.backend.tasks().bury_poison(&self.queue.name, &[poison]).await;
                answers.into_iter().collect::<Result<(), _>>()?;
            }
        }
        // Stale: another sweep has it now, and finds the row settled.
        let deleted = self.backend.broker().delete(&self.dead, std::slice::from_ref(&delivery.receipt)).await;
        Ok(deleted.iter().all(Result::is_ok))
    }

    /// Fails the task of a message, unless it has settled, is held, or is only early. Returns whether nothing needs the
    /// message any more.
    async fn bury(&self, envelope: &Envelope, delivery: &Delivery, now: Timestamp) -> Result<bool, StoreError> {
        // Some worker has met a parked task, and whoever gives a permit back rings it: its message is only one more.
        if self.is_parked(envelope.id).await? {
            return Ok(true);
        }
        let policy = self.policy().await?;
        let submission = Submission::new(envelope, self.queue.name.clone(), Window::DEFAULT);
        let request = ClaimRequest { submission, sent: delivery.sent, terms: policy.terms(self.worker) };
        let Some(answer) = self.backend.tasks().claim(&[request]).await.pop() else { return Ok(false) };
        let answer = answer?;
        let Some(won) = answer.won else {
            return match answer.claim {
                Claim::NotYet(at) => self.send_back(envelope, delivery, at.since(now)).await,
                // Its row is enough, and says what comes next.
                Claim::Won | Claim::Held { .. } | Claim::Settled | Claim::Parked => Ok(true),
            };
        };
        let (dead, id) = (&self.dead, envelope.id);
        let what = format!(
            "its message was received again and again and nobody could run it, until the broker moved it to `{dead}`: \
             see what its workers log, then redrive it"
        );
        tracing::warn!(task.id = %id, queue.name = %self.queue.name, "task {id} has failed: {what}");
        let outcome = Outcome::Failed { failure: Failure::new(Failure::MOVED_ASIDE, what), retry_in: None };
        let settlement = Settlement { id, fence: won.fence, outcome, log: Log::default(), keep: policy.keep };
        match self.backend.tasks().settle(&[settlement]).await.pop() {
            // Refused: a newer holder has it.
            Some(Ok(_) | Err(StoreError::Refused(_) | StoreError::NoTask(_))) => Ok(true),
            Some(Err(error)) => Err(error),
            None => Ok(false),
        }
    }

    async fn is_parked(&self, id: TaskId) -> Result<bool, StoreError> {
        let found = self.backend.tasks().read(&[id]).await?;
        Ok(found.into_iter().flatten().any(|task| task.record.state == State::Waiting))
    }

    /// How its tasks are claimed: by a message that stays until the row is settled.
    async fn policy(&self) -> Result<ClaimPolicy, StoreError> {
        let rows = self.backend.tasks().queues().await?;
        let queue = self.queue;
        let row = rows.iter().find(|row| row.queue == queue.name);
        // Nothing runs: it needs no permit.
        Ok(ClaimPolicy { ack: AckMode::Message, limits: QueueLimits::NONE, ..ClaimPolicy::of(queue, row) })
    }

    /// Sends the doorbell of a task that is to start later to its queue again.
    async fn send_back(&self, envelope: &Envelope, delivery: &Delivery, delay: Duration) -> Result<bool, StoreError> {
        let (broker, queue, spec) = (self.backend.broker(), &self.queue.name, envelope.encode());
        let doorbell = Doorbell { id: envelope.id, rings: Doorbell::FIRST, spec: &spec, delay };
        let mut message = doorbell.message(queue, broker);
        // New, and the same for all who find this very message.
        message.deduplication = message.deduplication.map(|_| format!("{}.{}", envelope.id, delivery.message));
        let sent = broker.send(queue, &[message]).await;
        sent.into_iter().try_for_each(|sent| sent.map(drop))?;
        Ok(true)
    }
}
