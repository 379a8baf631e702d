//! The rows: one record per task, changed by the protocol's verbs alone.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    backend::Result,
    envelope::{BlobRef, Envelope},
    gpu::{GpuUsage, RanOn},
    ids::{FencingToken, QueueName, TaskId, TaskName, WorkerId},
    outcome::{Failure, Outcome, Output},
    permit::{PermitCounts, QueueLimits, Refusal},
    row::{Claim, ClaimTerms, Renewed, Settled, State},
    time::{LeaseTime, Timestamp},
};

/// For how long a second task with the same idempotency key is the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// For this long from the first enqueue.
    For(Duration),
    /// Until the first task is settled.
    UntilSettled,
}

impl Window {
    /// The window where the producer names none.
    pub const DEFAULT: Self = Self::For(Duration::from_secs(24 * 60 * 60));
}

/// An idempotency key, scoped to application and task name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The key.
    pub key: String,
    /// SHA-256 of the arguments: the same key with other arguments is a mistake.
    pub args_sha256: [u8; 32],
    /// How long it is remembered.
    pub window: Window,
}

/// A task to be accepted: what the store needs to know, and the whole envelope as text.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The task.
    pub id: TaskId,
    /// Its kind.
    pub task: TaskName,
    /// Its queue.
    pub queue: QueueName,
    /// The full envelope as JSON.
    pub spec: String,
    /// Not claimed before this.
    pub not_before: Option<Timestamp>,
    /// Not started after this.
    pub expires: Option<Timestamp>,
    /// What the envelope asks for.
    pub max_attempts: Option<u32>,
    /// Makes a second one the first.
    pub key: Option<IdempotencyKey>,
    /// The task at the root of its tree, if it is not that itself.
    pub root: Option<TaskId>,
}

impl Submission {
    /// What the store needs of an envelope on a queue. `window` applies if the envelope has a key.
    #[must_use]
    pub fn new(envelope: &Envelope, queue: QueueName, window: Window) -> Self {
        use sha2::Digest as _;
        let hashed = envelope.blob.as_ref().map_or(envelope.args.get(), |blob| blob.sha256.as_str());
        let key = envelope.idempotency_key.as_ref().map(|key| IdempotencyKey {
            key: key.clone(),
            args_sha256: sha2::Sha256::digest(hashed.as_bytes()).into(),
            window,
        });
        Self {
            id: envelope.id,
            task: envelope.task.clone(),
            queue,
            spec: envelope.encode(),
            not_before: envelope.not_before,
            expires: envelope.expires,
            max_attempts: envelope.max_attempts,
            key,
            root: envelope.root.filter(|root| *root != envelope.id),
        }
    }
}

/// What became of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// Accepted.
    New,
    /// A task with this id exists already; nothing was changed.
    Exists(State),
    /// The idempotency key belongs to this task with the same arguments; nothing was changed.
    Keyed(TaskId),
}

/// A claim, and what to put where the task has no row yet.
#[derive(Clone, Debug)]
pub struct ClaimRequest<'a> {
    /// The task as its message describes it.
    pub submission: Submission,
    /// When the message was sent: the `queued_at` of a row that is put now.
    pub sent: Timestamp,
    /// Who claims, and how.
    pub terms: ClaimTerms<'a>,
}

/// A claim's answer.
#[derive(Clone, Debug)]
pub struct ClaimAnswer {
    /// What it came to.
    pub claim: Claim,
    /// The store's wall clock at the claim.
    pub now: Timestamp,
    /// Present if it was won.
    pub won: Option<WonRow>,
}

/// What the holder must know of a row it has won.
#[derive(Clone, Debug)]
pub struct WonRow {
    /// Its token.
    pub fence: FencingToken,
    /// This attempt, from 1.
    pub attempt: u32,
    /// Attempts in all.
    pub max_attempts: u32,
    /// To run in an invocation of its own.
    pub alone: bool,
    /// When the store accepted it.
    pub submitted: Timestamp,
    /// When it became available.
    pub queued_at: Timestamp,
    /// When it was claimed: now.
    pub started: Timestamp,
    /// What an earlier attempt left.
    pub checkpoint: Option<BlobRef>,
}

/// What is left of an attempt: what its function printed, a bounded piece of it, and what it ran on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Standard output and error, as they came.
    pub text: String,
    /// Bytes that were left out.
    pub dropped: u64,
    /// For a queue that asks for GPUs: the devices and what they did, or the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_on: Option<RanOn>,
}

impl Log {
    /// True if nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.is_silent() && self.ran_on.is_none()
    }

    /// True if nothing was printed.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        self.text.is_empty() && self.dropped == 0
    }
}

