//! The workers' rows: who is alive, what it serves and holds, and who has a role.
//!
//! A worker that falls silent leaves a row behind that says when it was heard last; readers judge.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    backend::Result,
    ids::{FunctionName, QueueName, TaskId, TaskName, WorkerId},
    time::Timestamp,
};

/// What a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// Starts its functions.
    Starting,
    /// Receives and runs.
    Running,
    /// Receives nothing more and lets attempts finish.
    Draining,
}

/// A worker as it describes itself with every heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Its name, unique among the living.
    pub id: WorkerId,
    /// Tells this run of the worker from an earlier one of the same name.
    pub instance: String,
    /// Where it runs.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: Timestamp,
    /// The version of its program.
    pub version: String,
    /// What it does.
    pub state: WorkerState,
    /// The queues it serves, in order.
    pub queues: Vec<QueueName>,
    /// Its slots.
    pub concurrency: u32,
    /// Deliveries it may hold beyond its slots.
    pub prefetch: u32,
    /// Its functions, with the reason where one cannot be started.
    pub functions: Vec<(FunctionName, Option<String>)>,
    /// The tasks that its functions have said they run.
    #[serde(default)]
    pub tasks: BTreeMap<FunctionName, Vec<TaskName>>,
    /// Its GPUs by UUID.
    pub gpus: Vec<String>,
    /// The tasks it holds.
    pub holds: Vec<TaskId>,
    /// It is counted as gone when nothing was heard from it for so long.
    pub silent_after: Duration,
}

/// A worker's row as others read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// What it said last.
    #[serde(flatten)]
    pub worker: WorkerRecord,
    /// When that was, by the store's clock.
    pub heard: Timestamp,
    /// It was heard recently enough, and its process is not known to be gone.
    pub alive: bool,
}

/// The workers' rows.
#[async_trait]
pub trait Workers: Send + Sync {
    /// Writes a worker's row: its first heartbeat and every later one.
    ///
    /// # Errors
    ///
    /// `NameTaken` where another instance of that name is alive.
    async fn beat(&self, worker: &WorkerRecord) -> Result<()>;

    /// Removes a worker's row and gives up its roles.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn leave(&self, worker: &WorkerId, instance: &str) -> Result<()>;

    /// Lists the workers; those silent for a day are left out and removed.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn list(&self) -> Result<Vec<Heard>>;

    /// Takes or keeps a role (`sweep`, `scheduler`) for a while. Returns whether the worker has it.
    ///
    /// # Errors
    ///
    /// The store cannot be reached.
    async fn hold_role(&self, role: &str, worker: &WorkerId, instance: &str, hold: Duration) -> Result<bool>;
}
