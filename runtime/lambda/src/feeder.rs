//! One invocation: from the batch that Lambda hands over to the messages that must come back.
//!
//! Only what is known to be settled is answered as done, and Lambda deletes it. Everything else is named as
//! a failure: its visibility says when it comes back, so that a retry waits for its delay and not for the
//! queue's long default. An invocation ends before its deadline, whatever its function does: first the
//! function is told, then it is killed, then the rest of the time goes to settling. A sandbox that is killed
//! all the same leaves a lease that ends and a message that comes back.
//!
//! A sandbox writes no worker's row: it cannot beat while it stands still, and a command could not reach it.
//! Who holds a task is read from the task's row.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rhubarb_core::{
    backend::{Backend, ClaimPolicy, Delivery, Fate, QueueRow, StoreError, rowless},
    config::{Config, QueueConfig, Track, WorkerConfig},
    ids::{MessageId, ReceiptHandle, WorkerId, WorkerName},
    limits::SETTLE_ALLOWANCE,
    time::Timestamp,
};
use rhubarb_host::pipeline::{Cut, Host, HostParts};
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    ear::Ear,
    event::{Event, EventError, Message},
    lines::Lines,
    plan::{InitError, Plan},
};

/// A lease is renewed so often at least: with each renewal comes word of a cancellation.
const RENEW_WITHIN: Duration = Duration::from_secs(5);
/// What settling, and the answer after it, have at the end of an invocation.
const SETTLE_TIME: Duration = Duration::from_secs(4);
/// A function is told so long at most before it is killed for the deadline.
const NOTICE_MAX: Duration = Duration::from_secs(5);
/// What the answer alone has, and of it the last word to the queue about what must come back.
const ANSWER_TIME: Duration = Duration::from_secs(1);
const RELEASE_TIME: Duration = Duration::from_millis(700);
/// What became of a message that nobody knows about: it comes back after the lease that may stand, and
/// later from time to time, so that an outage of the store does not use up its receives.
const UNKNOWN_DOUBLINGS_MAX: u32 = 5;
const UNKNOWN_DELAY_MAX: Duration = Duration::from_secs(900);
/// Messages of a paused queue come back to ask again: seldom, since each time counts as a receive.
const PAUSED_DELAY: Duration = Duration::from_secs(300);

/// The timeout that is deployed leaves a task its own limit: it is cut off only after that.
const _: () = assert!(SETTLE_TIME.as_secs() + NOTICE_MAX.as_secs() < SETTLE_ALLOWANCE.as_secs());
const _: () =
    assert!(RELEASE_TIME.as_millis() < ANSWER_TIME.as_millis() && ANSWER_TIME.as_secs() < SETTLE_TIME.as_secs());

/// Feeds one function from Lambda's invocations.
pub struct Feeder {
    backend: Arc<dyn Backend>,
    config: Arc<Config>,
    queue: Arc<QueueConfig>,
    queue_on_aws: String,
    worker: WorkerId,
    /// How long the function may go on after it was told to stop.
    grace: Duration,
    host: Host,
    ear: Arc<Ear>,
}

/// What an invocation is answered with.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// To a batch: which messages stay in the queue
    /// (<https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html>).
    Batch(BatchAnswer),
    /// To an order to sweep: what was done.
    Swept(rhubarb_host::sweep::Swept),
}

/// Lambda's partial batch response.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchAnswer {
    /// The messages that must come back.
    pub batch_item_failures: Vec<ItemFailure>,
}

/// One message that must come back.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemFailure {
    /// Its id.
    pub item_identifier: MessageId,
}

/// Why an invocation fails as a whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvocationError {
    /// The event is none of ours.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The sweep met this.
    #[error("cannot sweep: {0}")]
    Sweep(#[from] StoreError),
}

/// When an invocation ends.
#[derive(Clone, Copy)]
struct Times {
    cut: Cut,
    /// Nothing is waited for any longer.
    last: Instant,
}

/// A message whose fate is being decided.
struct Pending {
    line: usize,
    message: MessageId,
    receipt: ReceiptHandle,
    receive_count: u32,
}