/// How far a task has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub done: u64,
    /// Steps in all.
    pub total: u64,
    /// What it does now, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A task that had no row and has failed for good.
#[derive(Clone, Debug)]
pub struct Buried {
    /// The task.
    pub submission: Submission,
    /// When its first message was sent.
    pub submitted: Timestamp,
    /// How many attempts it had.
    pub attempt: u32,
    /// How many it was to have.
    pub max_attempts: u32,
    /// Who had it last.
    pub worker: WorkerId,
    /// When its last attempt began.
    pub started: Timestamp,
    /// Why it failed.
    pub failure: Failure,
    /// What its last attempt printed.
    pub log: Log,
    /// How long its record is kept, as in [`Settlement::keep`].
    pub keep: (Duration, Duration),
}

/// Keeps a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// The task.
    pub id: TaskId,
    /// The holder's token.
    pub fence: FencingToken,
}

/// Tells something about a running attempt.
#[derive(Clone, Debug)]
pub struct Report {
    /// The task.
    pub id: TaskId,
    /// The holder's token.
    pub fence: FencingToken,
    /// How far it has come.
    pub progress: Option<Progress>,
    /// What to resume from.
    pub checkpoint: Option<BlobRef>,
    /// What it has printed so far.
    pub log: Option<Log>,
}

/// Records what an attempt came to.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// The task.
    pub id: TaskId,
    /// The holder's token.
    pub fence: FencingToken,
    /// What it came to.
    pub outcome: Outcome,
    /// What the function printed.
    pub log: Log,
    /// How long a settled task's record is kept. By outcome: succeeded or cancelled, failed.
    pub keep: (Duration, Duration),
}

/// A running row whose lease has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueLease {
    /// The task.
    pub id: TaskId,
    /// Its queue.
    pub queue: QueueName,
    /// Its token.
    pub fence: FencingToken,
    /// When its lease ended.
    pub until: LeaseTime,
    /// How long the lease was.
    pub lease: Duration,
}

/// A row whose doorbell must ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueRing {
    /// The task.
    pub id: TaskId,
    /// Its queue.
    pub queue: QueueName,
    /// Its token.
    pub fence: FencingToken,
    /// The number of the doorbell to be rung.
    pub rings: u32,
    /// Not before this.
    pub not_before: Option<Timestamp>,
    /// The message body.
    pub spec: String,
}

/// That a row's doorbell of this number has been rung.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// The task.
    pub id: TaskId,
    /// The row's token when its doorbell had to ring.
    pub fence: FencingToken,
    /// The doorbell's number.
    pub rings: u32,
}

/// Where to look for parked tasks that may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Where this process has given permits back since it was asked last: costs nothing where it has not.
    Returned,
    /// There, and wherever a permit is free or soon will be: for the sweep.
    Everywhere,
}

/// A parked task that was called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// Its doorbell, which must ring.
    pub ring: DueRing,
    /// When it may start, from now.
    pub delay: Duration,
}

impl DueRing {
    /// What is noted once it is rung.
    #[must_use]
    pub const fn rung(&self) -> Rung {
        Rung { id: self.id, fence: self.fence, rings: self.rings }
    }
}

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this queue.
    pub queue: Option<QueueName>,
    /// In this state.
    pub state: Option<State>,
    /// Of this kind.
    pub task: Option<TaskName>,
    /// Below this root: its children, theirs, and so on, without itself.
    pub root: Option<TaskId>,
    /// Accepted at or after this.
    pub since: Option<Timestamp>,
    /// At most this many a page; the backend may give fewer.
    pub limit: usize,
    /// After this place.
    pub cursor: Option<Cursor>,
}

/// A place in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);

/// A part of a listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// The newest first.
    pub items: Vec<T>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Cursor>,
}

/// A task as the store shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskRecord {
    /// The task.
    pub id: TaskId,
    /// Its kind.
    pub task: TaskName,
    /// Its queue.
    pub queue: QueueName,
    /// Where it stands.
    pub state: State,
    /// Attempts begun and not given back.
    pub attempt: u32,
    /// Attempts in all, once a claim has fixed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// When the store accepted it.
    pub submitted: Timestamp,
    /// When it last became available.
    pub queued_at: Timestamp,
    /// Not before this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Not after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// When its latest attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it was settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settled: Option<Timestamp>,
    /// Who holds it, or held it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// How far it has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Somebody asked for it to be stopped.
    pub cancel_asked: bool,
    /// How often it was redriven.
    pub redriven: u32,
    /// How often it was interrupted.
    pub interruptions: u32,
    /// How often it snoozed.
    pub snoozes: u32,
    /// Why it failed, last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What it gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Output>,
    /// What the next attempt resumes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<BlobRef>,
}

