//! How many tasks are in which state, and how long the oldest of them has been waiting.
//!
//! The store counts; no row is read. Two runs at once write the same figures: the later one stays.

use std::time::SystemTime;

use rhubarb::core::backend::StateCount;
use rhubarb::core::time::Timestamp;
use rhubarb::{Context, Task, TaskError};
use serde::{Deserialize, Serialize};

/// Writes counts and oldest ages of tasks, by queue and state, where dashboards find them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateJobMetrics {}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobMetrics {
    /// When the tasks were counted.
    pub at: Timestamp,
    /// By queue and state.
    pub states: Vec<StateMetric>,
}

/// The tasks of one queue in one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateMetric {
    /// The queue.
    pub queue: String,
    /// The state.
    pub state: String,
    /// How many there are.
    pub count: u64,
    /// How long ago the oldest of them was accepted, while the state is one that tasks should leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_age_seconds: Option<u64>,
}

impl Task for UpdateJobMetrics {
    const NAME: &'static str = "update_job_metrics";
    const QUEUE: &'static str = "maintenance";
    type Output = JobMetrics;
}

/// The key under which the metrics lie.
pub const METRICS_KEY: &str = "metrics/jobs.json";

/// Runs the task: the metrics go to the store and, as one line, to the log.
pub async fn update_job_metrics(_: UpdateJobMetrics, cx: Context) -> Result<JobMetrics, TaskError> {
    let metrics = job_metrics(&cx.count_tasks().await?, SystemTime::now().into());
    let json = serde_json::to_string(&metrics)?;
    println!("{json}");
    cx.blobs().put(METRICS_KEY, json).await?;
    Ok(metrics)
}

/// Turns the store's counts into metrics, in order of queue and state.
pub fn job_metrics(counts: &[StateCount], now: Timestamp) -> JobMetrics {
    let mut counts: Vec<&StateCount> = counts.iter().collect();
    counts.sort_by_key(|count| (count.queue.as_str(), count.state));
    let metric = |count: &StateCount| {
        // A settled task only gets older: its age would hide the ones that wait.
        let waiting_since = count.oldest.filter(|_| !count.state.is_settled());
        StateMetric {
            queue: count.queue.to_string(),
            state: count.state.to_string(),
            count: count.count,
            oldest_age_seconds: waiting_since.map(|oldest| now.since(oldest).as_secs()),
        }
    };
    JobMetrics { at: now, states: counts.into_iter().map(metric).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rhubarb::core::ids::QueueName;
    use rhubarb::core::row::State;
    use rhubarb::testing::Host;

    fn counted(queue: &str, state: State, count: u64, oldest: i64) -> StateCount {
        StateCount { queue: QueueName::new(queue).unwrap(), state, count, oldest: Some(Timestamp(oldest)) }
    }

    #[test]
    fn counts_become_metrics_in_order_of_queue_and_state() {
        let counts = [
            counted("training", State::Queued, 2, 1_000),
            counted("maintenance", State::Succeeded, 40, 0),
            counted("maintenance", State::Running, 1, 9_500),
        ];
        let metrics = job_metrics(&counts, Timestamp(10_000));
        let row = |at: usize| {
            let StateMetric { queue, state, count, oldest_age_seconds } = &metrics.states[at];
            (queue.as_str(), state.as_str(), *count, *oldest_age_seconds)
        };
        assert_eq!(row(0), ("maintenance", "running", 1, Some(0)));
        assert_eq!(row(1), ("maintenance", "succeeded", 40, None));
        assert_eq!(row(2), ("training", "queued", 2, Some(9)));
    }

    #[test]
    fn a_clock_behind_the_stores_gives_no_negative_age() {
        let metrics = job_metrics(&[counted("training", State::Queued, 1, 5_000)], Timestamp(4_000));
        assert_eq!(metrics.states[0].oldest_age_seconds, Some(0));
    }

    #[tokio::test]
    async fn the_task_writes_its_output_where_dashboards_find_it() {
        let host = Host::new().with_counts([counted("training", State::Queued, 2, 0)]);
        let metrics = host.run(update_job_metrics, UpdateJobMetrics {}).await.unwrap();
        assert_eq!((metrics.states[0].queue.as_str(), metrics.states[0].count), ("training", 2));
        let written: JobMetrics = serde_json::from_slice(&host.blob("metrics/jobs.json").unwrap()).unwrap();
        assert_eq!(written, metrics);
    }
}
