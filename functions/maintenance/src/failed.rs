//! Which failed jobs get another chance, and what is said of the rest.

use std::collections::BTreeMap;

use rhubarb_core::backend::TaskRecord;
use rhubarb_core::ids::TaskId;
use rhubarb_core::outcome::Failure;
use serde::{Deserialize, Serialize};

/// Brings back silent jobs, gives failed ones another chance where that is asked for, and reports the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScanFailedJobs {
    /// How often one job may be redriven. 0, the default, only reports: a job that has spent its attempts
    /// has mostly earned a look by a human.
    pub redrive_max: u32,
    /// How many failed jobs to look at, the newest first; 10,000 at most.
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
    /// Failed jobs that were looked at.
    pub failed: usize,
    /// Jobs that got another chance.
    pub redriven: Vec<TaskId>,
    /// The rest, by kind of job and kind of failure.
    pub left: Vec<FailedGroup>,
}

/// Failed jobs of one kind that failed in one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedGroup {
    /// The kind of job.
    pub task: String,
    /// The kind of failure.
    pub failure: String,
    /// How many.
    pub count: usize,
    /// One of them, to look at.
    pub example: TaskId,
}

/// The most jobs that one task looks at.
pub(crate) const LIMIT_MAX: usize = 10_000;

impl ScanFailedJobs {
    /// Checks the limit.
    pub fn validate(&self) -> Result<(), InvalidLimit> {
        if (1..=LIMIT_MAX).contains(&self.limit) { Ok(()) } else { Err(InvalidLimit(self.limit)) }
    }
}

/// A limit that looks at nothing, or at too much for one task.
#[derive(Debug, thiserror::Error)]
#[error("`limit` is {0}: use 1 to {LIMIT_MAX}")]
pub struct InvalidLimit(usize);

/// What is to become of failed jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// These get another chance.
    pub redrive: Vec<TaskId>,
    /// These are reported.
    pub left: Vec<FailedGroup>,
}

/// Decides over failed jobs. What cannot be read will not be readable tomorrow: it is never redriven.
pub fn decide<'a>(failed: impl IntoIterator<Item = &'a TaskRecord>, redrive_max: u32) -> Decision {
    let mut redrive = Vec::new();
    let mut left: BTreeMap<(String, String), FailedGroup> = BTreeMap::new();
    for job in failed {
        let failure = job.failure.as_ref().map_or("unknown", |failure| &failure.kind);
        if job.redriven < redrive_max && failure != Failure::POISON {
            redrive.push(job.id);
            continue;
        }
        let (task, failure) = (job.task.to_string(), failure.to_owned());
        let group = left.entry((task.clone(), failure.clone()));
        group.or_insert(FailedGroup { task, failure, count: 0, example: job.id }).count += 1;
    }
    Decision { redrive, left: left.into_values().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn a_job_is_redriven_until_it_has_had_its_chances() {
        let jobs = [0, 1, 2, 3].map(|redriven| failed(redriven as u8, "train_model", "crashed", redriven));
        let decision = decide(&jobs, 2);
        assert_eq!(decision.redrive, [jobs[0].id, jobs[1].id]);
        assert_eq!(decision.left[0].count, 2);
    }

    #[test]
    fn by_default_nothing_is_redriven() {
        let jobs = [failed(1, "train_model", "crashed", 0)];
        assert_eq!(decide(&jobs, ScanFailedJobs::default().redrive_max).redrive, []);
    }

    #[test]
    fn what_cannot_be_read_is_never_redriven() {
        let jobs = [failed(1, "train_model", Failure::POISON, 0)];
        let decision = decide(&jobs, 9);
        assert_eq!((decision.redrive.len(), decision.left[0].failure.as_str()), (0, "poison"));
    }

    #[test]
    fn the_rest_is_reported_by_kind_of_job_and_failure() {
        let jobs = [
            failed(1, "train_model", "timeout", 0),
            failed(2, "run_evaluation", "crashed", 0),
            failed(3, "train_model", "timeout", 0),
            failed(4, "train_model", "crashed", 0),
        ];
        let left = decide(&jobs, 0).left;
        let rows: Vec<_> = left.iter().map(|g| (g.task.as_str(), g.failure.as_str(), g.count, g.example)).collect();
        let expected = [
            ("run_evaluation", "crashed", 1, jobs[1].id),
            ("train_model", "crashed", 1, jobs[3].id),
            ("train_model", "timeout", 2, jobs[0].id),
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
}