/// One attempt of a task's history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// Its number, from 1; interrupted and snoozed ones share theirs with the next.
    pub attempt: u32,
    /// Its token.
    pub fence: FencingToken,
    /// Who held it.
    pub worker: WorkerId,
    /// When it began.
    pub started: Timestamp,
    /// When it was settled, or when the reaper took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// What it came to: an outcome's word, `lost` for a reaped one, none while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What the function printed, and what it ran on.
    #[serde(default, skip_serializing_if = "Log::is_empty")]
    pub log: Log,
}

impl AttemptRecord {
    /// The GPUs that it had, and what they did meanwhile.
    #[must_use]
    pub fn gpus(&self) -> &[GpuUsage] {
        match &self.log.ran_on {
            Some(RanOn::Gpus(gpus)) => gpus,
            Some(RanOn::Cpu) | None => &[],
        }
    }

    /// True if its queue asks for GPUs and it ran on the CPU.
    #[must_use]
    pub fn ran_on_cpu(&self) -> bool {
        self.log.ran_on == Some(RanOn::Cpu)
    }
}

/// Everything the store knows about a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskDetail {
    /// The row.
    #[serde(flatten)]
    pub record: TaskRecord,
    /// The envelope; absent once the record's time to be kept has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<Envelope>,
    /// The attempts, oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// What it waits for, where it is parked for want of a permit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

/// How many tasks of a queue are in a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateCount {
    /// The queue.
    pub queue: QueueName,
    /// The state.
    pub state: State,
    /// How many.
    pub count: u64,
    /// When the oldest of them was accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
}

/// What the store knows of a queue's tasks at the price of a few look-ups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// How many are in each state; empty where the store keeps no count.
    pub states: Vec<(State, u64)>,
    /// When the one was accepted that is queued and was queued first.
    pub oldest: Option<Timestamp>,
}

/// What the store keeps about a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    /// The queue.
    pub queue: QueueName,
    /// No agent receives from it.
    pub paused: bool,
    /// Tasks that became available at or before this and do not run are cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purged_before: Option<Timestamp>,
}

/// The rows.
#[async_trait]
pub trait Tasks: Send + Sync {
    /// Puts rows where none are. Does not send: see [`crate::backend::Backend::submit`].
    ///
    /// # Errors
    ///
    /// Per item: `KeyReused`, `Invalid`.
    async fn submit(&self, submissions: &[Submission]) -> Vec<Result<Submitted>>;

