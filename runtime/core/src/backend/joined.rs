//! One value with all faces, and the verbs that join two of them: row first, then the queue.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    backend::{
        BlobKey, Blobs, Broker, Delivery, Doorbell, DueRing, Log, OutgoingMessage, QueueRow, Reach, Result, Rung,
        Schedules, Settlement, Submission, Submitted, TaskDetail, Tasks, Window, WonRow, Workers,
        batches::{self, Bell},
        claim_deliveries,
    },
    config::QueueConfig,
    envelope::DecodeError,
    ids::{MessageId, QueueName, ReceiptHandle, TaskId, TaskName, WorkerId},
    limits::{KEEP_DEFAULT, KEEP_FAILED_DEFAULT, LEASE_DEFAULT, UNKNOWN_TASK_PATIENCE},
    outcome::{Failure, Outcome},
    permit::QueueLimits,
    retry::RetryPolicy,
    row::{AckMode, ClaimTerms, Settled},
    time::Timestamp,
};

/// Parked tasks of one queue or key that are called at a time.
const CALLS_MAX: usize = 100;

/// How a queue's tasks are claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPolicy {
    /// The queue.
    pub queue: QueueName,
    /// When the message is deleted.
    pub ack: AckMode,
    /// How long a lease lasts; in mode `message` the message is hidden as long.
    pub lease: Duration,
    /// Attempts in all.
    pub max_attempts: u32,
    /// Bodies that are no envelopes become a task of this name.
    pub raw_task: Option<TaskName>,
    /// Tasks of this queue that became available at or before this are cancelled.
    pub purged_before: Option<Timestamp>,
    /// How long a settled record is kept: succeeded or cancelled, failed.
    pub keep: (Duration, Duration),
    /// How many tasks of this queue may run.
    pub limits: QueueLimits,
}

impl ClaimPolicy {
    /// The policy of a queue as it is configured. `row` is what the store says of it.
    #[must_use]
    pub fn of(queue: &QueueConfig, row: Option<&QueueRow>) -> Self {
        Self {
            queue: queue.name.clone(),
            ack: queue.ack,
            lease: queue.lease,
            max_attempts: queue.retry.max_attempts,
            raw_task: queue.raw_task.clone(),
            purged_before: row.and_then(|row| row.purged_before),
            keep: (queue.keep, queue.keep_failed),
            limits: queue.limits,
        }
    }

    /// The policy of a queue of which nothing else is said.
    #[must_use]
    pub fn new(queue: QueueName, ack: AckMode) -> Self {
        Self {
            queue,
            ack,
            lease: LEASE_DEFAULT,
            max_attempts: RetryPolicy::default().max_attempts,
            raw_task: None,
            purged_before: None,
            keep: (KEEP_DEFAULT, KEEP_FAILED_DEFAULT),
            limits: QueueLimits::NONE,
        }
    }

    /// The terms of one worker's claims.
    #[must_use]
    pub const fn terms<'a>(&self, worker: &'a WorkerId) -> ClaimTerms<'a> {
        ClaimTerms {
            worker,
            lease: self.lease,
            ack: self.ack,
            max_attempts: self.max_attempts,
            purged_before: self.purged_before,
            limits: self.limits,
        }
    }
}

/// Receives and claims.
#[derive(Clone, Copy, Debug)]
pub struct Take<'a> {
    /// The queue, and how to claim.
    pub policy: &'a ClaimPolicy,
    /// Who takes.
    pub worker: &'a WorkerId,
    /// At most this many.
    pub max: usize,
    /// Waits so long for the first.
    pub wait: Duration,
}

/// A task that was won: all that the holder needs.
#[derive(Clone, Debug)]
pub struct Won {
    /// The task.
    pub id: TaskId,
    /// Its kind.
    pub task: TaskName,
    /// The full envelope as JSON.
    pub spec: String,
    /// The message that led to it.
    pub message: MessageId,
    /// How to extend and delete that message; `None` where the claim deleted it.
    pub receipt: Option<ReceiptHandle>,
    /// How often that message was received.
    pub receive_count: u32,
    /// When that message was sent.
    pub sent: Timestamp,
    /// When that message was first received.
    pub first_received: Timestamp,
    /// The row as won.
    pub row: WonRow,
}

