//! Which failed tasks get another chance, and what is said of the rest.

use std::collections::BTreeMap;
use std::time::Instant;

use rhubarb::core::backend::{Filter, TaskRecord};
use rhubarb::core::ids::TaskId;
use rhubarb::core::outcome::Failure;
use rhubarb::core::row::State;
use rhubarb::{Context, ContextError, Task, TaskError};
use serde::{Deserialize, Serialize};

/// Brings back silent tasks, gives failed ones another chance where that is asked for, and reports the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScanFailedJobs {
    /// How often one task may be redriven. 0, the default, only reports: a task that has spent its attempts
    /// has mostly earned a look by a human.
    pub redrive_max: u32,
    /// How many failed tasks to look at, the newest first; 10,000 at most.
    pub limit: usize,
}

impl Default for ScanFailedJobs {
    fn default() -> Self {
        Self { redrive_max: 0, limit: 100 }
    }
}

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScannedJobs {
    /// Silent tasks that were brought back, or given up.
    pub reaped: u64,
    /// Failed tasks that were looked at.
    pub failed: usize,
    /// Tasks that got another chance.
    pub redriven: Vec<TaskId>,
    /// The rest, by kind of task and kind of failure.
    pub left: Vec<FailedGroup>,
}

/// Failed tasks of one kind that failed in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedGroup {
    /// The kind of task.
    pub task: String,
    /// The kind of failure.
    pub failure: String,
    /// How many.
    pub count: usize,
    /// One of them, to look at.
    pub example: TaskId,
}

/// One scan looks at no more tasks than this.
pub(crate) const LIMIT_MAX: usize = 10_000;

impl ScanFailedJobs {
    /// Checks the limit.
    pub fn validate(&self) -> Result<(), InvalidLimit> {
        if (1..=LIMIT_MAX).contains(&self.limit) { Ok(()) } else { Err(InvalidLimit(self.limit)) }
    }
}

/// A limit that looks at nothing, or at too much for one scan.
#[derive(Debug, thiserror::Error)]
#[error("`limit` is {0}: use 1 to {LIMIT_MAX}")]
pub struct InvalidLimit(usize);

impl Task for ScanFailedJobs {
    const NAME: &'static str = "scan_failed_jobs";
    const QUEUE: &'static str = "maintenance";
    type Output = ScannedJobs;
}

/// Runs the task. Its queue must allow `sweep` and `redrive`.
pub async fn scan_failed_jobs(scan: ScanFailedJobs, cx: Context) -> Result<ScannedJobs, TaskError> {
    scan.validate().map_err(TaskError::fatal)?;
    let reaped = cx.sweep().await.map_err(final_if_forbidden)?.reaped;
    let failed = failed(scan.limit, &cx).await?;
    let Decision { redrive, left } = decide(&failed, scan.redrive_max);
    let mut redriven = Vec::new();
    for id in redrive {
        // What is left when time runs out is found by the next scan.
        if Instant::now() >= cx.soft_deadline() {
            break;
        }
        match cx.redrive(id).await {
            Ok(_) => redriven.push(id),
            // Somebody else was faster, or its record's time is over.
            Err(ContextError::Invalid(_) | ContextError::NotFound(_)) => {}
            Err(error) => return Err(final_if_forbidden(error)),
        }
    }
    Ok(ScannedJobs { reaped, failed: failed.len(), redriven, left })
}

/// The newest failed tasks, at most so many.
async fn failed(limit: usize, cx: &Context) -> Result<Vec<TaskRecord>, TaskError> {
    let mut filter = Filter { state: Some(State::Failed), limit, ..Filter::default() };
    let mut failed = Vec::new();
    loop {
        let page = cx.tasks(&filter).await?;
        failed.extend(page.items);
        failed.truncate(limit);
        if page.next.is_none() || failed.len() == limit {
            return Ok(failed);
        }
        filter.cursor = page.next;
        filter.limit = limit - failed.len();
    }
}

/// No attempt will be allowed what this one is not.
fn final_if_forbidden(error: ContextError) -> TaskError {
    match error {
        ContextError::NotAllowed(_) => TaskError::fatal(error),
        error => error.into(),
    }
}

/// What is to become of failed tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// These get another chance.
    pub redrive: Vec<TaskId>,
    /// These are reported.
    pub left: Vec<FailedGroup>,
}