    /// Tries to win tasks; puts the row of a message that has none.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached.
    async fn claim(&self, requests: &[ClaimRequest<'_>]) -> Vec<Result<ClaimAnswer>>;

    /// Keeps leases for their full length from now.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached; the lease may still be kept.
    async fn renew(&self, renewals: &[Renewal]) -> Vec<Result<Renewed>>;

    /// Records progress, checkpoints and output of running attempts.
    ///
    /// # Errors
    ///
    /// Per item: `Refused` where a newer holder exists.
    async fn report(&self, reports: &[Report]) -> Vec<Result<()>>;

    /// Records outcomes. Does not touch the queue: see [`crate::backend::Backend::finish`].
    ///
    /// # Errors
    ///
    /// Per item: `Refused` where a newer holder exists; what it gave is then noted in the history.
    async fn settle(&self, settlements: &[Settlement]) -> Vec<Result<Settled>>;

    /// Puts a failed row for a message that cannot be read, under its message id. Idempotent.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached.
    async fn bury_poison(&self, queue: &QueueName, poison: &[(TaskId, Failure)]) -> Vec<Result<()>>;

    /// Puts the failed rows of tasks that had none, with their last attempt. Where a row is, it stays. Idempotent.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached.
    async fn bury(&self, buried: &[Buried]) -> Vec<Result<()>>;

    /// Reads tasks with their history; `None` where there is none.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn read(&self, ids: &[TaskId]) -> Result<Vec<Option<TaskDetail>>>;

    /// Lists tasks, the newest first.
    ///
    /// # Errors
    ///
    /// The store cannot be reached, or the cursor is not one of its own.
    async fn list(&self, filter: &Filter) -> Result<Page<TaskRecord>>;

    /// Counts tasks by queue and state, without reading them.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn count(&self) -> Result<Vec<StateCount>>;

    /// Glances at queues, however many tasks they have. The body of the trait is for stores that keep count.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn glance(&self, queues: &[QueueName]) -> Result<Vec<Glance>> {
        let counts = self.count().await?;
        let of_queue = |queue: &QueueName| {
            let own = || counts.iter().filter(|count| count.queue == *queue);
            let queued = own().find(|count| count.state == State::Queued);
            Glance { states: own().map(|of| (of.state, of.count)).collect(), oldest: queued.and_then(|of| of.oldest) }
        };
        Ok(queues.iter().map(of_queue).collect())
    }

    /// Counts permits of these queues by the limits they have, however many tasks and keys there are
    /// ([`crate::permit::COUNTED_MAX`]).
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn permits(&self, queues: &[(QueueName, QueueLimits)]) -> Result<Vec<PermitCounts>>;

    /// Returns each task's state once one of them is settled, or after `wait`.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn wait_settled(&self, ids: &[TaskId], wait: Duration) -> Result<Vec<Option<State>>>;

    /// Running rows whose lease has ended, the longest ended first.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn due_leases(&self, limit: usize) -> Result<Vec<DueLease>>;

    /// Brings back, or buries, what the reaper names, if it is still as seen.
    ///
    /// # Errors
    ///
    /// Per item: `Refused` where it has changed.
    async fn reap(&self, leases: &[DueLease]) -> Vec<Result<Settled>>;

    /// Rows whose doorbell must ring now.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn due_rings(&self, limit: usize) -> Result<Vec<DueRing>>;

    /// Calls parked tasks for which permits are free, those first that became available first, `limit` at most of
    /// each queue and key ([`crate::permit`]). They are queued and unrung until their doorbells, which are returned,
    /// have been sent and noted; the sweep rings those that are not. A store that rings by itself returns none.
    ///
    /// # Errors
    ///
    /// The store cannot be reached; what was not called is called by the sweep.
    async fn call_parked(&self, reach: Reach, limit: usize) -> Result<Vec<Called>>;

    /// Notes that doorbells have been rung. A row that has gone on since, or that another doorbell must ring
    /// for by now, stays as it is; that is no error.
    ///
    /// # Errors
    ///
    /// Per item: the store cannot be reached; it will be rung once more.
    async fn rung(&self, rung: &[Rung]) -> Vec<Result<()>>;

    /// Marks up to `limit` rung rows of a queue that has stood empty as unrung. Returns how many.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn doorbells_lost(&self, queue: &QueueName, limit: usize) -> Result<u64>;

    /// Marks up to `limit` rung rows of a queue as unrung whose doorbell is so old that the queue will soon
    /// forget it ([`crate::row::Row::doorbell_aged`]). Returns how many. A store whose doorbells are never
    /// forgotten leaves those alone.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn doorbells_aged(&self, queue: &QueueName, limit: usize) -> Result<u64>;

    /// Cancels tasks, or asks their holders to. Returns each one's state afterwards.
    ///
    /// # Errors
    ///
    /// Per item: `NoTask`, or `Refused` where it is settled.
    async fn cancel(&self, ids: &[TaskId]) -> Vec<Result<State>>;

    /// Brings failed tasks back. Does not send: see [`crate::backend::Backend::redrive`].
    ///
    /// # Errors
    ///
    /// Per item: `NoTask`, or `Refused` where it is not failed.
    async fn redrive(&self, ids: &[TaskId]) -> Vec<Result<Settled>>;

    /// Forgets failed tasks now, not when their time to be kept has passed: what is left of each is a tombstone,
    /// so that no message that is still out can run it. Returns, for each, the claim checks that nothing names any
    /// more. See [`crate::backend::Backend::discard`].
    ///
    /// # Errors
    ///
    /// Per item: `NoTask`, also where the record is forgotten already, or `Refused` where it is not failed.
    async fn discard(&self, ids: &[TaskId]) -> Vec<Result<Vec<BlobRef>>>;

    /// What is kept about queues; those never mentioned have no row.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn queues(&self) -> Result<Vec<QueueRow>>;

    /// Pauses or resumes a queue for all agents.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn pause(&self, queue: &QueueName, paused: bool) -> Result<()>;

    /// Notes that a queue was purged now; its waiting tasks are cancelled at claim or by
    /// [`Self::cancel_purged`].
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn mark_purged(&self, queue: &QueueName) -> Result<Timestamp>;

    /// Cancels up to `limit` waiting tasks that became available at or before the queue's purge.
    /// Returns how many it cancelled; fewer than `limit` means that none is left.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn cancel_purged(&self, queue: &QueueName, limit: usize) -> Result<u64>;

    /// Removes up to `limit` records whose time to be kept has passed, and tombstones whose time has.
    /// Returns how many, and the claim checks that nothing names any more.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn forget(&self, limit: usize) -> Result<(u64, Vec<BlobRef>)>;
}