/// What a take brought.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Won tasks.
    pub won: Vec<Won>,
    /// Deliveries that led to nothing: held, early, settled.
    pub idle: usize,
    /// Messages that could not be read; they are buried.
    pub poisoned: usize,
}

/// Settles and puts the queue's side in order.
#[derive(Clone, Debug)]
pub struct Finish {
    /// The queue.
    pub queue: QueueName,
    /// The settlement.
    pub settlement: Settlement,
    /// The message, in mode `message`.
    pub receipt: Option<ReceiptHandle>,
    /// What remains of the longest time that the broker can hide that message.
    pub hideable: Duration,
}

/// What a purge took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purged {
    /// Tasks or messages.
    pub count: u64,
    /// False where the broker counts about.
    pub exact: bool,
}

/// A backend: one value with all faces.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Its queues.
    fn broker(&self) -> &dyn Broker;
    /// Its rows.
    fn tasks(&self) -> &dyn Tasks;
    /// Its blobs.
    fn blobs(&self) -> &dyn Blobs;
    /// Its schedules.
    fn schedules(&self) -> &dyn Schedules;
    /// Its workers.
    fn workers(&self) -> &dyn Workers;

    /// Accepts tasks: row, then message. Returns after the backend has them. The same id again is
    /// harmless: where the first call may have died between the two, it rings again. `now` is the
    /// caller's wall clock, which delays are counted from.
    ///
    /// # Errors
    ///
    /// Per item: `KeyReused`, `Invalid`, or the backend cannot be reached (then the task may or may not
    /// be in; the same call again settles it).
    async fn submit(&self, submissions: &[Submission], now: Timestamp) -> Vec<Result<Submitted>> {
        let mut answers = self.tasks().submit(submissions).await;
        let (mut indexes, mut messages) = (Vec::new(), Vec::new());
        for (index, (submission, answer)) in submissions.iter().zip(&mut answers).enumerate() {
            let doorbell = match answer {
                Ok(Submitted::New) => submission.doorbell(now, self.broker()),
                // Accepted earlier, perhaps by a call that died before it sent.
                Ok(Submitted::Exists(state)) if !state.is_settled() => submission.doorbell(now, self.broker()),
                Ok(Submitted::Keyed(first)) => match doorbell_of_unbegun(self, *first, now).await {
                    Ok(doorbell) => doorbell,
                    Err(error) => {
                        *answer = Err(error);
                        None
                    }
                },
                Ok(Submitted::Exists(_)) | Err(_) => None,
            };
            if let Some(doorbell) = doorbell {
                indexes.push(index);
                messages.push(doorbell);
            }
        }
        for (index, sent) in indexes.into_iter().zip(batches::send(self.broker(), messages).await) {
            if let Err(error) = sent {
                answers[index] = Err(error);
            }
        }
        answers
    }

    /// Receives, claims, and puts back or deletes what was not won.
    ///
    /// # Errors
    ///
    /// The backend cannot be reached; what was received comes back by itself.
    async fn take(&self, take: Take<'_>) -> Result<Taken> {
        let Take { policy, worker, max, wait } = take;
        let broker = self.broker();
        let max = max.min(broker.limits().batch_max);
        let deliveries = broker.receive(&policy.queue, max, policy.lease, wait).await?;
        Ok(claim_deliveries(self, policy, worker, deliveries).await.taken)
    }

    /// Receives by the road that [`Self::take`] receives by, and claims nothing: for queues that keep no rows.
    ///
    /// # Errors
    ///
    /// As [`Broker::receive`].
    async fn deliveries(
        &self,
        queue: &QueueName,
        max: usize,
        visibility: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>> {
        let broker = self.broker();
        broker.receive(queue, max.min(broker.limits().batch_max), visibility, wait).await
    }

    /// Sends anew what the broker would soon move aside for having been received too often, and returns the
    /// others. For feeders that receive by other means than [`Self::take`], which does so itself. A broker
    /// that moves nothing aside returns all.
    async fn send_worn_anew(&self, policy: &ClaimPolicy, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let _ = policy;
        deliveries
    }

    /// Returns when one of these queues may have something to take, or after `wait`: what an agent whose
    /// takes came back empty does next. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// The backend cannot be reached.
    async fn wait_ready(&self, queues: &[QueueName], wait: Duration) -> Result<()>;

    /// Ends what the backend does by itself in this process, and hands back what it holds for takes that do
    /// not come any more. Bounded to a few seconds. For whoever opened it, after its last agent has stopped;
    /// all verbs but waiting still work.
    async fn close(&self) {}

    /// Settles, then deletes, releases or sends, as the row's ack mode wants.
    ///
    /// # Errors
    ///
    /// Per item, as [`Tasks::settle`]. A refused settlement leaves the queue alone.
    async fn finish(&self, finishes: &[Finish]) -> Vec<Result<Settled>> {
        let settlements: Vec<Settlement> = finishes.iter().map(|finish| finish.settlement.clone()).collect();
        let answers = self.tasks().settle(&settlements).await;
        batches::put_in_order(self, finishes, &answers).await;
        // What is not called now the sweep calls.
        let _ = self.call_parked(Reach::Returned).await;
        answers
    }

    /// Calls parked tasks for which permits are free, and rings them. Returns how many it has rung.
    ///
    /// # Errors
    ///
    /// As [`Tasks::call_parked`].
    async fn call_parked(&self, reach: Reach) -> Result<usize> {
        let called = self.tasks().call_parked(reach, CALLS_MAX).await?;
        Ok(batches::ring_called(self, &called).await)
    }

    /// Sends the doorbells of due rows, then notes them as rung. `now` is the caller's wall clock.
    ///
    /// # Errors
    ///
    /// Per item: the backend cannot be reached; the sweep tries again.
    async fn ring(&self, rings: &[DueRing], now: Timestamp) -> Vec<Result<()>> {
        let message = |ring: &DueRing| {
            let delay = ring.not_before.map_or(Duration::ZERO, |at| at.since(now));
            let doorbell = Doorbell { id: ring.id, rings: ring.rings, spec: &ring.spec, delay };
            (ring.queue.clone(), doorbell.message(&ring.queue, self.broker()))
        };
        let messages = rings.iter().map(message).collect();
        let sent = batches::send(self.broker(), messages).await;
        batches::note_sent(self, rings.iter().map(DueRing::rung).collect(), &sent).await
    }

    /// Brings failed tasks back and rings them.
    ///
    /// # Errors
    ///
    /// Per item, as [`Tasks::redrive`].
    async fn redrive(&self, ids: &[TaskId]) -> Vec<Result<Settled>> {
        let answers = self.tasks().redrive(ids).await;
        let brought: Vec<(TaskId, &Settled)> =
            ids.iter().zip(&answers).filter_map(|(id, answer)| Some((*id, answer.as_ref().ok()?))).collect();
        let ids: Vec<TaskId> = brought.iter().map(|(id, _)| *id).collect();
        // Not rung: the sweep does it.
        let found = if ids.is_empty() { Vec::new() } else { self.tasks().read(&ids).await.unwrap_or_default() };
        let bell = |((id, settled), found): (&(TaskId, &Settled), Option<TaskDetail>)| {
            let rung = Rung { id: *id, fence: settled.fence, rings: settled.rings };
            Some(Bell { queue: found?.record.queue, rung, delay: Duration::ZERO })
        };
        let bells: Vec<Bell> = brought.iter().zip(found).filter_map(bell).collect();
        batches::ring(self, &bells).await;
        answers
    }

    /// Forgets failed tasks for good, with the blobs that they name. A blob that cannot be deleted stays behind, and
    /// costs its bytes alone.
    ///
    /// # Errors
    ///
    /// Per item, as [`Tasks::discard`].
    async fn discard(&self, ids: &[TaskId]) -> Vec<Result<()>> {
        let answers = self.tasks().discard(ids).await;
        let named = answers.iter().flatten().flatten();
        let keys: Vec<BlobKey> = named.filter_map(|blob| BlobKey::new(blob.key.clone()).ok()).collect();
        if !keys.is_empty() {
            self.blobs().delete(&keys).await;
        }
        answers.into_iter().map(|answer| answer.map(|_| ())).collect()
    }

    /// Cancels every waiting task of a queue and removes its messages. Running ones are untouched.
    ///
    /// # Errors
    ///
    /// The backend cannot be reached; what was marked is cancelled at claim or by the sweep.
    async fn purge(&self, queue: &QueueName) -> Result<Purged> {
        const STEP: usize = 1000;
        self.tasks().mark_purged(queue).await?;
        let messages = self.broker().purge(queue).await?;
        let mut tasks = 0;
        loop {
            let step = self.tasks().cancel_purged(queue, STEP).await?;
            tasks += step;
            if step < STEP as u64 {
                break;
            }
        }
        Ok(Purged { count: tasks.max(messages), exact: false })
    }
}

