//! Which checkpoints have outlived their use.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use rhubarb::core::backend::{BlobInfo, BlobKey};
use rhubarb::core::time::Timestamp;
use rhubarb::{Context, Task, TaskError};
use serde::{Deserialize, Serialize};

/// Removes checkpoints that are old and have newer ones of the same task.
///
/// A task that runs for days lives by its newest checkpoint, however old: `keep_last` protects it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CleanupCheckpoints {
    /// Checkpoints written longer ago may go.
    pub max_age_seconds: u64,
    /// So many of each task stay, whatever their age: the newest; 1 at least.
    pub keep_last: usize,
}

impl Default for CleanupCheckpoints {
    fn default() -> Self {
        Self { max_age_seconds: 7 * 24 * 60 * 60, keep_last: 1 }
    }
}

impl CleanupCheckpoints {
    /// Checks that a task keeps what it would go on from.
    pub fn validate(&self) -> Result<(), KeepsNothing> {
        if self.keep_last > 0 { Ok(()) } else { Err(KeepsNothing) }
    }
}

/// A policy that would take from a running task what it needs to go on.
#[derive(Debug, thiserror::Error)]
#[error("`keep_last` is 0: use 1 or more, for a task goes on from its newest checkpoint")]
pub struct KeepsNothing;

/// What was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanedUp {
    /// Checkpoints that the policy gives up.
    pub outdated: usize,
    /// Those of them that are gone now; the next run finds the rest.
    pub removed: usize,
    /// Their size.
    pub freed_bytes: u64,
}

impl Task for CleanupCheckpoints {
    const NAME: &'static str = "cleanup_checkpoints";
    const QUEUE: &'static str = "maintenance";
    type Output = CleanedUp;
}

/// One run removes no more than this: it has seconds, and there is a next one.
const REMOVALS_MAX: usize = 1_000;

/// Runs the task, until its time is nearly over.
pub async fn cleanup_checkpoints(policy: CleanupCheckpoints, cx: Context) -> Result<CleanedUp, TaskError> {
    policy.validate().map_err(TaskError::fatal)?;
    let blobs = cx.blobs().list("tasks").await?;
    let outdated = outdated(&blobs, &policy, SystemTime::now().into());
    let mut done = CleanedUp { outdated: outdated.len(), removed: 0, freed_bytes: 0 };
    for checkpoint in outdated.into_iter().take(REMOVALS_MAX) {
        if Instant::now() >= cx.soft_deadline() {
            break;
        }
        cx.blobs().delete(checkpoint.key.as_str()).await?;
        done.removed += 1;
        done.freed_bytes += checkpoint.size;
    }
    Ok(done)
}

/// The checkpoints among `blobs` that the policy gives up, the oldest first. Other blobs are left alone.
pub fn outdated<'a>(blobs: &'a [BlobInfo], policy: &CleanupCheckpoints, now: Timestamp) -> Vec<&'a BlobInfo> {
    let mut by_task: HashMap<&str, Vec<&BlobInfo>> = HashMap::new();
    for blob in blobs {
        if let Some(task) = task_of(&blob.key) {
            by_task.entry(task).or_default().push(blob);
        }
    }
    let written_before = now.before(Duration::from_secs(policy.max_age_seconds));
    let mut outdated = Vec::new();
    for mut checkpoints in by_task.into_values() {
        // Of two written in one moment the later name is the newer: hosts name them by time.
        checkpoints.sort_by(|a, b| (b.modified, &b.key).cmp(&(a.modified, &a.key)));
        let superseded = checkpoints.into_iter().skip(policy.keep_last);
        outdated.extend(superseded.filter(|blob| blob.modified < written_before));
    }
    outdated.sort_by(|a, b| (a.modified, &a.key).cmp(&(b.modified, &b.key)));
    outdated
}

