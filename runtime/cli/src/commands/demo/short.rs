//! Short tasks that arrive at a steady rate, and how long each waited.

use std::{collections::BTreeMap, future::Future, sync::Mutex, time::Duration};

use rhubarb::Client;
use rhubarb_core::{backend::TaskDetail, ids::TaskId, row::State};
use serde::Serialize;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    play::{enqueue, lock},
    view::Row,
};
use crate::{
    exit::{CliError, Result},
    values::show_time,
};

/// One arrives this often.
const EVERY: Duration = Duration::from_millis(160);
/// So many arrive while trainings run, at least.
pub(super) const TASKS_MIN: usize = 200;
/// The kinds, in turn.
pub(super) const KINDS: [&str; 3] = ["update_job_metrics", "cleanup_checkpoints", "scan_failed_jobs"];
/// How often is looked at what is done.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A short task that is not done so long after the last one arrived will not come.
const LAST_WAIT: Duration = Duration::from_secs(60);
/// Records that one read brings.
const READ_MAX: usize = 100;

/// During what a short task arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum WaitsOf {
    /// While no training ran.
    Quiet,
    /// While trainings ran.
    Training,
}

/// A short task that is settled.
#[derive(Clone, Debug)]
pub(super) struct Short {
    pub(super) during: WaitsOf,
    pub(super) kind: &'static str,
    pub(super) queue: String,
    pub(super) state: State,
    pub(super) attempts: usize,
    pub(super) waited: Duration,
    pub(super) ran: Duration,
}

/// The short tasks of a demo.
pub(super) struct ShortTasks<'a> {
    client: &'a Client,
    open: Mutex<BTreeMap<TaskId, (WaitsOf, &'static str)>>,
    done: Mutex<Vec<Short>>,
}

impl<'a> ShortTasks<'a> {
    pub(super) const fn new(client: &'a Client) -> Self {
        Self { client, open: Mutex::new(BTreeMap::new()), done: Mutex::new(Vec::new()) }
    }

    /// Lets tasks arrive until `end`, and until there are enough.
    pub(super) async fn arrive(&self, during: WaitsOf, row: &Row, end: impl Future<Output = ()>) -> Result<()> {
        let mut ticks = interval(EVERY);
        // A late tick is made up for: the rate is what is promised.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut end = std::pin::pin!(end);
        let (mut ended, mut sent) = (false, 0_usize);
        let least = match during {
            WaitsOf::Quiet => 0,
            WaitsOf::Training => TASKS_MIN,
        };
        while !ended || sent < least {
            tokio::select! {
                () = &mut end, if !ended => ended = true,
                _ = ticks.tick() => {
                    let kind = KINDS[sent % KINDS.len()];
                    let id = enqueue(self.client, kind, &json!({})).await?;
                    // What still arrives after the end only makes up the number.
                    let during = if ended { WaitsOf::Quiet } else { during };
                    lock(&self.open).insert(id, (during, kind));
                    sent += 1;
                }
                _ = looks.tick() => self.look(row).await?,
            }
        }
        Ok(())
    }

    /// Waits for the last ones.
    pub(super) async fn finish(&self, row: &Row) -> Result<()> {
        let began = Instant::now();
        loop {
            self.look(row).await?;
            let left = lock(&self.open).len();
            if left == 0 {
                return Ok(());
            }
            if began.elapsed() > LAST_WAIT {
                return Err(CliError::Task(format!("{left} short tasks are not done")));
            }
            tokio::time::sleep(LOOK_EVERY / 5).await;
        }
    }

    /// Notes what is done by now.
    async fn look(&self, row: &Row) -> Result<()> {
        let open: Vec<TaskId> = lock(&self.open).keys().copied().collect();
        for ids in open.chunks(READ_MAX) {
            let found = self.client.backend().tasks().read(ids).await?;
            for detail in found.into_iter().flatten().filter(|detail| detail.record.state.is_settled()) {
                let Some((during, kind)) = lock(&self.open).remove(&detail.record.id) else { continue };
                lock(&self.done).push(Short::new(during, kind, &detail));
            }
        }
        let waits = Waits::new(lock(&self.done).iter().map(|short| short.waited));
        let (open, done) = (lock(&self.open).len(), lock(&self.done).len());
        row.say(&format!("{done} done, {open} open; waited p50 {}, p99 {}", waits.p50(), waits.p99()));
        Ok(())
    }

    /// What is settled.
    pub(super) fn done(&self) -> Vec<Short> {
        lock(&self.done).clone()
    }

    /// What is not known to be settled.
    pub(super) fn unsettled(&self) -> Vec<TaskId> {
        lock(&self.open).keys().copied().collect()
    }
}

impl Short {
    fn new(during: WaitsOf, kind: &'static str, detail: &TaskDetail) -> Self {
        let (waited, ran) = times(detail);
        let record = &detail.record;
        Self {
            during,
            kind,
            queue: record.queue.to_string(),
            state: record.state,
            attempts: detail.attempts.len(),
            waited,
            ran,
        }
    }
}

/// How long a task waited for its first attempt, and how long its attempts ran.
pub(super) fn times(detail: &TaskDetail) -> (Duration, Duration) {
    let submitted = detail.record.submitted;
    let settled = detail.record.settled;
    let first = detail.attempts.first().map(|attempt| attempt.started).or(settled).unwrap_or(submitted);
    let ran = |attempt: &rhubarb_core::backend::AttemptRecord| {
        attempt.ended.or(settled).unwrap_or(attempt.started).since(attempt.started)
    };
    (first.since(submitted), detail.attempts.iter().map(ran).sum())
}

/// Waiting times, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Waits(Vec<Duration>);

/// Waiting times in figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    tasks: usize,
    p50_ms: u128,
    p99_ms: u128,
    longest_ms: u128,
}

impl Waits {
    pub(super) fn new(waits: impl Iterator<Item = Duration>) -> Self {
        let mut waits: Vec<Duration> = waits.collect();
        waits.sort_unstable();
        Self(waits)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn p50(&self) -> String {
        show_time(self.percentile(50))
    }

    pub(super) fn p99(&self) -> String {
        show_time(self.percentile(99))
    }

    pub(super) fn longest(&self) -> Duration {
        self.percentile(100)
    }

    pub(super) fn figures(&self) -> Figures {
        let millis = |percent| self.percentile(percent).as_millis();
        Figures { tasks: self.count(), p50_ms: millis(50), p99_ms: millis(99), longest_ms: millis(100) }
    }

    /// The wait that so many percent do not exceed.
    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_wait_that_really_was() {
        let waits = Waits::new((1..=200).rev().map(Duration::from_millis));
        assert_eq!([waits.percentile(50), waits.percentile(99)].map(|wait| wait.as_millis()), [100, 198]);
        assert_eq!(waits.longest().as_millis(), 200);
        assert_eq!(Waits::default().p99(), "0ms");
    }
}
