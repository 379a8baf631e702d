//! What the verbs are given, and what they answer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    envelope::{BlobRef, Envelope},
    gpu::RanOn,
    ids::{FencingToken, QueueName, TaskId, TaskName, WorkerId},
    outcome::{Failure, Outcome},
    row::{Claim, ClaimTerms, State},
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
