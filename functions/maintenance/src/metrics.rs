//! How many jobs are in which state, and how long the oldest has been there.

use rhubarb_core::backend::StateCount;
use rhubarb_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Writes counts and oldest ages of jobs, by queue and state, where dashboards find them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateJobMetrics {}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobMetrics {
    /// When the jobs were counted.
    pub at: Timestamp,
    /// By queue and state.
    pub states: Vec<StateMetric>,
}

/// The jobs of one queue in one state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateMetric {
    /// The queue.
    pub queue: String,
    /// The state.
    pub state: String,
    /// How many there are.
    pub count: u64,
    /// How long ago the oldest of them was accepted, while the state is one that jobs should leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_age_seconds: Option<u64>,
}

/// Turns the store's counts into metrics, in order of queue and state.
pub fn job_metrics(counts: &[StateCount], now: Timestamp) -> JobMetrics {
    let mut counts: Vec<&StateCount> = counts.iter().collect();
    counts.sort_by_key(|count| (count.queue.as_str(), count.state));
    let metric = |count: &StateCount| {
        // A settled job only gets older: its age would hide the ones that wait.
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
    use rhubarb_core::ids::QueueName;
    use rhubarb_core::row::State;

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
}
