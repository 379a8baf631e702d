//! A task: what the configuration says about tasks of one name.

use std::time::Duration;

use super::{
    backoff::BackoffConfig,
    bounds::{ATTEMPTS, TIMEOUT},
    queue::{QueueConfig, soft_timeout_of},
    retry_on,
    sheet::Table,
    value::{duration, name, text_as, whole},
};
use crate::{
    ids::{FunctionName, QueueName, TaskName},
    retry::{RetryOn, RetryPolicy},
};

/// A section `[tasks.NAME]`. What it leaves out comes from the queue; it may lower the queue's
/// timeout and attempts, never raise them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TaskConfig {
    /// The task's name.
    pub name: TaskName,
    /// Its queue, before what its type says.
    pub queue: Option<QueueName>,
    /// Who of the queue's functions runs it.
    pub function: Option<FunctionName>,
    /// The hard limit of one attempt.
    pub timeout: Option<Duration>,
    /// Attempts in all.
    pub max_attempts: Option<u32>,
    /// The pauses between attempts.
    pub backoff: BackoffConfig,
    /// Which failures are tried again, in place of what the queue says.
    pub retry_on: Option<RetryOn>,
}

/// What holds for one task on one queue.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskPolicy {
    /// The hard limit of one attempt.
    pub timeout: Duration,
    /// When the function is told.
    pub soft_timeout: Duration,
    /// Attempts and the pauses between them.
    pub retry: RetryPolicy,
    /// After how long the task is given up if no attempt has begun.
    pub expires: Option<Duration>,
}

impl TaskPolicy {
    /// The queue's policy, lowered by what is said about the task.
    #[must_use]
    pub fn new(queue: &QueueConfig, task: Option<&TaskConfig>) -> Self {
        let policy = Self {
            timeout: queue.timeout,
            soft_timeout: queue.soft_timeout,
            retry: queue.retry.clone(),
            expires: queue.expires,
        };
        let Some(task) = task else { return policy };
        let mut retry = task.backoff.over(&queue.retry);
        if let Some(on) = &task.retry_on {
            retry.on.clone_from(on);
        }
        Self { retry, ..policy }.lowered(task.timeout, task.max_attempts)
    }

    /// The policy with a shorter timeout and fewer attempts, where these are: what an envelope may
    /// ask for.
    #[must_use]
    pub fn lowered(mut self, timeout: Option<Duration>, max_attempts: Option<u32>) -> Self {
        if let Some(timeout) = timeout.filter(|timeout| *timeout < self.timeout) {
            self.timeout = timeout;
            self.soft_timeout = self.soft_timeout.min(soft_timeout_of(timeout));
        }
        if let Some(attempts) = max_attempts {
            self.retry.max_attempts = self.retry.max_attempts.min(attempts.max(1));
        }
        self
    }
}

pub(super) fn read(task: TaskName, table: &Table<'_, '_>) -> TaskConfig {
    TaskConfig {
        name: task,
        queue: table.read("queue", text_as(name)),
        function: table.read("function", text_as(name)),
        timeout: table.read("timeout", duration(TIMEOUT)),
        max_attempts: table.read("max_attempts", whole(ATTEMPTS)),
        backoff: BackoffConfig::read(table),
        retry_on: retry_on::read(table),
    }
}
