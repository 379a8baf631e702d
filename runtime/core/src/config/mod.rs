//! `rhubarb.toml`: parsed once, at the door, from text and variables that a test can hand in.
//!
//! [`Config::parse`] validates everything before anything starts and tells all mistakes together,
//! each with its line, its key and the fix. What comes out is complete: every default is filled in,
//! every name that one section uses is defined by another, and no relation that would fail later
//! (a lease on Lambda, a timeout that SQS cannot hide) is left to be found in production.
//!
//! Nothing here reads a file, the environment or a clock, so nothing is lost by a crash: the same
//! text gives the same configuration. [`reference()`] lists every key, its default and its meaning;
//! it is what unknown keys are checked against and what the documentation prints.

mod app;
mod backoff;
mod bounds;
mod definition;
mod function;
mod gpu;
mod mistake;
mod queue;
mod reference;
mod retry_on;
mod route;
mod rules;
mod schedule;
mod sheet;
mod task;
mod units;
mod value;
mod vars;
mod worker;

use std::collections::BTreeMap;

pub(crate) use self::mistake::{nearest, quoted};
pub use self::{
    app::{AppConfig, Backend, Durability, MetricsAddress},
    backoff::BackoffConfig,
    definition::Definition,
    function::{FunctionConfig, Program},
    gpu::{ComputeCapability, WithoutGpu},
    mistake::{Mistake, Mistakes, Place},
    queue::{Grant, QueueClass, QueueConfig, Track},
    reference::{Key, reference, reference_markdown},
    route::{RouteError, RoutedBy, default_queue},
    schedule::{CatchUp, Overlap, ScheduleConfig, When},
    task::{TaskConfig, TaskPolicy},
    units::{ByteSize, show_duration},
    vars::{NoVars, Overrides, VARIABLES, Variable, Vars},
    worker::WorkerConfig,
};
use self::{
    bounds::DEFAULT_NAME,
    sheet::{Sheet, Table},
};
use crate::ids::{FunctionName, QueueName, ScheduleName, TaskName, WorkerName};

/// A whole configuration: complete, and consistent with itself.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// The application.
    pub app: AppConfig,
    /// Every queue; `default` is always there.
    pub queues: BTreeMap<QueueName, QueueConfig>,
    /// Every worker; where the file has none, `default`, which serves all queues.
    pub workers: BTreeMap<WorkerName, WorkerConfig>,
    /// Every function.
    pub functions: BTreeMap<FunctionName, FunctionConfig>,
    /// What is said about tasks by name.
    pub tasks: BTreeMap<TaskName, TaskConfig>,
    /// Every schedule.
    pub schedules: BTreeMap<ScheduleName, ScheduleConfig>,
    /// What does not stop a start, but is hardly meant.
    pub warnings: Vec<Mistake>,
}

impl Config {
    /// Reads and checks a configuration. An option of the command (`overrides`) beats a variable,
    /// a variable beats the file.
    ///
    /// # Errors
    ///
    /// Every mistake at once. A text that is no TOML gets only its syntax mistakes.
    pub fn parse(text: &str, vars: &dyn Vars, overrides: &Overrides) -> Result<Self, Mistakes> {
        let sheet = Sheet::default();
        let document = sheet::open(&sheet, text)?;
        let mut config = Self::read(&Table::root(&sheet, &document), vars, overrides);
        rules::check(&config, &sheet);
        config.warnings = sheet.finish()?;
        Ok(config)
    }

    /// Returns a queue with its whole policy.
    #[must_use]
    pub fn queue(&self, name: &QueueName) -> Option<&QueueConfig> {
        self.queues.get(name)
    }

    /// Returns what holds for a task on a queue: the queue's policy, lowered by `[tasks.NAME]`.
    #[must_use]
    pub fn policy(&self, queue: &QueueName, task: &TaskName) -> Option<TaskPolicy> {
        Some(TaskPolicy::new(self.queue(queue)?, self.tasks.get(task)))
    }

