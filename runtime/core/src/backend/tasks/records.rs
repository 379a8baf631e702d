//! What can be read of tasks and queues.

use serde::{Deserialize, Serialize};

use super::orders::{Log, Progress};
use crate::{
    envelope::{BlobRef, Envelope},
    gpu::{GpuUsage, RanOn},
    ids::{FencingToken, QueueName, TaskId, TaskName, WorkerId},
    outcome::{Failure, Output},
    permit::Refusal,
    row::State,
    time::Timestamp,
};

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