/// The task whose checkpoint this is: `tasks/TASK/FENCE/checkpoint-NAME`.
fn task_of(key: &BlobKey) -> Option<&str> {
    let mut parts = key.as_str().split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("tasks"), Some(task), Some(_fence), Some(name), None) if name.starts_with("checkpoint-") => Some(task),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhubarb::testing::Host;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn blob(key: &str, age_seconds: u64) -> BlobInfo {
        let modified = NOW.before(Duration::from_secs(age_seconds));
        BlobInfo { key: BlobKey::new(key).unwrap(), size: 10, modified }
    }

    fn keys(blobs: &[BlobInfo], max_age_seconds: u64, keep_last: usize) -> Vec<&str> {
        let policy = CleanupCheckpoints { max_age_seconds, keep_last };
        outdated(blobs, &policy, NOW).into_iter().map(|blob| blob.key.as_str()).collect()
    }

    #[test]
    fn old_checkpoints_go_and_the_newest_of_each_task_stays() {
        let blobs = [
            blob("tasks/a/1/checkpoint-x", 300),
            blob("tasks/a/2/checkpoint-x", 200),
            blob("tasks/a/3/checkpoint-x", 100),
            blob("tasks/b/1/checkpoint-x", 400),
        ];
        assert_eq!(keys(&blobs, 60, 1), ["tasks/a/1/checkpoint-x", "tasks/a/2/checkpoint-x"]);
        assert_eq!(keys(&blobs, 60, 2), ["tasks/a/1/checkpoint-x"]);
    }

    #[test]
    fn young_checkpoints_stay() {
        let blobs =
            [blob("tasks/a/1/checkpoint-x", 61), blob("tasks/a/2/checkpoint-x", 60), blob("tasks/a/3/checkpoint-x", 0)];
        assert_eq!(keys(&blobs, 60, 1), ["tasks/a/1/checkpoint-x"]);
        assert_eq!(keys(&blobs, u64::MAX, 1), Vec::<&str>::new());
    }

    #[test]
    fn a_policy_that_keeps_nothing_is_refused() {
        let policy = CleanupCheckpoints { keep_last: 0, ..CleanupCheckpoints::default() };
        assert!(policy.validate().unwrap_err().to_string().starts_with("`keep_last` is 0"));
    }

    #[test]
    fn what_is_no_checkpoint_is_left_alone() {
        let blobs = [
            blob("tasks/a/1/output", 900),
            blob("tasks/a/0/arguments", 900),
            blob("models/checkpoint-x", 900),
            blob("tasks/a/checkpoint-x", 900),
            blob("tasks/a/1/checkpoint-x/y", 900),
        ];
        assert_eq!(keys(&blobs, 60, 0), Vec::<&str>::new());
    }

    #[tokio::test]
    async fn the_task_removes_what_the_policy_gives_up_and_nothing_else() {
        let keys = ["tasks/a/1/checkpoint-1", "tasks/a/1/checkpoint-2", "tasks/a/1/output", "models/m"];
        let host = keys.into_iter().fold(Host::new(), |host, key| host.with_blob(key, "12345"));
        let done = host.run(cleanup_checkpoints, CleanupCheckpoints::default()).await.unwrap();
        assert_eq!(done, CleanedUp { outdated: 1, removed: 1, freed_bytes: 5 });
        assert_eq!(host.blob_keys(), ["models/m", "tasks/a/1/checkpoint-2", "tasks/a/1/output"]);
    }

    #[tokio::test]
    async fn a_run_whose_time_is_over_leaves_the_rest_to_the_next() {
        let host = Host::new().with_timeout(Duration::ZERO);
        let host = host.with_blob("tasks/a/1/checkpoint-1", "1").with_blob("tasks/a/1/checkpoint-2", "2");
        let done = host.run(cleanup_checkpoints, CleanupCheckpoints::default()).await.unwrap();
        assert_eq!(done, CleanedUp { outdated: 1, removed: 0, freed_bytes: 0 });
    }
}