    /// Returns the queues that an agent feeds as this worker. On AWS it leaves those of class
    /// `lambda` to Lambda, unless `feeds_lambda` says that none runs there.
    pub fn queues_of<'a>(
        &'a self,
        worker: &'a WorkerConfig,
        feeds_lambda: bool,
    ) -> impl Iterator<Item = &'a QueueConfig> {
        let fed = move |queue: &&QueueConfig| feeds_lambda || self.is_fed_by_agents(queue);
        worker.queues.iter().filter_map(|name| self.queues.get(name)).filter(fed)
    }

    /// Says whether agents feed this queue's functions, rather than AWS Lambda.
    #[must_use]
    pub fn is_fed_by_agents(&self, queue: &QueueConfig) -> bool {
        self.app.backend == Backend::Local || queue.class == QueueClass::Ecs
    }

    /// Returns after how many tasks a process that runs `function` for `queue` under `worker` is
    /// replaced: the fewest that worker and function say; where neither says any, one for a queue
    /// with GPUs.
    #[must_use]
    pub fn max_tasks_per_child(
        &self,
        worker: &WorkerConfig,
        function: &FunctionName,
        queue: &QueueConfig,
    ) -> Option<u32> {
        let of_function = self.functions.get(function).and_then(|function| function.max_tasks_per_child);
        let said = worker.max_tasks_per_child.into_iter().chain(of_function).min();
        said.or((queue.gpus > 0).then_some(1))
    }

    fn read(root: &Table<'_, '_>, vars: &dyn Vars, overrides: &Overrides) -> Self {
        let app = app::read(root, vars, overrides);
        let functions: BTreeMap<_, _> = root
            .named("functions", "functions.NAME")
            .into_iter()
            .map(|(name, table)| (FunctionName::clone(&name), function::read(name, &table)))
            .collect();
        let queues = read_queues(root, &functions.keys().cloned().collect::<Vec<_>>());
        let workers = read_workers(root, &queues);
        let tasks = root
            .named("tasks", "tasks.NAME")
            .into_iter()
            .map(|(name, table)| (TaskName::clone(&name), task::read(name, &table)))
            .collect();
        let schedules = root
            .named("schedules", "schedules.NAME")
            .into_iter()
            .filter_map(|(name, table)| Some((ScheduleName::clone(&name), schedule::read(name, &table)?)))
            .collect();
        Self { app, queues, workers, functions, tasks, schedules, warnings: Vec::new() }
    }
}

fn read_queues(root: &Table<'_, '_>, functions: &[FunctionName]) -> BTreeMap<QueueName, QueueConfig> {
    let mut queues: BTreeMap<_, _> = root
        .named("queues", "queues.NAME")
        .into_iter()
        .map(|(name, table)| (QueueName::clone(&name), queue::read(name, &table, functions)))
        .collect();
    let unwritten = root.unwritten("queues", DEFAULT_NAME);
    queues.entry(default_queue()).or_insert_with_key(|name| queue::read(name.clone(), &unwritten, functions));
    queues
}

fn read_workers(root: &Table<'_, '_>, queues: &BTreeMap<QueueName, QueueConfig>) -> BTreeMap<WorkerName, WorkerConfig> {
    let written: BTreeMap<_, _> = root
        .named("workers", "workers.NAME")
        .into_iter()
        .map(|(name, table)| (WorkerName::clone(&name), worker::read(name, &table)))
        .collect();
    if !written.is_empty() || root.sheet().is_given("workers") {
        return written;
    }
    #[expect(clippy::expect_used, reason = "a constant that a test reads")]
    let name = WorkerName::new(DEFAULT_NAME).expect("`default` is a valid worker name");
    let all = queues.keys().cloned().collect();
    BTreeMap::from([(name.clone(), WorkerConfig::new(name, all))])
}

#[cfg(test)]
mod tests;