impl Feeder {
    /// Connects a plan with its backend and starts the function. A function that does not start is no error
    /// here: as anywhere else, the tasks that need it say so.
    ///
    /// # Errors
    ///
    /// The backend cannot be used.
    pub async fn start(plan: Plan, backend: Arc<dyn Backend>) -> Result<Self, InitError> {
        let queue_on_aws = plan.queue_on_aws();
        let Plan { config, queue, function, worker } = plan;
        let ear = Arc::new(Ear::default());
        let grace = function.config.shutdown_grace;
        #[expect(clippy::expect_used, reason = "a constant of letters")]
        let name = WorkerName::new("lambda").expect("`lambda` is a valid worker name");
        let mut serving = WorkerConfig::new(name, vec![queue.name.clone()]);
        serving.concurrency = Some(1);
        let parts = HostParts {
            backend: Arc::clone(&backend),
            config: Arc::clone(&config),
            id: worker.clone(),
            worker: serving,
            functions: BTreeMap::from([(function.config.name.clone(), function)]),
            renew_within: RENEW_WITHIN,
            listener: Some(Arc::clone(&ear) as _),
        };
        let mut host = Host::new(parts);
        // The first words with the store are needed anyway; while they are said, the function starts.
        let (rows, ()) = tokio::join!(backend.tasks().queues(), host.warm_up());
        rows.map_err(|error| InitError::Backend(error.to_string()))?;
        Ok(Self { backend, config, queue, queue_on_aws, worker, grace, host, ear })
    }

    /// Does what an event asks for and says what to answer, before the deadline.
    ///
    /// # Errors
    ///
    /// The event is not for this function, or a sweep met an error. Lambda then leaves the messages alone.
    pub async fn invoke(&self, event: Value, deadline: SystemTime) -> Result<Answer, InvocationError> {
        let left = deadline.duration_since(SystemTime::now()).unwrap_or_default();
        match Event::read(event, &self.queue_on_aws)? {
            Event::Batch(batch) => {
                self.warn_of_a_short_timeout(left);
                let times = Times::new(Instant::now() + left, self.grace);
                let batch_item_failures = self.work(batch, times).await;
                Ok(Answer::Batch(BatchAnswer { batch_item_failures }))
            }
            Event::Sweep => Ok(Answer::Swept(self.sweep().await?)),
        }
    }

    /// Ends the function's process.
    pub async fn end(&self) {
        self.host.functions().end().await;
    }

    async fn sweep(&self) -> Result<rhubarb_host::sweep::Swept, StoreError> {
        let now = Timestamp::from_system(SystemTime::now());
        let shared = self.host.shared();
        shared.sweep.lock().await.run(&*self.backend, &self.config, &shared.worker, now).await
    }

    fn warn_of_a_short_timeout(&self, left: Duration) {
        let wanted = self.queue.invocation_limit();
        // A second for what passed before the event was here.
        if left + Duration::from_secs(1) < wanted {
            let (name, left, wanted) = (&self.queue.name, left.as_secs(), wanted.as_secs());
            tracing::warn!(queue.name = %name, "an invocation has {left} s and queue {name} needs {wanted} s: tasks may be cut off. Set the timeout of the Lambda function to {wanted} s");
        }
    }

    async fn work(&self, batch: Vec<Message>, times: Times) -> Vec<ItemFailure> {
        let _kept = self.keep_leases();
        let row = tokio::time::timeout_at(times.cut.tell.into(), self.queue_row()).await.ok().and_then(Result::ok);
        let mut lines = Lines::new(batch, self.queue.fifo);
        let mut failures = Vec::new();
        loop {
            let round = lines.next();
            if round.is_empty() {
                return failures;
            }
            let (pending, deliveries): (Vec<Pending>, Vec<Delivery>) = round.into_iter().map(Pending::of).unzip();
            let fates = match &row {
                Some(Some(row)) if row.paused => self.put_back(deliveries, PAUSED_DELAY).await,
                Some(_) if Instant::now() >= times.cut.tell => self.put_back(deliveries, Duration::ZERO).await,
                Some(row) => {
                    // A store that does not answer must not keep the invocation beyond its deadline.
                    let run = self.run(row.as_ref(), deliveries, &pending, times);
                    let fates = tokio::time::timeout_at(times.last.into(), run).await;
                    fates.unwrap_or_else(|_| vec![Fate::Unknown; pending.len()])
                }
                None => vec![Fate::Unknown; pending.len()],
            };
            self.answer(&mut lines, pending, fates, &mut failures).await;
        }
    }

    /// Leases are renewed while the invocation lasts, and not between invocations.
    fn keep_leases(&self) -> DropGuard {
        let end = CancellationToken::new();
        let (keeper, until) = (Arc::clone(self.host.keeper()), end.clone());
        tokio::spawn(async move { keeper.run(until).await });
        end.drop_guard()
    }

    /// What the store says about the queue: whether it is paused, and what a purge took.
    async fn queue_row(&self) -> Result<Option<QueueRow>, StoreError> {
        let rows = self.backend.tasks().queues().await;
        let rows = rows.inspect_err(|error| {
            let name = &self.queue.name;
            tracing::error!(queue.name = %name, error = %error, "cannot read about queue {name}; its messages go back");
        })?;
        Ok(rows.into_iter().find(|row| row.queue == self.queue.name))
    }