impl Submission {
    /// The message that goes out with the row; `None` where the sweep sends it later.
    ///
    /// The store counts a delay that the queue can hold as rung. The caller's clock may be behind the
    /// store's and find the same delay too long, so that one is sent up to twice the limit: a bell that
    /// comes early is answered NotYet.
    fn doorbell(&self, now: Timestamp, broker: &dyn Broker) -> Option<(QueueName, OutgoingMessage)> {
        let delay = self.not_before.map_or(Duration::ZERO, |at| at.since(now));
        (delay <= broker.limits().delay_max * 2).then(|| self.message(now, broker))
    }

    /// Its first message, with as much of its delay as the queue can hold.
    pub(super) fn message(&self, now: Timestamp, broker: &dyn Broker) -> (QueueName, OutgoingMessage) {
        let delay = self.not_before.map_or(Duration::ZERO, |at| at.since(now));
        let doorbell = Doorbell { id: self.id, rings: Doorbell::FIRST, spec: &self.spec, delay };
        (self.queue.clone(), doorbell.message(&self.queue, broker))
    }
}

/// The doorbell of a task that nobody has claimed yet: the call that accepted it may have died before
/// it sent one, and whoever repeats it with its idempotency key relies on the answer.
async fn doorbell_of_unbegun<B: Backend + ?Sized>(
    backend: &B,
    id: TaskId,
    now: Timestamp,
) -> Result<Option<(QueueName, OutgoingMessage)>> {
    let Some(detail) = backend.tasks().read(&[id]).await?.pop().flatten() else { return Ok(None) };
    let has_begun = detail.record.state.is_settled() || !detail.attempts.is_empty();
    let Some(envelope) = detail.spec.filter(|_| !has_begun) else { return Ok(None) };
    let submission = Submission::new(&envelope, detail.record.queue, Window::DEFAULT);
    Ok(submission.doorbell(now, backend.broker()))
}

