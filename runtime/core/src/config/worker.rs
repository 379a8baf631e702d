//! A worker: which queues one agent serves, and how.

use std::{collections::BTreeMap, time::Duration};

use super::{
    bounds::{
        CONCURRENCY, GRACE, GRACE_DEFAULT, MEMORY, PATH_CHARS_MAX, PREFETCH, PREFETCH_DEFAULT, TASKS_PER_CHILD, WEIGHT,
        WEIGHT_DEFAULT,
    },
    route::default_queue,
    sheet::Table,
    units::ByteSize,
    value::{distinct, duration, line, name, size, text_as, whole},
};
use crate::ids::{QueueName, WorkerName};

/// A section `[workers.NAME]` with every default filled in. Options of the agent's command replace
/// its fields one by one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct WorkerConfig {
    /// The entry's name.
    pub name: WorkerName,
    /// The queues it serves.
    pub queues: Vec<QueueName>,
    /// Its slots. None: 1 where there are GPUs, else the number of CPUs.
    pub concurrency: Option<u32>,
    /// After how many tasks a function process is replaced.
    pub max_tasks_per_child: Option<u32>,
    /// Over which memory a function process is replaced, once its task has ended.
    pub max_memory_per_child: Option<ByteSize>,
    /// Messages held without a slot.
    pub prefetch: u32,
    /// How many turns a queue has for one of the others; one where it is not named.
    pub weights: BTreeMap<QueueName, u32>,
    /// How long running attempts may go on after the agent was asked to stop.
    pub grace: Duration,
    /// The folder that all agents of the machine share to keep each other off their GPUs.
    pub gpu_locks: Option<String>,
}

impl WorkerConfig {
    /// A worker that no file describes: `name`, which serves `queues` with the defaults.
    #[must_use]
    pub fn new(name: WorkerName, queues: Vec<QueueName>) -> Self {
        Self {
            name,
            queues,
            concurrency: None,
            max_tasks_per_child: None,
            max_memory_per_child: None,
            prefetch: PREFETCH_DEFAULT,
            weights: BTreeMap::new(),
            grace: GRACE_DEFAULT,
            gpu_locks: None,
        }
    }

    /// The turns of a queue among those it shares the slots with.
    #[must_use]
    pub fn weight(&self, queue: &QueueName) -> u32 {
        self.weights.get(queue).copied().unwrap_or(WEIGHT_DEFAULT)
    }
}

pub(super) fn read(worker: WorkerName, table: &Table<'_, '_>) -> WorkerConfig {
    let queues = table.read("queues", distinct(text_as(name)));
    WorkerConfig {
        concurrency: table.read("concurrency", whole(CONCURRENCY)),
        max_tasks_per_child: table.read("max_tasks_per_child", whole(TASKS_PER_CHILD)),
        max_memory_per_child: table.read("max_memory_per_child", size(MEMORY)),
        prefetch: table.read("prefetch", whole(PREFETCH)).unwrap_or(PREFETCH_DEFAULT),
        weights: table.map("weights", name, whole(WEIGHT)).into_iter().collect(),
        grace: table.read("grace", duration(GRACE)).unwrap_or(GRACE_DEFAULT),
        gpu_locks: table.read("gpu_locks", text_as(line(PATH_CHARS_MAX))),
        ..WorkerConfig::new(worker, queues.unwrap_or_else(|| vec![default_queue()]))
    }
}