/// Decides over failed tasks. What cannot be read will not be readable tomorrow: it is never redriven.
pub fn decide<'a>(failed: impl IntoIterator<Item = &'a TaskRecord>, redrive_max: u32) -> Decision {
    let mut redrive = Vec::new();
    let mut left: BTreeMap<(String, String), FailedGroup> = BTreeMap::new();
    for task in failed {
        let failure = task.failure.as_ref().map_or("unknown", |failure| &failure.kind);
        if task.redriven < redrive_max && failure != Failure::POISON {
            redrive.push(task.id);
            continue;
        }
        let (name, failure) = (task.task.to_string(), failure.to_owned());
        let group = left.entry((name.clone(), failure.clone()));
        group.or_insert(FailedGroup { task: name, failure, count: 0, example: task.id }).count += 1;
    }
    Decision { redrive, left: left.into_values().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhubarb::testing::Host;
    use serde_json::json;

    fn failed(number: u8, task: &str, failure: &str, redriven: u32) -> TaskRecord {
        let id = TaskId::from_bytes([number; 16]);
        let failure = Failure::new(failure, "as told");
        serde_json::from_value(json!({
            "id": id, "task": task, "queue": "training", "state": "failed", "attempt": 3, "submitted": 0, "queued_at": 0,
            "cancel_asked": false, "redriven": redriven, "interruptions": 0, "snoozes": 0, "failure": failure,
        }))
        .unwrap()
    }

    #[test]
    fn a_task_is_redriven_until_it_has_had_its_chances() {
        let tasks = [0, 1, 2, 3].map(|redriven| failed(redriven as u8, "train_model", "crashed", redriven));
        let decision = decide(&tasks, 2);
        assert_eq!(decision.redrive, [tasks[0].id, tasks[1].id]);
        assert_eq!(decision.left[0].count, 2);
    }

    #[test]
    fn by_default_nothing_is_redriven() {
        let tasks = [failed(1, "train_model", "crashed", 0)];
        assert_eq!(decide(&tasks, ScanFailedJobs::default().redrive_max).redrive, []);
    }

    #[test]
    fn what_cannot_be_read_is_never_redriven() {
        let tasks = [failed(1, "train_model", Failure::POISON, 0)];
        let decision = decide(&tasks, 9);
        assert_eq!((decision.redrive.len(), decision.left[0].failure.as_str()), (0, "poison"));
    }

    #[test]
    fn the_rest_is_reported_by_kind_of_task_and_failure() {
        let tasks = [
            failed(1, "train_model", "timeout", 0),
            failed(2, "run_evaluation", "crashed", 0),
            failed(3, "train_model", "timeout", 0),
            failed(4, "train_model", "crashed", 0),
        ];
        let left = decide(&tasks, 0).left;
        let rows: Vec<_> = left.iter().map(|g| (g.task.as_str(), g.failure.as_str(), g.count, g.example)).collect();
        let expected = [
            ("run_evaluation", "crashed", 1, tasks[1].id),
            ("train_model", "crashed", 1, tasks[3].id),
            ("train_model", "timeout", 2, tasks[0].id),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_limit_that_one_task_cannot_bear_is_refused() {
        for limit in [0, LIMIT_MAX + 1] {
            let refusal = ScanFailedJobs { limit, ..ScanFailedJobs::default() }.validate().unwrap_err().to_string();
            assert_eq!(refusal, format!("`limit` is {limit}: use 1 to 10000"));
        }
    }

    #[tokio::test]
    async fn the_task_sweeps_redrives_and_reports() {
        let tasks = [
            failed(1, "train_model", "crashed", 0),
            failed(2, "train_model", "crashed", 1),
            failed(3, "train_model", Failure::POISON, 0),
        ];
        let host = Host::new().with_tasks(tasks.clone());
        let scan = ScanFailedJobs { redrive_max: 1, ..ScanFailedJobs::default() };
        let scanned = host.run(scan_failed_jobs, scan).await.unwrap();
        assert_eq!((host.sweeps(), scanned.failed), (1, 3));
        assert_eq!((host.redriven(), scanned.redriven), (vec![tasks[0].id], vec![tasks[0].id]));
        assert_eq!(scanned.left.len(), 2);
    }

    #[tokio::test]
    async fn no_more_tasks_are_looked_at_than_the_limit_says() {
        let host = Host::new().with_tasks((0..10).map(|number| failed(number, "train_model", "crashed", 0)));
        let scan = ScanFailedJobs { redrive_max: 1, limit: 4 };
        let scanned = host.run(scan_failed_jobs, scan).await.unwrap();
        assert_eq!((scanned.failed, host.redriven().len()), (4, 4));
    }
}
