//! Enqueues the tasks, each until it is accepted: a call whose answer got lost is repeated with the same ids.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use rhubarb::{ClientError, NewTask, TaskId};
use tokio::time::Instant;

use super::{function::Note, look::Watch, stage::Stage};
use crate::exit::Result;

/// Tasks of one call.
const WINDOW: u64 = 500;
const PAUSE: Duration = Duration::from_millis(200);
/// About so many tasks take longer than a lease, and so many a moment; the others take no time.
const LONG: u64 = 200;
const SHORT: u64 = 800;

/// Enqueues this many tasks, spread over this time. Returns once all are accepted.
pub(super) async fn produce(stage: &Stage, tasks: u64, spread: Duration, seen: &Watch) -> Result<()> {
    let began = Instant::now();
    let mut next = 0;
    while next < tasks {
        let due = match spread.as_secs_f64() {
            0.0 => tasks,
            spread => ((began.elapsed().as_secs_f64() / spread) * tasks as f64) as u64,
        };
        let end = due.min(tasks).min(next + WINDOW);
        if end <= next {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let mut open: Vec<u64> = (next..end).collect();
        while !open.is_empty() {
            let refused = enqueue(stage, &open, tasks).await?;
            seen.accepted(open.iter().copied().filter(|number| refused.binary_search(number).is_err()));
            open = refused;
            if !open.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        next = end;
    }
    Ok(())
}

/// Enqueues tasks and returns those of which the backend did not say that it has them.
async fn enqueue(stage: &Stage, numbers: &[u64], tasks: u64) -> Result<Vec<u64>> {
    let new: Vec<NewTask> = numbers.iter().map(|number| new_task(stage, *number, tasks)).collect();
    let answers: Vec<_> = stage.producer.enqueue_all(stream::iter(new)).collect().await;
    let mut refused = Vec::new();
    for (number, answer) in numbers.iter().zip(answers) {
        match answer {
            Ok(_) => {}
            Err(ClientError::Store(error)) if error.is_transient() => refused.push(*number),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(refused)
}

fn new_task(stage: &Stage, number: u64, tasks: u64) -> NewTask {
    let queue = stage.queues()[(number % stage.queues().len() as u64) as usize];
    let ms = how_long(number, tasks, stage.lease());
    let task = NewTask::new(&Note { number, ms }).queue(queue).id(stage.id(number));
    if number % 101 == 100 { task.delay(Duration::from_secs(2)) } else { task }
}

/// How many milliseconds a task takes. What takes long is so rare that the whole does not.
fn how_long(number: u64, tasks: u64, lease: Duration) -> u64 {
    let lease = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
    if number.is_multiple_of((tasks / LONG).max(50)) {
        lease + number % 7 * lease / 4
    } else if number % (tasks / SHORT).max(12) == 1 {
        20 + number % 280
    } else {
        0
    }
}

/// The id of a task of this stage.
pub(super) fn id(stage_key: u64, number: u64) -> TaskId {
    TaskId::from_bytes((u128::from(stage_key) << 64 | u128::from(number)).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_tasks_outlive_their_lease_and_most_take_no_time() {
        let lease = Duration::from_secs(2);
        for tasks in [1_000, 10_000, 1_000_000] {
            let times: Vec<u64> = (0..tasks).map(|number| how_long(number, tasks, lease)).collect();
            let long = times.iter().filter(|ms| **ms >= 2000).count() as u64;
            assert!((tasks.min(10_000) / 50..=LONG + 1).contains(&long), "{long} of {tasks}");
            assert!(times.iter().filter(|ms| **ms == 0).count() as u64 > tasks * 8 / 10);
        }
    }

    #[test]
    fn the_same_task_has_the_same_id_whoever_asks() {
        assert_eq!(id(1, 2), id(1, 2));
        assert_ne!(id(1, 2), id(2, 1));
    }
}