/// When a body that cannot be read is tried again; `None` buries it.
#[must_use]
pub fn backoff_for_newer(error: &DecodeError, delivery: &Delivery) -> Option<Duration> {
    let DecodeError::Newer(_) = error else { return None };
    // A newer worker may be on its way: back off as 5, 10, 20 s … until the patience is spent.
    let waited: u64 = (0..delivery.receive_count.saturating_sub(1)).map(backoff_seconds).sum();
    let next = Duration::from_secs(backoff_seconds(delivery.receive_count.saturating_sub(1)));
    (Duration::from_secs(waited) + next <= UNKNOWN_TASK_PATIENCE).then_some(next)
}

fn backoff_seconds(round: u32) -> u64 {
    5 << round.min(7)
}

/// Characters of a body that cannot be read that are kept: nobody has it once its message is deleted.
const POISON_CHARS_MAX: usize = 4 * 1024;

/// Why a body that cannot be read is buried, with the body itself: as much of it as is kept.
#[must_use]
pub fn poison_failure(error: &DecodeError, body: &str) -> Failure {
    let kind = match error {
        DecodeError::Newer(_) => Failure::NEWER_ENVELOPE,
        DecodeError::Malformed(_) | DecodeError::Celery => Failure::POISON,
    };
    let (kept, cut) = match body.char_indices().nth(POISON_CHARS_MAX) {
        Some((end, _)) => (&body[..end], "… (cut)"),
        None => (body, ""),
    };
    Failure::new(kind, format!("{error}; its body, {} bytes: {kept}{cut}", body.len()))
}

/// What became of an attempt's output that came too late.
#[must_use]
pub fn too_late(outcome: &Outcome, log: &Log) -> Log {
    let note = format!("[settled too late as {}: a newer holder or the reaper was first]\n", outcome.word());
    Log { text: note + &log.text, ..log.clone() }
}