    /// Claims deliveries, runs what was won and waits until it is settled.
    async fn run(
        &self,
        row: Option<&QueueRow>,
        deliveries: Vec<Delivery>,
        pending: &[Pending],
        times: Times,
    ) -> Vec<Fate> {
        self.ear.clear();
        let policy = ClaimPolicy::of(&self.queue, row);
        let receipts: Vec<ReceiptHandle> = deliveries.iter().map(|delivery| delivery.receipt.clone()).collect();
        let claimed = rowless::open(&*self.backend, self.queue.track, &policy, &self.worker, deliveries).await;
        let batch = self.host.open(&self.queue, claimed.taken.won).await;
        self.host.run_until(batch, times.cut).await;
        // Not written by then, it is known to nobody here; the lease ends, and the row tells.
        let settle_until = times.last.checked_sub(Duration::from_millis(50)).unwrap_or(times.last);
        self.host.settled(settle_until.saturating_duration_since(Instant::now())).await;
        let fates: HashMap<&ReceiptHandle, Fate> = receipts.iter().zip(claimed.fates).collect();
        let fate = |pending: &Pending| match fates.get(&pending.receipt) {
            Some(Fate::Kept) => self.ear.fate(&pending.receipt),
            Some(fate) => *fate,
            None => Fate::Unknown,
        };
        pending.iter().map(fate).collect()
    }

    async fn put_back(&self, deliveries: Vec<Delivery>, delay: Duration) -> Vec<Fate> {
        if self.queue.track != Track::Full {
            return rowless::put_back(&*self.backend, &ClaimPolicy::of(&self.queue, None), deliveries, delay).await;
        }
        let fates = vec![Fate::Back(delay); deliveries.len()];
        self.release(deliveries.into_iter().map(|delivery| (delivery.receipt, delay)).collect()).await;
        fates
    }

    /// Names what must come back, and closes the lines that it leads: whoever stands behind comes back with
    /// it, untouched.
    async fn answer(
        &self,
        lines: &mut Lines,
        pending: Vec<Pending>,
        fates: Vec<Fate>,
        failures: &mut Vec<ItemFailure>,
    ) {
        let mut releases = Vec::new();
        for (pending, fate) in pending.into_iter().zip(fates) {
            let delay = match fate {
                Fate::Deleted => continue,
                Fate::Back(delay) => delay,
                Fate::Kept | Fate::Unknown => {
                    let delay = self.unknown_delay(pending.receive_count);
                    releases.push((pending.receipt, delay));
                    delay
                }
            };
            failures.push(ItemFailure { item_identifier: pending.message });
            for behind in lines.close(pending.line) {
                let (behind, _) = Pending::of((pending.line, behind));
                releases.push((behind.receipt, delay));
                failures.push(ItemFailure { item_identifier: behind.message });
            }
        }
        self.release(releases).await;
    }

    fn unknown_delay(&self, receive_count: u32) -> Duration {
        let doublings = receive_count.saturating_sub(1).min(UNKNOWN_DOUBLINGS_MAX);
        self.queue.lease.saturating_mul(1 << doublings).min(UNKNOWN_DELAY_MAX)
    }

    /// Sets when messages come back. One that cannot be told comes back by the queue's own visibility.
    async fn release(&self, releases: Vec<(ReceiptHandle, Duration)>) {
        if releases.is_empty() {
            return;
        }
        let name = &self.queue.name;
        let released = tokio::time::timeout(RELEASE_TIME, self.backend.broker().release(name, &releases)).await;
        for error in released.unwrap_or_default().into_iter().filter_map(Result::err) {
            tracing::warn!(queue.name = %name, error = %error, "cannot say when a message of queue {name} comes back");
        }
    }
}

impl Times {
    fn new(deadline: Instant, grace: Duration) -> Self {
        let before = |instant: Instant, duration| instant.checked_sub(duration).unwrap_or(instant);
        let kill = before(deadline, SETTLE_TIME);
        let cut = Cut { tell: before(kill, grace.min(NOTICE_MAX)), kill };
        Self { cut, last: before(deadline, ANSWER_TIME) }
    }
}

impl Pending {
    fn of((line, message): (usize, Message)) -> (Self, Delivery) {
        let delivery = message.into_delivery();
        let (message, receipt) = (delivery.message.clone(), delivery.receipt.clone());
        (Self { line, message, receipt, receive_count: delivery.receive_count }, delivery)
    }
}
