//! Why a task has not started: said before anybody has to ask twice.

use std::fmt;

use rhubarb_core::{
    backend::{TaskDetail, TaskRecord},
    config::{Backend as Kind, QueueClass},
    gpu::GpuWait,
    ids::{QueueName, TaskId},
    permit::Refusal,
    row::State,
    time::Timestamp,
};
use serde::Serialize;

use super::{Client, ClientError};

/// Why a task has not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WaitReason {
    /// No live worker serves its queue; it starts when one does.
    NoWorker(QueueName),
    /// Its queue is paused.
    Paused(QueueName),
    /// It is to start at this time.
    Scheduled(Timestamp),
    /// It failed, and is tried again at this time.
    Retrying(Timestamp),
    /// It waits for other tasks.
    Others,
    /// It waits for a permit of its queue or of its concurrency key.
    Permit(Refusal),
    /// It waits for GPUs: no worker has such, or those that fit are held or quarantined.
    Gpus(GpuWait),
    /// Workers serve its queue, and are busy with tasks before it.
    Busy(QueueName),
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorker(queue) => write!(f, "no worker serves queue {queue}"),
            Self::Paused(queue) => write!(f, "queue {queue} is paused"),
            Self::Scheduled(at) => write!(f, "scheduled for {at}"),
            Self::Retrying(at) => write!(f, "to be tried again at {at}"),
            Self::Others => f.write_str("for other tasks"),
            Self::Permit(refusal) => refusal.fmt(f),
            Self::Gpus(wait) => wait.fmt(f),
            Self::Busy(queue) => write!(f, "the workers of queue {queue} are busy"),
        }
    }
}

impl Client {
    /// Why a task has not started; none where it runs or is settled. Its text reads after `waiting: `.
    ///
    /// # Errors
    ///
    /// `NoTask`, or the backend is not reachable.
    pub async fn why_waiting(&self, id: TaskId) -> Result<Option<WaitReason>, ClientError> {
        let TaskDetail { record, refusal, .. } = self.task(id).await?;
        let TaskRecord { state, queue, not_before, .. } = record;
        let later = not_before.filter(|at| *at > self.now());
        Ok(match (state, later) {
            (State::Running | State::Succeeded | State::Failed | State::Cancelled | State::Expired, _) => None,
            (State::Waiting, _) => Some(refusal.map_or(WaitReason::Others, WaitReason::Permit)),
            (State::Retrying, Some(at)) => Some(WaitReason::Retrying(at)),
            (State::Scheduled | State::Queued, Some(at)) => Some(WaitReason::Scheduled(at)),
            (State::Scheduled | State::Queued | State::Retrying, None) => Some(self.why_not_taken(queue).await?),
        })
    }

    async fn why_not_taken(&self, queue: QueueName) -> Result<WaitReason, ClientError> {
        let rows = self.backend().tasks().queues().await?;
        if rows.iter().any(|row| row.queue == queue && row.paused) {
            return Ok(WaitReason::Paused(queue));
        }
        // On AWS nobody beats for Lambda.
        let by_lambda = self.config().app.backend == Kind::Aws
            && self.config().queue(&queue).is_some_and(|queue| queue.class == QueueClass::Lambda);
        let workers = self.backend().workers().list().await?;
        let live = || workers.iter().filter(|heard| heard.alive).map(|heard| &heard.worker);
        if let Some(wait) = GpuWait::of(&queue, live()) {
            return Ok(WaitReason::Gpus(wait));
        }
        let served = live().any(|worker| worker.queues.contains(&queue));
        Ok(if served || by_lambda { WaitReason::Busy(queue) } else { WaitReason::NoWorker(queue) })
    }
}
