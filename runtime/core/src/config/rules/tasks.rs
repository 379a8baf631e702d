//! What must hold for a task's section.

use super::Entry;
use crate::config::{Config, QueueConfig, TaskConfig, retry_on, sheet::Sheet, units::show_duration, value::too_much};

pub(super) fn check(config: &Config, task: &TaskConfig, sheet: &Sheet) {
    let entry = Entry::new(sheet, "tasks", &task.name);
    if let Some(queue) = &task.queue {
        entry.defined("queue", "queue", queue, &config.queues);
    }
    if let Some(function) = &task.function {
        entry.defined("function", "function", function, &config.functions);
    }
    entry.only_one_of(retry_on::KEYS);
    if let Some(queue) = task.queue.as_ref().and_then(|queue| config.queues.get(queue)) {
        check_on(queue, task, &entry);
    }
}

fn check_on(queue: &QueueConfig, task: &TaskConfig, entry: &Entry<'_>) {
    if let Some(function) = &task.function
        && !queue.functions.contains(function)
    {
        let what = format!("queue `{}` has no function `{function}`", queue.name);
        entry.mistake("function", what, format!("add it to the functions of [queues.{}]", queue.name));
    }
    if let Some(timeout) = task.timeout.filter(|timeout| *timeout > queue.timeout) {
        let (timeout, most) = (show_duration(timeout), show_duration(queue.timeout));
        let problem = too_much(timeout, most, "the timeout of its queue");
        entry.mistake("timeout", problem.what, problem.fix + ", or raise the queue's");
    }
    let raised = task.max_attempts.filter(|attempts| *attempts > queue.retry.max_attempts);
    if let Some(attempts) = raised {
        let problem = too_much(attempts, queue.retry.max_attempts, "the max_attempts of its queue");
        entry.mistake("max_attempts", problem.what, problem.fix + ", or raise the queue's");
    }
    let retry = task.backoff.over(&queue.retry);
    if retry.initial > retry.max {
        let (initial, max) = (show_duration(retry.initial), show_duration(retry.max));
        let problem = too_much(initial, max, "the longest pause (max, here or of its queue)");
        entry.mistake("backoff", problem.what, problem.fix + ", or raise max");
    }
}
