//! The workers' rows: who is alive, what it serves and holds, and who has a role.
//!
//! A worker that falls silent leaves a row behind that says when it was heard last; readers judge.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    backend::Result,
    gpu::{GpuAsk, GpuDevice},
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

/// How a worker's GPU stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum WorkerGpuState {
    /// It may be leased.
    Free,
    /// It is leased.
    Held {
        /// For these tasks: several where it is shared, none where another agent of the machine holds it.
        tasks: Vec<TaskId>,
    },
    /// Its last lease has ended, and it is looked at before the next.
    Checking,
    /// It is out of use.
    Quarantined {
        /// Why.
        reason: String,
    },
}

/// A GPU that a worker may lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerGpu {
    /// What it is.
    #[serde(flatten)]
    pub device: GpuDevice,
    /// How it stands.
    #[serde(flatten)]
    pub state: WorkerGpuState,
}

/// The ECS task that a worker runs in, as the container metadata endpoint describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EcsTask {
    /// Its ARN.
    pub task: String,
    /// Its cluster's ARN or name.
    pub cluster: String,
    /// The family of its task definition.
    pub family: String,
    /// The revision of its task definition.
    pub revision: String,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
    /// What runs it, e.g. `FARGATE`, `EC2` or `MANAGED_INSTANCES`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_type: Option<String>,
    /// The ARN of the instance it runs on, where the endpoint tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_instance: Option<String>,
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
    /// Its GPUs, in the driver's order.
    #[serde(default)]
    pub gpus: Vec<WorkerGpu>,
    /// What its queues ask of its GPUs, also those that it does not serve for want of them. A queue that it serves on
    /// the CPU is not among them.
    #[serde(default)]
    pub gpu_asks: BTreeMap<QueueName, GpuAsk>,
    /// The ECS task that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecs: Option<EcsTask>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn old_row() -> serde_json::Value {
        serde_json::json!({
            "id": "short", "instance": "i", "host": "h", "pid": 7, "started": 0, "version": "0.1.0", "state": "running",
            "queues": ["default"], "concurrency": 1, "prefetch": 0, "functions": [], "gpus": [], "holds": [],
            "silent_after": {"secs": 15, "nanos": 0},
        })
    }

    #[test]
    fn a_row_of_an_older_worker_can_be_read() {
        let worker: WorkerRecord = serde_json::from_value(old_row()).unwrap();
        assert!(worker.gpus.is_empty() && worker.gpu_asks.is_empty() && worker.ecs.is_none());
    }

    #[test]
    fn a_gpu_is_one_flat_object() {
        let gpu: WorkerGpu = serde_json::from_value(serde_json::json!({
            "uuid": "GPU-1", "index": 0, "name": "NVIDIA L4", "memory": 1, "compute": [8, 9], "driver": "580.0",
            "state": "quarantined", "reason": "it no longer answers",
        }))
        .unwrap();
        assert_eq!(gpu.state, WorkerGpuState::Quarantined { reason: "it no longer answers".into() });
    }
}
