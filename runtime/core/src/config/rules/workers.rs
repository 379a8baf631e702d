//! What must hold for a worker.

use super::Entry;
use crate::config::{Config, QueueConfig, WorkerConfig, sheet::Sheet};

pub(super) fn check(config: &Config, worker: &WorkerConfig, sheet: &Sheet) {
    let entry = Entry::new(sheet, "workers", &worker.name);
    for queue in &worker.queues {
        entry.defined("queues", "queue", queue, &config.queues);
    }
    for queue in worker.weights.keys().filter(|queue| !worker.queues.contains(queue)) {
        let what = format!("the worker does not serve queue `{queue}`");
        entry.mistake(&format!("weights.{queue}"), what, "leave it out, or add the queue to `queues`");
    }
}

/// Tasks of a queue that nobody serves wait for ever, which is right for a moment at most.
pub(super) fn warn_of_unserved_queues(config: &Config, sheet: &Sheet) {
    let is_served = |queue: &QueueConfig| config.workers.values().any(|worker| worker.queues.contains(&queue.name));
    for queue in config.queues.values() {
        if queue.is_declared && config.is_fed_by_agents(queue) && !is_served(queue) {
            let entry = Entry::new(sheet, "queues", &queue.name);
            entry.warning("no worker serves it", "add it to the `queues` of a worker");
        }
    }
}
