//! What is counted of every task that succeeds, its attributes resolved once per queue and task.
//!
//! An agent tells four numbers of each task. To find the series of each by its attributes took a fifth of the time of a
//! task that does nothing; held on to, it is a look into a map. What happens seldom (errors, retries) is not held.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock, PoisonError, RwLock},
};

use opentelemetry::metrics::{BoundCounter, BoundHistogram};
use rhubarb_core::ids::{QueueName, TaskName};

use super::words::WORDS_MAX;

/// Series of one task on one queue. Each is made when it has its first value: a series that is held shows, also at zero.
#[derive(Default)]
pub(super) struct Usual {
    pub(super) waited: OnceLock<BoundHistogram<f64>>,
    pub(super) ran: OnceLock<BoundHistogram<f64>>,
    pub(super) succeeded: OnceLock<BoundCounter<u64>>,
    pub(super) settled: OnceLock<BoundCounter<u64>>,
}

/// The series of all tasks, up to [`WORDS_MAX`] of a queue: tasks beyond share theirs, and those are not held.
#[derive(Default)]
pub(super) struct Usuals(RwLock<HashMap<QueueName, HashMap<TaskName, Arc<Usual>>>>);

impl Usuals {
    /// The series of a task, if they are held.
    pub(super) fn of(&self, queue: &QueueName, task: &TaskName) -> Option<Arc<Usual>> {
        // Nothing panics while it holds the lock; if something did, the map is still whole.
        let held = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(usual) = held.get(queue).and_then(|tasks| tasks.get(task)) {
            return Some(Arc::clone(usual));
        }
        drop(held);
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let tasks = held.entry(queue.clone()).or_default();
        (tasks.len() < WORDS_MAX).then(|| Arc::clone(tasks.entry(task.clone()).or_default()))
    }
}
